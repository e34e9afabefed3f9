"""Trying a way: sockets are opened in the worker thread, inside the container's namespace or the host's, and what comes
back is awaited in the event loop. A socket stays in the namespace where it was opened."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import struct
import time
from collections.abc import Callable

from core.net.net import Net

PATIENCE = 1.0  # seconds that each way is given
_TRIES = 2  # the first packet may wait for ARP, and be lost
_ECHO, _ECHO_REPLY, _ECHO6, _ECHO6_REPLY = 8, 0, 128, 129  # RFC 792, RFC 4443
_SERVFAIL = 2
RCODES = {0: "no error", 1: "format error", 2: "server failure", 3: "no such name", 4: "not implemented", 5: "refused"}


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


async def _open(net: Net, pid: int | None, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket that does not block.

    :param pid: in the namespace of that process; 0: where the bridges are; None: where this program runs. The last two
        are the same, but for an ordinary user's engine
    """

    def work(*_: object) -> socket.socket:
        return socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)

    return work() if pid is None else await net.look("open a socket", work, pid)


async def _answer(sock: socket.socket, packet: bytes, wanted: Callable[[bytes], bool]) -> bytes | None:
    """The first packet that is ``wanted``, sent for up to ``_TRIES`` times; None where none comes in time.

    :raises OSError: ECONNREFUSED, ENETUNREACH …
    """
    loop = asyncio.get_running_loop()
    for _ in range(_TRIES):
        await loop.sock_sendall(sock, packet)
        end = time.monotonic() + PATIENCE / _TRIES
        while True:
            # Looked at once more when the time is over: on a busy host the answer may be there, and we had no turn.
            left = end - time.monotonic()
            with contextlib.suppress(BlockingIOError):
                if wanted(data := sock.recv(2048)):
                    return data
                if left > -PATIENCE / _TRIES:  # others' packets, without end, are no reason to stay
                    continue
            if left <= 0:
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(_readable(sock), left)
    return None


async def _readable(sock: socket.socket) -> None:
    """Until something is there; it is not taken, so that nothing is lost where the time is over at the same moment."""
    loop, there = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock.fileno(), there.set)
    try:
        await there.wait()
    finally:
        loop.remove_reader(sock.fileno())


async def echo(net: Net, address: str, pid: int = 0) -> str:
    """Does the address answer an ICMP echo? "" for yes, else why not.

    :param pid: see :func:`_open`; 0 or a process: a raw socket needs privilege there
    :raises Unavailable: no socket can be opened there
    """
    family = _family(address)
    icmp = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
    mark = secrets.token_bytes(8)
    kind = _ECHO if family == socket.AF_INET else _ECHO6
    packet = struct.pack("!BBHHH", kind, 0, 0, os.getpid() & 0xFFFF, 1) + mark
    if family == socket.AF_INET:  # the kernel does it for ICMPv6
        packet = packet[:2] + _checksum(packet) + packet[4:]
    reply = _ECHO_REPLY if family == socket.AF_INET else _ECHO6_REPLY

    def wanted(data: bytes) -> bool:
        head = (data[0] & 15) * 4 if family == socket.AF_INET else 0  # a raw IPv4 socket gets the header too
        return len(data) > head and data[head] == reply and data.endswith(mark)

    with await _open(net, pid, family, socket.SOCK_RAW, icmp) as sock:
        try:
            sock.connect((address, 0))
            answer = await _answer(sock, packet, wanted)
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return "" if answer else "no answer"


def _checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)


async def connect(net: Net, address: str, port: int) -> str:
    """Is a TCP connection from this host accepted? "" for yes, else why not. It is closed at once, without a byte."""
    with await _open(net, None, _family(address), socket.SOCK_STREAM) as sock:
        try:
            await asyncio.wait_for(asyncio.get_running_loop().sock_connect(sock, (address, port)), 2 * PATIENCE)
        except TimeoutError:
            try:
                sock.getpeername()  # on a busy host it may be there, and we had no turn
            except OSError:
                return "no answer"
        except OSError as error:  # asyncio puts words of its own in place of the kernel's
            return os.strerror(error.errno).lower() if error.errno else str(error)
    return ""


async def ask_dns(net: Net, server: str, name: str = "", pid: int | None = None) -> str:
    """Does a name server answer a process's namespace (None: this host)? "" for yes, whatever it says, else why not.

    :param name: for whose IPv4 address it is asked, and which it must know; "": for the servers of the root
    """
    identity = secrets.token_bytes(2)
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".") if part)
    kind = 1 if name else 2  # A, NS
    packet = identity + struct.pack("!5H", 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, 1)
    with await _open(net, pid, _family(server), socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((server, 53))
            answer = await _answer(sock, packet, lambda data: len(data) >= 12 and data[:2] == identity)
        except OSError as error:
            return (error.strerror or str(error)).lower()
    if answer is None:
        return "no answer"
    code = answer[3] & 15
    if (name and code) or code == _SERVFAIL:
        return f"it answers: {RCODES.get(code, code)}"
    return ""
