"""Published ports: checked, spread over the addresses that were asked for, and claimed in the database.

A mapping becomes one row for each version of IP; all rows of a mapping have the same host port.
"""

from __future__ import annotations

import ipaddress
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from socket import socket

from core.errors import InvalidArgument, PortTaken
from core.model import PortMapping
from core.net.reserve import describe, reserve
from core.net.ruleset import PROTOCOLS, Port

ANY4, ANY6, LOCALHOST6 = "0.0.0.0", "::", "::1"
_ATTEMPTS = 64
_KEPT = 512  # sockets for one container: each is a descriptor here, in the launcher and in the monitor


def check(mappings: Iterable[PortMapping]) -> list[PortMapping]:
    """The mappings with addresses written properly, doubles removed.

    :raises InvalidArgument: not a port, protocol or address
    """
    return list(dict.fromkeys(_check(m) for m in mappings))


def _check(mapping: PortMapping) -> PortMapping:
    if mapping.protocol not in PROTOCOLS:
        raise InvalidArgument(
            f"cannot publish protocol {mapping.protocol!r}", "there are tcp, udp and sctp", "Write it like 8080:80/udp"
        )
    last = mapping.host_port_last
    if not 1 <= mapping.container_port <= 65535 or not 0 <= mapping.host_port <= 65535:
        raise InvalidArgument(
            f"invalid port {mapping.host_port}:{mapping.container_port}", "ports go from 1 to 65535", "Choose another"
        )
    if last and not 1 <= mapping.host_port <= last <= 65535:
        raise InvalidArgument(f"invalid range {mapping.host_port}-{last}", "ports go from 1 to 65535", "Say 8000-8010")
    if not mapping.host_ip:
        return mapping
    return replace(mapping, host_ip=address(mapping.host_ip))


def address(text: str) -> str:
    """An address to publish on, written properly. :raises InvalidArgument: it is none"""
    try:
        found = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        raise InvalidArgument(
            f"invalid host address {text!r}", "it is not an IP address", "Write it like 127.0.0.1:8080:80"
        ) from None
    if isinstance(found, ipaddress.IPv6Address) and (found.ipv4_mapped or found.scope_id):
        raise InvalidArgument(f"invalid host address {text}", "it is no address of its own", "Leave out % or ::ffff:")
    return str(found)


def overlap(one: PortMapping, other: PortMapping) -> bool:
    """May both not be on one host, whatever they lead to? Of ports that the kernel is to choose nobody knows yet."""
    if one.protocol != other.protocol or not one.host_port or not other.host_port:
        return False
    if one.host_port_last or other.host_port_last:
        return False  # there may be a free one
    return one.host_port == other.host_port and any(
        meet(mine, theirs) for mine in _families(one.host_ip) for theirs in _families(other.host_ip)
    )


def _families(host_ip: str) -> tuple[str, ...]:
    return ("", ANY6) if not host_ip else ("",) if host_ip == ANY4 else (host_ip,)


def meet(one: str, other: str) -> bool:
    """Do two rows' addresses meet?"""
    return one == other or ((":" in one) == (":" in other) and ("" in (one, other) or ANY6 in (one, other)))


# ─ where to, and from where ─


@dataclass(frozen=True)
class Way:
    """Where published ports lead to: the container's addresses, and the host's by which they are reached where a
    mapping names none ("": all)."""

    ip: str = ""
    ip6: str = ""
    usual: str = ""


def rows_of(mapping: PortMapping, way: Way) -> tuple[str, ...]:
    """The addresses of its rows.

    :raises InvalidArgument: the container has no address of that version
    """
    wanted = mapping.host_ip or way.usual
    if not wanted:
        return (*([""] if way.ip else []), *([ANY6] if way.ip6 else []))
    if wanted == LOCALHOST6:
        return (wanted,)
    version = 6 if ":" in wanted else 4
    if not (way.ip if version == 4 else way.ip6):
        raise InvalidArgument(
            f"cannot publish on {wanted}",
            f"the container has no IPv{version} address",
            "Use an address of the other version, [::1], or a network with both: wharf network create --ipv6",
        )
    return ("",) if wanted == ANY4 else (wanted,)


def target(host_ip: str, way: Way) -> str:
    """Which of the container's addresses a row leads to."""
    if host_ip == LOCALHOST6:
        return way.ip6 or way.ip
    return way.ip6 if ":" in host_ip else way.ip


# ─ claims ─


def held_name(protocol: str, host_ip: str, number: int) -> str:
    """What the descriptor of a reservation is called, with the monitor that keeps it."""
    return f"hold {protocol} {host_ip or ANY4} {number}"


