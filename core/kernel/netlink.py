"""Netlink: framing, attributes, and a socket that sends a batch and collects every answer (netlink(7)).

Small on purpose. Attaching a container costs the kernel half a millisecond; importing a general netlink library costs a
one-shot command a hundred times that. ``sendmsg`` on a netlink socket returns only when the kernel is done with
the batch, so one thread that owns its sockets is as fast as many.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

F_REQUEST = 0x1
F_ACK = 0x4
F_DUMP_INTR = 0x10
F_DUMP = 0x300
F_EXCL = 0x200
F_CREATE = 0x400
F_APPEND = 0x800

_F_CAPPED = 0x100  # in an acknowledgement: the request is not repeated in it
_F_ACK_TLVS = 0x200  # in an acknowledgement: attributes follow
_ERROR = 2
_DONE = 3
_SOL_NETLINK = 270
_ADD_MEMBERSHIP = 1
_CAP_ACK = 10
_EXT_ACK = 11
_STRICT_CHECK = 12
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_BUFFER = 1 << 18

_HEADER = struct.Struct("=IHHII")
_ATTR = struct.Struct("=HH")


def attr(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to 4 bytes.

    :raises OverflowError: longer than the 16-bit length field holds (CVE-2021-43784 was such a wrap)
    """
    size = 4 + len(payload)
    if size > 0xFFFF:
        raise OverflowError(f"netlink attribute {kind} of {size} bytes")
    return _ATTR.pack(size, kind) + payload + b"\0" * (-size % 4)


def nest(kind: int, *attrs: bytes) -> bytes:
    """An attribute made of attributes."""
    return attr(kind | _NESTED, b"".join(attrs))


