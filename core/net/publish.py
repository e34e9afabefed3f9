"""Ports of a container opened and closed: rows, reservations, elements of the table; all of them, or none."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from socket import socket

from core.errors import Conflict, Unsupported
from core.kernel.netlink import NetlinkError
from core.model import EndpointInfo, PortMapping
from core.net import firewall, flows, ipam, ports
from core.net.host import Host
from core.net.ruleset import Port
from core.net.serving import Order, orders
from core.net.step import step
from core.store import config

# Somebody has flushed the table; or it leads one of the ports elsewhere, and no row does: a process was killed then.
_NOT_OURS = (errno.ENOENT, errno.EBUSY, errno.EEXIST)
_MOST_PROXIED = 500  # each is two sockets, which its monitor and the launcher hold


@dataclass(frozen=True)
class Published:
    """Ports as really bound, and the sockets that reserve them on the host, by name; the caller owns those."""

    ports: tuple[PortMapping, ...]
    sockets: dict[str, socket] = field(default_factory=dict)

    def close(self) -> None:
        """Give the reservations up."""
        for held in self.sockets.values():
            held.close()


def way_in(host: Host, ends: Sequence[EndpointInfo], mappings: Iterable[PortMapping]) -> ports.Way:
    """Where the ports of a container with these places lead to: to the network by which it answers, if that is a
    bridge of ours, else to the first one that is.

    :raises Conflict: there is none
    """
    ways = ipam.ways_out(ends)
    found = []
    for end in (*ways, *(end for end in ends if end not in ways)):
        network = host.known(end.network_id or end.network)
        if network is not None and network.driver == "bridge" and not network.internal:
            found.append((end, network))
    if not found:
        raise no_way([end.network for end in ends])
    usual = ""
    if not all(mapping.host_ip for mapping in mappings):
        usual = found[0][1].publish_address or config.load().publish_address
        usual = ports.address(usual) if usual else ""
        usual = "" if usual == ports.ANY4 and not found[0][0].ip else usual
    ip = next((end.ip for end, _ in found if end.ip), "")
    return ports.Way(ip, next((end.ip6 for end, _ in found if end.ip6), ""), usual)


def no_way(networks: Sequence[str]) -> Conflict:
    """Of a container all of whose networks are of other kinds."""
    return Conflict(
        "ports cannot be published",
        f"of its networks ({', '.join(networks)}) none is a bridge with a way in: internal ones have none, and "
        "on macvlan and ipvlan a container is a host of its own",
        "Leave out -p, or add a bridge network: --network bridge",
    )


def publish(
    host: Host, cid: str, ends: Sequence[EndpointInfo], mappings: Iterable[PortMapping], kept: Collection[str] = ()
) -> Published:
    """All of the ports, or none.

    :param kept: names of reservations that the container's monitor has already
    :raises PortTaken: a container or a process has one of them
    :raises InvalidArgument: not a port, protocol or address of this host
    :raises Conflict: no network of the container has a way in
    """
    wanted = ports.check(mappings)
    claims = None
    try:
        with step("publish ports", cid):
            way = way_in(host, ends, wanted)
            if not host.is_outside:
                _check_proxied(wanted)
            with host.store.run.write() as con:
                claims = ports.Claims(con, cid, way, host.name_of, kept, host.reserve)
                # Those that somebody named first: a port that the kernel may choose must not be one of them.
                made = {
                    m: claims.take(m) for m in sorted(wanted, key=lambda m: (not m.host_port, m.host_port_last > 0))
                }
                _open(host, con, claims.ports)
    except BaseException:
        if claims is not None:
            claims.close()
        raise
    return Published(tuple(one for m in wanted for one in made[m]), claims.sockets)


def _check_proxied(wanted: Collection[PortMapping]) -> None:
    """:raises Unsupported: a proxy cannot serve them all"""
    what = "SCTP" if any(mapping.protocol == "sctp" for mapping in wanted) else ""
    if what or len(wanted) > _MOST_PROXIED:
        raise Unsupported(
            f"an ordinary user's container cannot publish {what or f'{len(wanted)} ports'}",
            f"its ports are served by a proxy, which knows TCP and UDP, and {_MOST_PROXIED} ports at most",
            "Publish others, or run wharf as root",
        )


def _open(host: Host, con: sqlite3.Connection, new: list[Port]) -> None:
    try:
        try:
            firewall.publish(host.netfilter, host.inst.nft_table, new)
        except NetlinkError as error:
            if error.errno not in _NOT_OURS:
                raise
            host.rebuild(con)  # the new rows are there already
        flows.forget_stale(host.netfilter, new)
    except BaseException:
        # The rows are rolled back by our caller; an element that outlived them would send callers to a stranger.
        with contextlib.suppress(OSError):
            firewall.unpublish(host.netfilter, host.inst.nft_table, new)
        raise


def unpublish(host: Host, cid: str, gone: Collection[PortMapping]) -> list[str]:
    """Close ports of a container that goes on, and end the connections that came by them. Those that it has not are no
    error.

    :param gone: as they are bound
    :returns: names of the reservations that are not needed any more
    """
    keys = {(m.protocol, m.host_ip, m.host_port) for m in gone}
    with step("unpublish ports", cid), host.store.run.write() as con:
        rows = [port for port in ports.of_container(con, cid) if port[:3] in keys]
        firewall.unpublish(host.netfilter, host.inst.nft_table, rows)
        flows.forget_ports(host.netfilter, rows)
        ports.forget(con, cid, rows)
    return [ports.held_name(*key) for key in keys]


def move(host: Host, cid: str, ends: Sequence[EndpointInfo], bound: Sequence[PortMapping]) -> list[PortMapping]:
    """Have the ports of a container that runs lead to where it is reached now; returns those that still do.

    :param ends: its places from now on
    """
    try:
        way = way_in(host, ends, ())
    except Conflict:
        way = ports.Way()
    with step("move the ports", cid), host.store.run.write() as con:
        before = set(ports.of_container(con, cid))
        wanted = {
            Port(m.protocol, m.host_ip, m.host_port, address, m.container_port): m
            for m in bound
            if (address := ports.target(m.host_ip, way))
        }
        stale = before - wanted.keys()
        firewall.unpublish(host.netfilter, host.inst.nft_table, stale)
        flows.forget_ports(host.netfilter, stale)
        ports.forget(con, cid, stale)
        new = wanted.keys() - before
        for port in new:
            ports.insert(con, cid, port)
        _open(host, con, list(new))
    return [wanted[port] for port in wanted]


def serving(host: Host, cid: str) -> list[Order]:
    """What the container's proxy is to listen on now."""
    rows = list(ports.parse(host.store.run.read("SELECT * FROM port WHERE container = ?", (cid,))))
    ip = ""
    if any(":" in row.container_ip for row in rows):
        ends = host.store.run.read("SELECT * FROM endpoint WHERE container = ?", (cid,))
        with contextlib.suppress(Conflict):  # it leaves its last network just now
            ip = way_in(host, [ipam.parse(end) for end in ends], ()).ip
    return orders(rows, every=not host.is_outside, ip=ip)


def published(host: Host, cid: str) -> list[PortMapping]:
    """What is open for a container at this moment."""
    rows = ports.parse(host.store.run.read("SELECT * FROM port WHERE container = ?", (cid,)))
    return [PortMapping(port.container_port, port.host_port, port.protocol, port.host_ip) for port in rows]
