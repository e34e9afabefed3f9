"""The datagrams of the userland proxy: one socket for each client, so that answers find their way back."""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections import OrderedDict
from collections.abc import Sequence

from core.supervise.loop import Loop

MOST = 1024  # clients at once of one port; the one that has been quiet longest makes room
IDLE = 90.0  # seconds until a client is forgotten; connection tracking takes 120 for a stream (nf_conntrack-sysctl)
_BATCH = 256  # datagrams for one event
_LONGEST = 65535
_ROOM = 64  # bytes for one control message with an address
_PKTINFO4 = 8  # IP_PKTINFO
_PKTINFO6, _RECVPKTINFO6 = 50, 49  # IPV6_PKTINFO, IPV6_RECVPKTINFO

_LINK_LOCAL = b"\xfe\x80"

Sender = tuple[tuple[str, int], bytes]  # the client's address; the one of ours that it asked, as in_pktinfo
_GONE = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN)


class _Client:
    """:param targets: where else it may find its answer, the one that it is connected to last"""

    def __init__(self, sock: socket.socket, targets: list[tuple[str, int]]) -> None:
        self.sock = sock
        self.targets = targets
        self.asked = b""  # what has not been answered, if there is another target that might
        self.last = time.monotonic()


class Datagrams:
    """Listens on one UDP port."""

    def __init__(self, loop: Loop, listener: socket.socket, targets: Sequence[tuple[str, int]]) -> None:
        """:param targets: a client whose datagrams one refuses turns to the next"""
        self._loop = loop
        self._listener = listener
        self._targets = targets
        self._clients: OrderedDict[Sender, _Client] = OrderedDict()
        self._closed = False
        listener.setblocking(False)
        # A host has several addresses: the answer must come from the one that was asked.
        self._level = socket.IPPROTO_IPV6 if listener.family == socket.AF_INET6 else socket.IPPROTO_IP
        self._kind = _PKTINFO6 if listener.family == socket.AF_INET6 else _PKTINFO4
        ask = _RECVPKTINFO6 if listener.family == socket.AF_INET6 else _PKTINFO4
        listener.setsockopt(self._level, ask, 1)
        loop.watch(listener.fileno(), lambda events: self._ask())
        loop.after(IDLE / 4, self._sweep)

    def close(self) -> None:
        self._closed = True
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()
        for sender in list(self._clients):
            self._forget(sender)

    def _ask(self) -> None:
        """From clients to the container."""
        for _ in range(_BATCH):
            try:
                data, control, _, address = self._listener.recvmsg(_LONGEST, _ROOM)
            except OSError:
                return  # nothing more; or what an earlier answer has met, which is not ours to mend
            came_to = next((info for level, kind, info in control if (level, kind) == (self._level, self._kind)), b"")
            client = self._client((address, came_to))
            if client is not None:
                client.asked = data if len(client.targets) > 1 else b""
                with contextlib.suppress(OSError):  # full, or nobody listens: it is lost, as datagrams are
                    client.sock.send(data)

    def _client(self, sender: Sender) -> _Client | None:
        client = self._clients.get(sender)
        if client is None:
            if len(self._clients) >= MOST:
                self._forget(next(iter(self._clients)))
            targets = list(self._targets)
            sock = _connected(targets)
            if sock is None:
                return None
            client = self._clients[sender] = _Client(sock, targets)
            self._loop.watch(sock.fileno(), lambda events: self._answer(sender))
        client.last = time.monotonic()
        self._clients.move_to_end(sender)
        return client

    def _answer(self, sender: Sender) -> None:
        """From the container to a client."""
        client, (address, came_to) = self._clients[sender], sender
        client.last = time.monotonic()
        control = [(self._level, self._kind, _source(came_to))] if came_to else []
        for _ in range(_BATCH):
            try:
                data = client.sock.recv(_LONGEST)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _GONE:
                    self._forget(sender)
                elif client.asked:
                    self._turn(sender)
                return
            client.asked = b""
            with contextlib.suppress(OSError):
                self._listener.sendmsg([data], control, 0, address)

    def _turn(self, sender: Sender) -> None:
        """The target refuses what the client asked: ask the next one, once."""
        client = self._clients[sender]
        asked, client.asked = client.asked, b""
        sock = _connected(client.targets)
        if sock is None:
            return
        self._loop.unwatch(client.sock.fileno())
        client.sock.close()
        client.sock = sock
        self._loop.watch(sock.fileno(), lambda events: self._answer(sender))
        with contextlib.suppress(OSError):
            sock.send(asked)

    def _forget(self, sender: Sender) -> None:
        client = self._clients.pop(sender)
        self._loop.unwatch(client.sock.fileno())
        client.sock.close()

    def _sweep(self) -> None:
        if self._closed:
            return
        limit = time.monotonic() - IDLE
        for sender in [sender for sender, client in self._clients.items() if client.last < limit]:
            self._forget(sender)
        self._loop.after(IDLE / 4, self._sweep)


def _connected(targets: list[tuple[str, int]]) -> socket.socket | None:
    """To the first to which there is a way; it and those before it go to the end of the list."""
    for target in list(targets):
        targets.append(targets.pop(0))
        try:
            sock = socket.socket(
                socket.AF_INET6 if ":" in target[0] else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
            )
        except OSError:
            return None
        try:
            sock.connect(target)
        except OSError:
            sock.close()
        else:
            return sock
    return None


def _source(info: bytes) -> bytes:
    """The control message that sends from where a datagram came to: of struct in_pktinfo (ip(7)) the local address, of
    in6_pktinfo (ipv6(7)) the address; which interface, the routes say, but for an address that only one of them has."""
    if len(info) == 20:
        return info if info[:2] == _LINK_LOCAL else info[:16] + bytes(4)
    return bytes(4) + info[4:8] + bytes(4)