def text(kind: int, value: str) -> bytes:
    """A string attribute with its closing NUL."""
    return attr(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """A number in the host's byte order (rtnetlink)."""
    return attr(kind, struct.pack("=I", value))


def be32(kind: int, value: int) -> bytes:
    """A number in network byte order (netfilter)."""
    return attr(kind, struct.pack("!I", value & 0xFFFFFFFF))


def attrs(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """All (type, payload) in ``data``; stops at the first malformed one."""
    end = len(data)
    while offset + 4 <= end:
        size, kind = _ATTR.unpack_from(data, offset)
        if size < 4 or offset + size > end:
            return
        yield kind & _TYPE_MASK, data[offset + 4 : offset + size]
        offset += (size + 3) & ~3


def attr_map(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes by type; of a repeated type the last."""
    return dict(attrs(data, offset))


def string(payload: bytes) -> str:
    """The text of a string attribute."""
    return payload.rstrip(b"\0").decode(errors="replace")


class Message(NamedTuple):
    """A request: ``kind`` is nlmsg_type, ``body`` the family header and attributes."""

    kind: int
    flags: int
    body: bytes


class Reply(NamedTuple):
    """What came back for one request. ``error`` is an errno, 0 for success; ``bodies`` the answers' payloads."""

    error: int
    note: str
    bodies: list[bytes]

    def check(self, *allowed: int) -> Reply:
        """Self, or the error as an exception unless it is one of ``allowed``.

        :raises NetlinkError: the kernel refused
        """
        if self.error and self.error not in allowed:
            raise NetlinkError(self.error, self.note)
        return self


class NetlinkError(OSError):
    """The kernel's refusal; the text holds its own explanation (extended acknowledgement) where it gave one."""

    def __init__(self, error: int, note: str = "") -> None:
        super().__init__(error, os.strerror(error) + (f" ({note})" if note else ""))


def check_all(replies: Iterable[Reply], *allowed: int) -> None:
    """:meth:`Reply.check` for each."""
    for reply in replies:
        reply.check(*allowed)


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The messages of one datagram: (type, flags, sequence number, body)."""
    offset = 0
    while offset + 16 <= len(data):
        size, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if size < 16:
            return
        yield kind, flags, sequence, data[offset + 16 : offset + size]
        offset += (size + 3) & ~3


def events(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The notifications of one datagram: (type, port of the socket that asked for the change, body)."""
    offset = 0
    for kind, _, _, body in split(data):
        size, _, _, _, port = _HEADER.unpack_from(data, offset)
        yield kind, port, body
        offset += (size + 3) & ~3


class Netlink:
    """One netlink socket, bound to the network namespace of the thread that makes it. Not for several threads."""

    def __init__(self, protocol: int, groups: Sequence[int] = ()) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        try:
            self.socket.bind((0, 0))
            self.socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
            self.socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
            if protocol == NETLINK_ROUTE:
                self.socket.setsockopt(_SOL_NETLINK, _STRICT_CHECK, 1)  # dumps honour the request's filter
            for group in groups:
                self.socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except BaseException:
            self.socket.close()
            raise
        self.port: int = self.socket.getsockname()[0]
        self._sequence = 0

    def close(self) -> None:
        self.socket.close()

    def talk(self, messages: Sequence[Message]) -> list[Reply]:
        """Send all in one batch; the kernel handles each in turn, also after one failed."""
        first = self._sequence + 1
        out = [self._pack(m, 0 if m.flags & F_DUMP == F_DUMP else F_ACK) for m in messages]
        self.socket.send(b"".join(out))
        return self._collect(first, len(out))

    def change(self, messages: Sequence[Message]) -> None:
        """Send all in one batch of which only the end is acknowledged; the kernel handles each in turn, also after one
        failed.

        :raises NetlinkError: the first failure
        """
        first = self._sequence + 1
        out = [self._pack(m, 0) for m in messages[:-1]]
        out.append(self._pack(messages[-1], F_ACK))
        self.socket.send(b"".join(out))
        self._await_last(first, first + len(messages) - 1)

    def request(self, kind: int, flags: int, body: bytes) -> Reply:
        """One message; see :meth:`talk`."""
        return self.talk([Message(kind, flags, body)])[0]

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """All objects of a dump; asked again while the kernel says that it changed meanwhile (NLM_F_DUMP_INTR).

        :raises NetlinkError: the kernel refused
        """
        while True:
            reply = self.request(kind, F_DUMP, body)
            if reply.error != _INTERRUPTED:
                return reply.check().bodies

    def transaction(self, begin: Message, messages: Sequence[Message], end: Message) -> None:
        """A netfilter batch: all or nothing.

        Only the last message asks for an acknowledgement (a thousand of them would overflow the receive buffer);
        failures are reported for each message by themselves.

        :raises NetlinkError: the first failure; nothing was changed
        """
        first = self._sequence + 1
        out = [self._pack(begin, 0)]
        out += [self._pack(m, 0) for m in messages[:-1]]
        out.append(self._pack(messages[-1], F_ACK))
        out.append(self._pack(end, 0))
        data = b"".join(out)
        if len(data) > 100_000:
            # SO_SNDBUFFORCE: a datagram larger than the default send buffer is refused with EMSGSIZE.
            self.socket.setsockopt(socket.SOL_SOCKET, 32, 2 * len(data))
        self.socket.send(data)
        self._await_last(first, first + len(messages))

    def _await_last(self, first: int, last: int) -> None:
        failure: Reply | None = None
        while True:
            for kind, flags, sequence, body in split(self.socket.recv(_BUFFER)):
                if kind != _ERROR or not first <= sequence <= last:
                    continue
                error, note = _parse_error(flags, body)
                if error and failure is None:
                    failure = Reply(error, note, [])
                # The answer to a batch's header means that the commit failed: nothing else follows it.
                if sequence == last or (sequence == first and error):
                    if failure is not None:
                        self._drain()
                        failure.check()
                    return

    def _drain(self) -> None:
        while True:
            try:
                self.socket.recv(_BUFFER, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return

    def _pack(self, message: Message, flags: int) -> bytes:
        self._sequence = (self._sequence + 1) & 0x7FFFFFFF
        body = message.body + b"\0" * (-len(message.body) % 4)
        flags |= message.flags | F_REQUEST
        return _HEADER.pack(16 + len(message.body), message.kind, flags, self._sequence, 0) + body

    def _collect(self, first: int, count: int) -> list[Reply]:
        replies: list[Reply | None] = [None] * count
        bodies: list[list[bytes]] = [[] for _ in range(count)]
        waiting = count
        interrupted = False
        while waiting:
            for kind, flags, sequence, body in split(self.socket.recv(_BUFFER)):
                index = sequence - first
                if not 0 <= index < count or replies[index] is not None:
                    continue  # an answer to a request that was given up
                interrupted |= bool(flags & F_DUMP_INTR)
                if kind not in (_ERROR, _DONE):
                    bodies[index].append(body)
                    continue
                error, note = _parse_error(flags, body) if kind == _ERROR else _parse_done(body)
                replies[index] = Reply(_INTERRUPTED if interrupted else error, note, bodies[index])
                waiting -= 1
        return [r for r in replies if r is not None]


_INTERRUPTED = -1


def _parse_done(body: bytes) -> tuple[int, str]:
    return (-struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0), ""


def _parse_error(flags: int, body: bytes) -> tuple[int, str]:
    """(errno, the kernel's words) of an NLMSG_ERROR."""
    error = -struct.unpack_from("=i", body)[0]
    if not flags & _F_ACK_TLVS:
        return error, ""
    offset = 4 + 16
    if not flags & _F_CAPPED:
        offset = 4 + ((struct.unpack_from("=I", body, 4)[0] + 3) & ~3)
    return error, string(attr_map(body, offset).get(1, b""))
