"""The host's side of a published port as a socket, and who holds one that is taken.

The socket is bound but never read: the kernel translates packets before they would reach it. It makes a conflict with
any other program visible on both sides (``ss`` shows the monitor as the holder), and its filter drops whatever arrives
while the table is away, so that a client tries again instead of being refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import ipaddress
import os
import random
import socket
import struct
from pathlib import Path

from core.errors import InvalidArgument, NoPrivilege, PortTaken, WharfError

_ATTACH_FILTER = 26  # SO_ATTACH_FILTER
_SCTP = 132
_STREAM, _DATAGRAM = socket.SOCK_STREAM | socket.SOCK_CLOEXEC, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
_KINDS = {"tcp": (_STREAM, 0), "udp": (_DATAGRAM, 0), "sctp": (_STREAM, _SCTP)}
_DROP = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))  # ret 0
_DROP_EVERYTHING = struct.pack("HL", 1, ctypes.addressof(_DROP))  # struct sock_fprog
_UNSUPPORTED = (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EAFNOSUPPORT)
_NO_ROOM = (errno.EMFILE, errno.ENFILE)


def reserve(protocol: str, host_ip: str, number: int) -> tuple[int, socket.socket | None]:
    """Bind the host's side; with ``number`` 0 the kernel picks a free one of its ephemeral range.

    :param host_ip: "" and "::" are every address of their version
    :returns: the port, and the socket: None where the kernel has no sockets of that protocol, or this process may have
        no more of them; then database and nft table alone say whose it is
    :raises PortTaken: ``why`` names the process
    :raises InvalidArgument: the host has no such address
    :raises NoPrivilege: a port below 1024
    """
    kind, code = _KINDS[protocol]
    try:
        held = socket.socket(socket.AF_INET6 if ":" in host_ip else socket.AF_INET, kind, code)
    except OSError as error:
        if error.errno in _UNSUPPORTED or error.errno in _NO_ROOM:
            return number or _any_number(), None
        raise
    try:
        _drop_everything(held)
        if protocol != "udp" and number:
            # Else a service that stopped a moment ago is in the way (TIME_WAIT); listening keeps others out anyway.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if held.family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        held.bind((host_ip or "0.0.0.0", number))
        if protocol != "udp":
            held.listen(1)
        return held.getsockname()[1], held
    except OSError as error:
        held.close()
        raise _explain(protocol, host_ip, number, error) from error


def _any_number() -> int:
    """One of the kernel's ephemeral range."""
    low, high = (int(word) for word in Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    return random.randint(low, high)


def _drop_everything(held: socket.socket) -> None:
    """A socket filter of one instruction (socket(7), SO_ATTACH_FILTER)."""
    with contextlib.suppress(OSError):  # not every protocol has filters
        held.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, _DROP_EVERYTHING)


def _explain(protocol: str, host_ip: str, number: int, error: OSError) -> WharfError:
    where = describe(host_ip, number, protocol)
    if error.errno == errno.EADDRINUSE:
        return PortTaken(
            f"port {where} is taken",
            f"{holder(protocol, host_ip, number) or 'another process'} holds it",
            "Stop that one, or publish another host port",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return InvalidArgument(f"cannot publish on {host_ip}", "the host has no such address", "See: ip address")
    if error.errno in (errno.EACCES, errno.EPERM):
        lowest = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text().strip()
        return NoPrivilege(
            f"cannot publish port {where}",
            f"it is below {lowest}, and such ports are root's",
            f"Use a higher port; or as root: sysctl -w net.ipv4.ip_unprivileged_port_start={number}",
        )
    return WharfError(f"cannot publish port {where}", error.strerror or str(error), "Try another port")


def describe(host_ip: str, host_port: int, protocol: str) -> str:
    """Like ``0.0.0.0:80/tcp`` or ``[::]:80/tcp``."""
    address = f"[{host_ip}]" if ":" in host_ip else host_ip or "0.0.0.0"
    return f"{address}:{host_port}/{protocol}"


# ─ who holds it ─


def holder(protocol: str, host_ip: str, number: int) -> str:
    """``NAME (process PID)`` of who has the port bound on this host; empty where nobody can be found."""
    if protocol == "sctp":
        inodes = _bound_sctp(number)
    else:
        # A socket of IPv6 may serve IPv4 too.
        inodes = {found for table in (protocol, f"{protocol}6") for found in _bound(table, host_ip, number)}
    if not inodes:
        return ""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _has_open(process, wanted):
            return f"{_name_of(process)} (process {process.name})"
    return ""


def _lines(table: str) -> list[list[str]]:
    try:
        return [line.split() for line in Path(f"/proc/thread-self/net/{table}").read_text().splitlines()[1:]]
    except FileNotFoundError:
        return []


def _bound(table: str, host_ip: str, number: int) -> set[str]:
    """Inodes of the sockets of /proc/net/TABLE that are in the way (proc_pid_net(5))."""
    found: set[str] = set()
    for fields in _lines(table):
        address, _, port = fields[1].partition(":")
        if int(port, 16) != number or (table.startswith("tcp") and fields[3] not in ("0A", "07")):
            continue
        if _meet(_unpack(address), host_ip):
            found.add(fields[9])
    return found


def _unpack(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The kernel prints each word of an address as a number."""
    raw = b"".join(struct.pack("=I", int(address[i : i + 8], 16)) for i in range(0, len(address), 8))
    return ipaddress.ip_address(raw)


def _meet(bound: ipaddress.IPv4Address | ipaddress.IPv6Address, host_ip: str) -> bool:
    if isinstance(bound, ipaddress.IPv6Address) and bound.ipv4_mapped:
        bound = bound.ipv4_mapped
    wanted = ipaddress.ip_address(host_ip or "0.0.0.0")
    if bound.version == 4 and wanted.version == 6:
        return False
    # One bound to all of IPv6 may be bound to all of IPv4 as well.
    same = bound.version == wanted.version
    return bound.is_unspecified or (same and (wanted.is_unspecified or bound == wanted))


def _bound_sctp(number: int) -> set[str]:
    """/proc/net/sctp/eps: ENDPT SOCK STY SST HBKT LPORT UID INODE LADDRS."""
    return {fields[7] for fields in _lines("sctp/eps") if len(fields) > 7 and fields[5] == str(number)}


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
