"""Clients that ask over TCP: each message behind two bytes of length, several on one connection (RFC 7766)."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable

from core.dns import Loop

IDLE = 10.0  # seconds without a whole question or answer, after which a connection is closed
MOST = 64  # connections at once
_AT_ONCE = 32  # questions of one connection under way
_UNREAD = 1 << 18  # bytes of answers that a client may leave waiting
_CHUNK = 4096  # bytes at once, some two hundred questions: then it is the turn of others, and of the container's output
_BATCH = 16  # connections in a row, before something else is seen to
_REST = 0.1  # seconds until the next try, where no descriptor is left

Ask = Callable[[bytes, Callable[[bytes], None]], bool]


class Streams:
    """The listening socket, which belongs to the caller, and its connections.

    :param ask: called with each question and what takes the answer, at most once; False: hang up
    """

    def __init__(self, loop: Loop, listener: socket.socket, ask: Ask, *, idle: float = IDLE, most: int = MOST) -> None:
        self._loop = loop
        self._listener = listener
        self.ask = ask
        self.idle = idle
        self._most = most
        self._connections: dict[_Connection, None] = {}  # in the order in which they were last used
        self._closed = False
        self._listen()

    def close(self) -> None:
        self._closed = True
        self._loop.unwatch(self._listener.fileno())
        for connection in list(self._connections):
            connection.close()

    def used(self, connection: _Connection) -> None:
        self._connections.pop(connection, None)
        self._connections[connection] = None

    def forget(self, connection: _Connection) -> None:
        self._connections.pop(connection, None)

    def _listen(self) -> None:
        if not self._closed:
            self._loop.watch(self._listener.fileno(), self._accept)

    def _accept(self, events: int) -> None:
        try:
            for _ in range(_BATCH):
                sock = self._listener.accept()[0]
                if len(self._connections) >= self._most:
                    next(iter(self._connections)).close()  # the one that was longest without use
                self.used(_Connection(self._loop, self, sock))
        except (BlockingIOError, ConnectionError):
            pass
        except OSError:
            self._loop.unwatch(self._listener.fileno())
            self._loop.after(_REST, self._listen)


class _Connection:
    def __init__(self, loop: Loop, owner: Streams, sock: socket.socket) -> None:
        self._loop = loop
        self._owner = owner
        self._socket = sock
        self._in, self._out = bytearray(), bytearray()
        self._asked = 0  # and not answered yet
        self._going_on = False
        self._ended = False  # the client asks nothing more
        self._open = True
        self._used = time.monotonic()
        sock.setblocking(False)
        self._events = select.EPOLLIN
        loop.watch(sock.fileno(), self._ready, self._events)
        self._timer = loop.after(owner.idle, self._look)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._timer.cancel()
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._owner.forget(self)

    def _look(self) -> None:
        left = self._used + self._owner.idle - time.monotonic()
        if left <= 0:
            self.close()
        else:
            self._timer = self._loop.after(left, self._look)

    def _use(self) -> None:
        self._used = time.monotonic()
        self._owner.used(self)

    def _ready(self, events: int) -> None:
        try:
            if events & select.EPOLLIN:
                data = self._socket.recv(_CHUNK)
                self._ended = not data
                self._in += data
            elif events & (select.EPOLLHUP | select.EPOLLERR):
                self.close()
        except BlockingIOError:
            pass
        except OSError:  # the client has gone
            self.close()
        self._go_on()

    def _go_on(self) -> None:
        """Take as many questions as the client may have under way, and wait for what can happen next."""
        self._going_on = True  # some are answered before ask() returns
        try:
            while self._open and self._may_ask and (data := self._next()) is not None:
                self._asked += 1
                if not self._owner.ask(data, self._answered):
                    self.close()
            if self._open:
                self._flush()
        except OSError:
            self.close()
        finally:
            self._going_on = False
        if self._open and self._ended and not self._asked and not self._out:
            self.close()
        if self._open:
            reading = select.EPOLLIN if self._may_ask and not self._ended else 0
            events = reading | (select.EPOLLOUT if self._out else 0)
            if events != self._events:
                self._events = events
                self._loop.change(self._socket.fileno(), events)

    def _next(self) -> bytes | None:
        """The next whole question that has come in."""
        length = int.from_bytes(self._in[:2], "big")
        if len(self._in) < 2 or len(self._in) < 2 + length:
            return None
        data = bytes(self._in[2 : 2 + length])
        del self._in[: 2 + length]
        self._use()
        return data

    @property
    def _may_ask(self) -> bool:
        return self._asked < _AT_ONCE and len(self._out) < _UNREAD

    def _answered(self, data: bytes) -> None:
        if self._open:
            self._asked -= 1
            self._out += len(data).to_bytes(2, "big") + data
            if not self._going_on:
                self._go_on()

    def _flush(self) -> None:
        """Send what the client takes. :raises OSError: it has gone"""
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
                self._use()
        except BlockingIOError:
            pass
