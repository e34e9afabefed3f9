"""Names that are not ours: asked of the servers upstream, from the network namespace of whoever runs this.

That is the host's, so a server on the host's loopback (systemd-resolved's 127.0.0.53) can be asked, and so can, where
the host is a container itself, the resolver of that container: 127.0.0.11 there is another socket than ours, which is
in the namespace of our container; no question comes back to where it came from.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import time
from collections.abc import Callable, Sequence

from core.dns import Loop, Timer, wire

TIMEOUT = 2.0  # seconds that a server has; clients wait five
MOST = 1000  # questions under way at once, as in Docker
_SHARE = 4  # of the descriptors that a process may have, questions get one in so many
_TRIES = 3  # of servers for one question: more, and no client waits for the answer any more
_FAILURES = 2  # in a row, after which a server is asked last
_REST = 20.0  # seconds for which it is
_PORT = 53
_BUFFER = 65535
_NEXT = (wire.SERVFAIL, wire.REFUSED, wire.FORMERR, wire.NOTIMP)  # answers after which another server may know more

Done = Callable[[bytes | None], None]
Address = tuple[int, tuple[str, int] | tuple[str, int, int, int]]


def numeric(server: str, port: int) -> Address | None:
    """(family, address) for a socket; None where it is no IP address: nobody here looks names up."""
    host, _, zone = server.partition("%")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.inet_pton(family, host)
        if family == socket.AF_INET:
            return family, (host, port)
        return family, (host, port, 0, socket.if_nametoindex(zone) if zone else 0)
    except (OSError, ValueError):  # a zero byte in it, too
        return None


class Forwarder:
    """Asks other servers, and remembers which of them do not answer.

    :param port: that all of them listen on
    :param timeout: seconds for each
    :param most: questions at once
    """

    def __init__(self, loop: Loop, *, port: int = _PORT, timeout: float = TIMEOUT, most: int = MOST) -> None:
        self.loop = loop
        self.port = port
        self.timeout = timeout
        # Each has a socket: whoever asks without end must not keep the monitor from opening logs and records.
        self._most = min(most, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE)
        self._asking: set[_Question] = set()
        self._failures: dict[str, tuple[int, float]] = {}  # server → failures in a row, when the last one was

    def ask(self, data: bytes, query: wire.Query, servers: Sequence[str], done: Done, *, whole: bool = False) -> None:
        """Call ``done``, once, with another server's answer to ``query``, or None; perhaps before this returns.

        :param data: the packet that it came in
        :param whole: a truncated answer is of no use
        """
        if len(self._asking) >= self._most or not servers:
            done(None)
            return
        question = _Question(self, data, query, self._order(servers), done, whole=whole)
        self._asking.add(question)
        question.go_on()

    def close(self) -> None:
        """Forget all questions; nobody is told."""
        for question in list(self._asking):
            question.close()

    def forget(self, question: _Question) -> None:
        self._asking.discard(question)

    def _order(self, servers: Sequence[str]) -> list[str]:
        """Whom to ask, one after another. The only server gets a second chance: packets are lost."""
        ordered = sorted(servers, key=self._is_down)
        return (ordered * 2 if len(ordered) == 1 else ordered)[:_TRIES]

    def _is_down(self, server: str) -> bool:
        count, when = self._failures.get(server, (0, 0.0))
        return count >= _FAILURES and time.monotonic() - when < _REST

    def failed(self, server: str) -> None:
        self._failures[server] = (self._failures.get(server, (0, 0.0))[0] + 1, time.monotonic())

    def answered(self, server: str) -> None:
        self._failures.pop(server, None)


class _Question:
    """One question under way: a socket with a port of its own, and an id, that nobody can guess."""

    def __init__(
        self, owner: Forwarder, data: bytes, query: wire.Query, servers: list[str], done: Done, *, whole: bool
    ) -> None:
        self._owner = owner
        self._rest = data[2:]
        self._query = query
        self._servers = servers
        self._done = done
        self._whole = whole
        self._server = ""
        self._socket: socket.socket | None = None
        self._timer: Timer | None = None
        self._number = 0
        self._failure: bytes | None = None  # the last answer that was a failure
        self._out = b""  # over TCP: what is still to be sent
        self._in = bytearray()

    def go_on(self) -> None:
        """Ask the next server."""
        self._hang_up()
        while self._servers:
            self._server = self._servers.pop(0)
            if self._call(socket.SOCK_DGRAM):
                return
            self._owner.failed(self._server)
        self._finish(self._failure)

    def close(self) -> None:
        self._hang_up()
        self._owner.forget(self)

    def _finish(self, data: bytes | None) -> None:
        self.close()
        self._done(data)

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._owner.loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _call(self, kind: int) -> bool:
        """Connect, so that the kernel lets only this server's packets in, and tells where there is none."""
        to = numeric(self._server, self._owner.port)
        if to is None:
            return False
        self._number = int.from_bytes(os.urandom(2), "big")
        message = self._number.to_bytes(2, "big") + self._rest
        try:
            sock = self._socket = socket.socket(to[0], kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            if kind == socket.SOCK_DGRAM:
                sock.connect(to[1])
                sock.send(message)
                self._owner.loop.watch(sock.fileno(), self._packet)
            else:
                self._out, self._in = len(message).to_bytes(2, "big") + message, bytearray()
                if sock.connect_ex(to[1]) not in (0, errno.EINPROGRESS):
                    return self._no_use()
                self._owner.loop.watch(sock.fileno(), self._stream, select.EPOLLOUT)
        except OSError:  # no way there, or no descriptor left
            return self._no_use()
        self._timer = self._owner.loop.after(self._owner.timeout, self._give_up)
        return True

    def _no_use(self) -> bool:
        self._hang_up()
        return False

    def _give_up(self) -> None:
        self._owner.failed(self._server)
        self.go_on()

    def _packet(self, events: int) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(_BUFFER)
        except BlockingIOError:
            return
        except OSError:  # nobody listens there
            self._give_up()
            return
        # Anything else is forged, or late: the answer may still come.
        if wire.answers(data, self._number, self._query.question):
            self._heard(data)

    def _heard(self, data: bytes) -> None:
        self._owner.answered(self._server)
        if wire.code_of(data) in _NEXT:
            self._failure = data
            self.go_on()
        elif self._whole and wire.is_truncated(data):
            self._hang_up()
            if not self._call(socket.SOCK_STREAM):
                self.go_on()
        else:
            self._finish(data)

    def _stream(self, events: int) -> None:
        assert self._socket is not None
        try:
            if self._out:
                self._out = self._out[self._socket.send(self._out) :]
                if not self._out:
                    self._owner.loop.change(self._socket.fileno(), select.EPOLLIN)
                return
            data = self._socket.recv(_BUFFER)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._in += data
        if len(self._in) >= 2 and len(self._in) >= 2 + (length := int.from_bytes(self._in[:2], "big")):
            answer = bytes(self._in[2 : 2 + length])
            if wire.answers(answer, self._number, self._query.question) and not wire.is_truncated(answer):
                self._heard(answer)
                return
            data = b""
        if not data:
            self.go_on()
