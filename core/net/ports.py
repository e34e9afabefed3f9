"""Published ports: checked against the database, reserved by a socket, recorded; and who holds one that is taken.

The socket is bound but never read: the kernel translates packets before they would reach it. It makes a conflict with
any other program visible on both sides (``ss`` shows the monitor as the holder), and its filter drops whatever arrives
while the table is away, so that a client tries again instead of being refused.
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import os
import socket
import sqlite3
import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from core.errors import InvalidArgument, NoPrivilege, PortTaken, Unsupported, WharfError
from core.model import PortMapping
from core.net.firewall import PROTOCOLS, Port

_ATTACH_FILTER = 26  # SO_ATTACH_FILTER
_ANY = "0.0.0.0"
_ATTEMPTS = 64


def check(mappings: Iterable[PortMapping]) -> list[PortMapping]:
    """The mappings with ``0.0.0.0`` written as "", doubles removed.

    :raises InvalidArgument: not a port, protocol or address
    :raises Unsupported: an IPv6 address
    """
    return list(dict.fromkeys(_check(m) for m in mappings))


def _check(mapping: PortMapping) -> PortMapping:
    if mapping.protocol not in PROTOCOLS:
        raise InvalidArgument(
            f"cannot publish protocol {mapping.protocol!r}", "only tcp and udp are known", "Write it like 8080:80/udp"
        )
    if not 1 <= mapping.container_port <= 65535 or not 0 <= mapping.host_port <= 65535:
        raise InvalidArgument(
            f"invalid port {mapping.host_port}:{mapping.container_port}", "ports go from 1 to 65535", "Choose another"
        )
    if mapping.host_ip in ("", _ANY):
        return replace(mapping, host_ip="")
    try:
        address = ipaddress.ip_address(mapping.host_ip.strip("[]"))
    except ValueError:
        raise InvalidArgument(
            f"invalid host address {mapping.host_ip!r}", "it is not an IP address", "Write it like 127.0.0.1:8080:80"
        ) from None
    if address.version == 6:
        raise Unsupported(
            f"cannot publish on {address}", "containers have IPv4 addresses only", "Use an IPv4 address of the host"
        )
    return replace(mapping, host_ip=str(address))


def reserve(mapping: PortMapping) -> tuple[PortMapping, socket.socket]:
    """Bind the host's side; with ``host_port`` 0 the kernel picks a free one of its ephemeral range.

    :raises PortTaken: ``why`` names the process
    :raises InvalidArgument: the host has no such address
    :raises NoPrivilege: a port below 1024
    """
    kind = socket.SOCK_STREAM if mapping.protocol == "tcp" else socket.SOCK_DGRAM
    held = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC)
    try:
        _drop_everything(held)
        if mapping.protocol == "tcp" and mapping.host_port:
            # Else a service that stopped a moment ago is in the way (TIME_WAIT); listening keeps others out anyway.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((mapping.host_ip or _ANY, mapping.host_port))
        if mapping.protocol == "tcp":
            held.listen(1)
        return replace(mapping, host_port=held.getsockname()[1]), held
    except OSError as error:
        held.close()
        raise _explain(mapping, error) from error


def _drop_everything(held: socket.socket) -> None:
    """A socket filter of one instruction, ``ret 0`` (socket(7), SO_ATTACH_FILTER)."""
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))
    held.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))


def _explain(mapping: PortMapping, error: OSError) -> WharfError:
    where = describe(mapping.host_ip, mapping.host_port, mapping.protocol)
    if error.errno == errno.EADDRINUSE:
        return PortTaken(
            f"port {where} is taken",
            f"{holder(mapping) or 'another process'} holds it",
            "Stop that one, or publish another host port",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return InvalidArgument(
            f"cannot publish on {mapping.host_ip}", "the host has no such address", "List them with: ip address"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return NoPrivilege(f"cannot publish port {where}", "it is below 1024", "Run as root, or use a higher port")
    return WharfError(f"cannot publish port {where}", error.strerror or str(error), "Try another port")


def describe(host_ip: str, host_port: int, protocol: str) -> str:
    return f"{host_ip or _ANY}:{host_port}/{protocol}"


def holder(mapping: PortMapping) -> str:
    """``NAME (process PID)`` of who has the port bound on this host; empty where nobody can be found."""
    inodes = set()
    for table in (mapping.protocol, f"{mapping.protocol}6"):
        inodes |= _bound(table, mapping)
    if not inodes:
        return ""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _has_open(process, wanted):
            return f"{_name_of(process)} (process {process.name})"
    return ""


def _bound(table: str, mapping: PortMapping) -> set[str]:
    """Inodes of the sockets of /proc/net/TABLE that are in the way (proc_pid_net(5))."""
    found: set[str] = set()
    try:
        lines = Path(f"/proc/thread-self/net/{table}").read_text().splitlines()[1:]
    except FileNotFoundError:
        return found  # no IPv6
    for line in lines:
        fields = line.split()
        address, _, port = fields[1].partition(":")
        if int(port, 16) != mapping.host_port or (mapping.protocol == "tcp" and fields[3] not in ("0A", "07")):
            continue
        if mapping.host_ip and int(address, 16) != 0:
            bound = struct.pack("=I", int(address[-8:], 16))
            if bound != ipaddress.IPv4Address(mapping.host_ip).packed:
                continue
        found.add(fields[9])
    return found


def _has_open(process: Path, wanted: set[str]) -> bool:
    try:
        return any(os.readlink(entry.path) in wanted for entry in os.scandir(process / "fd"))
    except OSError:
        return False  # it ended, or closed that one, meanwhile


def _name_of(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "a process"


def claim(
    con: sqlite3.Connection, cid: str, mapping: PortMapping, container_ip: str, name_of: Callable[[str], str]
) -> None:
    """Record one port with a known number; the caller holds the write transaction.

    :raises PortTaken: a container has it; ``why`` has its name by ``name_of(id)``
    """
    row = con.execute(
        "SELECT container FROM port WHERE protocol = ? AND host_port = ? AND (host_ip = ? OR host_ip = '' OR ? = '')",
        (mapping.protocol, mapping.host_port, mapping.host_ip, mapping.host_ip),
    ).fetchone()
    if row:
        where = describe(mapping.host_ip, mapping.host_port, mapping.protocol)
        raise PortTaken(
            f"port {where} is taken",
            f"container {name_of(row[0])} publishes it",
            "Stop that container, or publish another host port",
        )
    con.execute(
        "INSERT INTO port (protocol, host_ip, host_port, container, container_ip, container_port)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (mapping.protocol, mapping.host_ip, mapping.host_port, cid, container_ip, mapping.container_port),
    )


def acquire(
    con: sqlite3.Connection, cid: str, ip: str, mapping: PortMapping, name_of: Callable[[str], str]
) -> tuple[PortMapping, socket.socket]:
    """Claim and reserve one; the caller holds the write transaction.

    :raises PortTaken: a container or a process has it
    """
    if mapping.host_port:
        claim(con, cid, mapping, ip, name_of)  # first: "container X" says more than "process monitor"
        return reserve(mapping)
    attempt = 0
    while True:
        bound, reserved = reserve(mapping)
        try:
            claim(con, cid, bound, ip, name_of)
            return bound, reserved
        except PortTaken:  # by a container whose reservation died with its monitor
            reserved.close()
            attempt += 1
            if attempt == _ATTEMPTS:
                raise


def parse(rows: Iterable[sqlite3.Row]) -> list[Port]:
    """Rows of the table ``port``."""
    return [Port(r["protocol"], r["host_ip"], r["host_port"], r["container_ip"], r["container_port"]) for r in rows]