class Claims:
    """Ports being taken for one container. The caller holds the write transaction of ``con``.

    :param name_of: container id → name, for messages
    :param kept: names of reservations that its monitor has already
    :param reserve: :func:`core.net.reserve.reserve`, in the host's network
    """

    def __init__(
        self,
        con: sqlite3.Connection,
        cid: str,
        way: Way,
        name_of: Callable[[str], str],
        kept: Collection[str] = (),
        reserve: Callable[[str, str, int], tuple[int, socket | None]] = reserve,
    ) -> None:
        self._con = con
        self._cid = cid
        self._way = way
        self._name_of = name_of
        self._kept = kept
        self._reserve = reserve
        self.sockets: dict[str, socket] = {}
        self.ports: list[Port] = []

    def close(self) -> None:
        """Give the reservations up."""
        for held in self.sockets.values():
            held.close()
        self.sockets = {}

    def take(self, mapping: PortMapping) -> list[PortMapping]:
        """As really bound, one for each version of IP.

        :raises PortTaken: by a container or a process
        :raises InvalidArgument: the host, or the container, has no such address
        """
        rows = rows_of(mapping, self._way)
        last = mapping.host_port_last or mapping.host_port
        numbers: Sequence[int] = range(mapping.host_port, last + 1) if mapping.host_port else (0,) * _ATTEMPTS
        for attempt, number in enumerate(numbers, 1):
            try:
                return self._take(mapping, rows, number)
            except PortTaken as error:
                if attempt < len(numbers):
                    continue
                if last > mapping.host_port:
                    what = f"ports {mapping.host_port}-{last}/{mapping.protocol} are all taken"
                    raise PortTaken(what, f"of the last one: {error.why}", error.fix) from error
                raise
        raise AssertionError("no number to try")

    def _take(self, mapping: PortMapping, rows: tuple[str, ...], number: int) -> list[PortMapping]:
        held: list[tuple[str, socket]] = []
        try:
            for host_ip in rows:
                if number:  # first: "container X" says more than "process monitor"
                    self._check_rows(mapping.protocol, host_ip, number)
                name = held_name(mapping.protocol, host_ip, number)
                if name in self._kept:
                    continue
                chosen, sock = self._reserve(mapping.protocol, host_ip, number)
                if sock is not None:
                    held.append((held_name(mapping.protocol, host_ip, chosen), sock))
                if not number:
                    number = chosen
                    self._check_rows(mapping.protocol, host_ip, number)
        except BaseException:
            for _, sock in held:
                sock.close()
            raise
        for name, sock in held:
            if len(self.sockets) < _KEPT:
                self.sockets[name] = sock
            else:
                sock.close()  # nobody has it now; from here on our tables are the only ones that know
        made = [replace(mapping, host_ip=host_ip, host_port=number, host_port_last=0) for host_ip in rows]
        for one in made:
            port = Port(one.protocol, one.host_ip, number, target(one.host_ip, self._way), one.container_port)
            self.ports.append(port)
            insert(self._con, self._cid, port)
        return made

    def _check_rows(self, protocol: str, host_ip: str, number: int) -> None:
        rows = self._con.execute(
            "SELECT host_ip, container FROM port WHERE protocol = ? AND host_port = ?", (protocol, number)
        )
        for theirs, cid in rows:
            if meet(host_ip, theirs):
                whose = "it is published twice" if cid == self._cid else f"container {self._name_of(cid)} publishes it"
                raise PortTaken(
                    f"port {describe(host_ip, number, protocol)} is taken",
                    whose,
                    "Stop that container, or publish another host port",
                )


def insert(con: sqlite3.Connection, cid: str, port: Port) -> None:
    """Record one; the caller holds the write transaction, and has seen that it is free."""
    con.execute(
        "INSERT INTO port (container, protocol, host_ip, host_port, container_ip, container_port)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (cid, *port),
    )


def forget(con: sqlite3.Connection, cid: str, ports: Iterable[Port]) -> None:
    """Delete the rows of these ports of a container; the caller holds the write transaction."""
    con.executemany(
        "DELETE FROM port WHERE container = ? AND protocol = ? AND host_ip = ? AND host_port = ?",
        [(cid, port.protocol, port.host_ip, port.host_port) for port in ports],
    )


def of_container(con: sqlite3.Connection, cid: str) -> list[Port]:
    """The rows of one container."""
    return list(parse(con.execute("SELECT * FROM port WHERE container = ?", (cid,)).fetchall()))


def parse(rows: Iterable[sqlite3.Row]) -> Iterator[Port]:
    """Rows of the table ``port``."""
    for r in rows:
        yield Port(r["protocol"], r["host_ip"], r["host_port"], r["container_ip"], r["container_port"])
