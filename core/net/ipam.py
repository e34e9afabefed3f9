"""Addresses: one lease per (network, address) in run.db, so that several processes never give one out twice.

The database is the arbiter (``BEGIN IMMEDIATE`` and the primary key). A next-fit cursor makes an address that was
given back the last to be used again: a peer's stale ARP entry or connection does not meet a stranger.
"""

from __future__ import annotations

import ipaddress
import json
import sqlite3
from collections.abc import Iterable
from dataclasses import replace

from core.errors import Conflict, InvalidArgument
from core.model import EndpointInfo, EndpointSpec, Network, Subnet
from core.store.codec import from_plain, to_plain

Range = ipaddress.IPv4Network | ipaddress.IPv6Network
_MOST = 1 << 62  # addresses of one subnet that are given out by themselves: SQLite's integers have 63 bits


def network_of(subnet: Subnet) -> Range:
    return ipaddress.ip_network(subnet.subnet)


def reserved(subnet: Subnet) -> set[int]:
    """Addresses that no container gets: the network's own, its last one in IPv4, the gateway's, other hosts'."""
    whole = network_of(subnet)
    found = {int(ipaddress.ip_address(text)) for text in (subnet.gateway, *subnet.reserved.values()) if text}
    if whole.prefixlen < whole.max_prefixlen - 1:  # RFC 3021, RFC 6164: of two addresses both are hosts
        found.add(int(whole.network_address))
        if whole.version == 4:
            found.add(int(whole.broadcast_address))
    return found


def _check(text: str, subnets: tuple[Subnet, ...]) -> tuple[str, Subnet]:
    """The address as it is written properly, and its subnet.

    :raises InvalidArgument: none of them can give it
    """
    names = ", ".join(one.subnet for one in subnets)
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidArgument(f"invalid address {text!r}", "it is not an IP address", f"Use one of {names}") from None
    for subnet in subnets:
        if address in network_of(subnet):
            if int(address) in reserved(subnet):
                raise InvalidArgument(
                    f"address {address} cannot be used", _why_reserved(address, subnet), "Choose another address"
                )
            return str(address), subnet
    raise InvalidArgument(
        f"address {address} cannot be used",
        f"the network has {names}" if names else f"the network has no IPv{address.version} subnet",
        "Choose another address",
    )


def _why_reserved(address: ipaddress.IPv4Address | ipaddress.IPv6Address, subnet: Subnet) -> str:
    if str(address) == subnet.gateway:
        return f"it is the gateway of {subnet.subnet}"
    for name, other in subnet.reserved.items():
        if ipaddress.ip_address(other) == address:
            return f"it is reserved for {name}"
    return f"it is the first or last of {subnet.subnet}, which stand for the network and for all its hosts"


def _take(con: sqlite3.Connection, network: str, address: str, cid: str) -> bool:
    done = con.execute(
        "INSERT OR IGNORE INTO lease (network, address, container) VALUES (?, ?, ?)", (network, address, cid)
    )
    return done.rowcount == 1


def _next(con: sqlite3.Connection, network: Network, subnet: Subnet, cid: str) -> str | None:
    """The next free address of the subnet's range; None where there is none."""
    whole = ipaddress.ip_network(subnet.ip_range or subnet.subnet)
    kind = ipaddress.IPv4Address if whole.version == 4 else ipaddress.IPv6Address
    first, count = int(whole.network_address), min(whole.num_addresses, _MOST)
    row = con.execute(
        "SELECT offset FROM cursor WHERE network = ? AND subnet = ?", (network.id, subnet.subnet)
    ).fetchone()
    start = row[0] + 1 if row else 0
    never = reserved(subnet)
    for step in range(count):
        offset = (start + step) % count
        if first + offset in never:
            continue
        address = str(kind(first + offset))
        if _take(con, network.id, address, cid):
            con.execute("INSERT OR REPLACE INTO cursor VALUES (?, ?, ?)", (network.id, subnet.subnet, offset))
            return address
    return None


def _lease(con: sqlite3.Connection, network: Network, version: int, cid: str, wanted: str) -> tuple[str, int, str]:
    """Address, prefix length and gateway of one version; empty where the network has none.

    :raises Conflict: the address, or every address, is taken
    :raises InvalidArgument: ``wanted`` is no usable address of the network
    """
    subnets = network.of_version(version)
    if wanted:
        address, subnet = _check(wanted, subnets)
        if not _take(con, network.id, address, cid):
            holder = con.execute(
                "SELECT container FROM lease WHERE network = ? AND address = ?", (network.id, address)
            ).fetchone()[0]
            raise Conflict(f"address {address} is in use", f"container {holder[:12]} has it", "Choose another address")
        return address, network_of(subnet).prefixlen, subnet.gateway
    for subnet in subnets:
        found = _next(con, network, subnet, cid)
        if found is not None:
            return found, network_of(subnet).prefixlen, subnet.gateway
    if subnets:
        ranges = ", ".join(one.ip_range or one.subnet for one in subnets)
        raise Conflict(
            f"network {network.name} has no free address",
            f"all of {ranges} are in use",
            "Remove containers, or use a network with a larger subnet",
        )
    return "", 0, ""


def mac_of(ip: str) -> str:
    """``02:42:`` and the address (of IPv6 its last 32 bits): locally administered, the same for the same address."""
    return "02:42:" + ":".join(f"{byte:02x}" for byte in ipaddress.ip_address(ip).packed[-4:])


def allocate(
    con: sqlite3.Connection, network: Network, cid: str, info: EndpointInfo, want: EndpointSpec
) -> EndpointInfo:
    """Lease addresses and record the endpoint; the caller holds the write transaction.

    :param info: what is decided already: the names of the interface
    :raises Conflict: an address, or every address, is taken
    :raises InvalidArgument: a wanted address is none of the network's
    """
    ip, prefix, gateway = _lease(con, network, 4, cid, want.ip)
    ip6, prefix6, gateway6 = _lease(con, network, 6, cid, want.ip6)
    if network.internal:
        gateway = gateway6 = ""  # there is no way out
    info = replace(
        info,
        network=network.name, network_id=network.id, mac=want.mac or mac_of(ip or ip6), priority=want.priority,
        aliases=want.aliases, rate=want.rate, sysctls=want.sysctls, ip=ip, prefix_len=prefix, gateway=gateway,
        ip6=ip6, prefix_len6=prefix6, gateway6=gateway6,
    )  # fmt: skip
    con.execute(
        "INSERT INTO endpoint (container, network, interface, info) VALUES (?, ?, ?, ?)",
        (cid, network.id, info.interface, json.dumps(to_plain(info), separators=(",", ":"))),
    )
    return info


def parse(row: sqlite3.Row) -> EndpointInfo:
    """A row of the table ``endpoint``."""
    return from_plain(EndpointInfo, json.loads(row["info"]))


def ways_out(ends: Iterable[EndpointInfo]) -> list[EndpointInfo]:
    """Those with a gateway, the best first: by priority, then by the interface's name (eth2 before eth10)."""
    found = [end for end in ends if end.gateway or end.gateway6]
    return sorted(found, key=lambda end: (-end.priority, len(end.name), end.name))


def release(con: sqlite3.Connection, cid: str, network: str | None = None) -> None:
    """Forget the container's leases and endpoints: all, or those on one network (its id)."""
    for table in ("endpoint", "lease"):
        if network is None:
            con.execute(f"DELETE FROM {table} WHERE container = ?", (cid,))
        else:
            con.execute(f"DELETE FROM {table} WHERE container = ? AND network = ?", (cid, network))
