"""Addresses: one lease per (network, offset) in run.db, so that several processes never give one out twice.

The database is the arbiter (``BEGIN IMMEDIATE`` and the primary key). A next-fit cursor makes an address that was
given back the last to be used again: a peer's stale ARP entry or connection does not meet a stranger.
"""

from __future__ import annotations

import ipaddress
import sqlite3

from core.errors import Conflict, InvalidArgument
from core.model import EndpointInfo, Network

_FIRST = 2  # offset 0 is the network's own address, 1 the gateway's


def _offset_of(ip: str, subnet: ipaddress.IPv4Network) -> int:
    try:
        address = ipaddress.IPv4Address(ip)
    except ValueError:
        raise InvalidArgument(f"invalid address {ip!r}", "it is not an IPv4 address", f"Use one of {subnet}") from None
    offset = int(address) - int(subnet.network_address)
    if address not in subnet or not _FIRST <= offset < subnet.num_addresses - 1:
        raise InvalidArgument(
            f"address {ip} cannot be used",
            f"the network is {subnet}; its first two addresses and its last are reserved",
            "Choose another address",
        )
    return offset


def _take(con: sqlite3.Connection, network: str, offset: int, cid: str) -> bool:
    done = con.execute(
        "INSERT OR IGNORE INTO lease (network, offset, container) VALUES (?, ?, ?)", (network, offset, cid)
    )
    return done.rowcount == 1


def _next(con: sqlite3.Connection, network: Network, size: int, cid: str) -> int:
    row = con.execute("SELECT offset FROM cursor WHERE network = ?", (network.id,)).fetchone()
    start = row[0] + 1 if row else _FIRST
    count = size - 1 - _FIRST
    for step in range(count):
        offset = _FIRST + (start - _FIRST + step) % count
        if _take(con, network.id, offset, cid):
            con.execute("INSERT OR REPLACE INTO cursor (network, offset) VALUES (?, ?)", (network.id, offset))
            return offset
    raise Conflict(
        f"network {network.name} has no free address",
        f"all {count} of {network.subnet} are in use",
        "Remove containers, or use a network with a larger subnet",
    )


def mac_of(ip: str) -> str:
    """``02:42:`` and the address: locally administered, and the same for the same address."""
    return "02:42:" + ":".join(f"{byte:02x}" for byte in ipaddress.IPv4Address(ip).packed)


def allocate(con: sqlite3.Connection, network: Network, cid: str, interface: str, ip: str | None) -> EndpointInfo:
    """Lease an address and record the endpoint; the caller holds the write transaction.

    :raises Conflict: the address, or every address, is taken
    :raises InvalidArgument: ``ip`` is no usable address of the network
    """
    subnet = ipaddress.IPv4Network(network.subnet)
    if ip is None:
        offset = _next(con, network, subnet.num_addresses, cid)
    else:
        offset = _offset_of(ip, subnet)
        if not _take(con, network.id, offset, cid):
            holder = con.execute(
                "SELECT container FROM lease WHERE network = ? AND offset = ?", (network.id, offset)
            ).fetchone()[0]
            raise Conflict(f"address {ip} is in use", f"container {holder[:12]} has it", "Choose another address")
    address = str(subnet[offset])
    info = EndpointInfo(network.name, address, subnet.prefixlen, network.gateway, mac_of(address), interface)
    con.execute(
        "INSERT INTO endpoint (container, network, ip, prefix_len, gateway, mac, interface)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (cid, network.id, address, subnet.prefixlen, network.gateway, info.mac, interface),
    )
    return info


def release(con: sqlite3.Connection, cid: str) -> None:
    """Forget all leases and endpoints of the container."""
    con.execute("DELETE FROM endpoint WHERE container = ?", (cid,))
    con.execute("DELETE FROM lease WHERE container = ?", (cid,))
