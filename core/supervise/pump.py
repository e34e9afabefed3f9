"""Output to the log and to attached clients; input the other way.

The log comes first and is never delayed. A client that asked for *lossless* output (the one that started the
container in the foreground) may hold the container back while it makes progress, as a pipe would; any other is
dropped with a notice as soon as it lags too far behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import struct
import termios
import time
from collections.abc import Callable
from typing import cast

from core.logs.writer import LogWriter
from core.supervise.clients import LAG, STALL, Client
from core.supervise.loop import READ, WRITE, Loop
from core.supervise.protocol import CHUNK, JSON, STDIN, Message, frame

_DRAIN_ROUNDS = 1024  # chunks: more than any pipe holds
_RETRY = 0.1  # seconds until a terminal that nobody has open is looked at again
_DROPPED: Message = {"dropped": "this client reads too slowly; the log has everything"}


class Pump:
    """Moves one container's bytes. It does not own the descriptors that it is given.

    :param on_input_end: called when a client has ended the input and all of it is written: the owner closes the sink
    """

    def __init__(self, loop: Loop, on_input_end: Callable[[], None]) -> None:
        self._loop = loop
        self.log: LogWriter | None = None  # set before the first :meth:`open`
        self._on_input_end = on_input_end
        self._sources: dict[int, int] = {}
        self._resting: set[int] = set()  # terminals that hung up, to be looked at again
        self._clients: set[Client] = set()
        self._terminal: int | None = None
        self._sink: int | None = None
        self._input = bytearray()
        self._input_ends = False
        self._held = False

    @property
    def busy(self) -> bool:
        """True while a client has not got everything yet."""
        return bool(self._clients)

    # -- the container's side
    def open(self, sources: dict[int, int], sink: int | None, terminal: int | None) -> None:
        """Start moving.

        :param sources: descriptor → stream (1, 2), non-blocking
        :param sink: where input goes, non-blocking; None: there is no input
        :param terminal: the descriptor that resizing applies to
        """
        self._sources, self._sink, self._terminal = dict(sources), sink, terminal
        self._input_ends = False
        for fd in self._all():
            self._loop.watch(fd, lambda events, fd=fd: self._ready(fd, events), self._events(fd))  # type: ignore[misc]

    def close(self) -> None:
        """Take what is left in the pipes, then let go of them. The clients stay."""
        for fd in list(self._sources):
            for _ in range(_DRAIN_ROUNDS):
                if not self._take(fd):
                    break
        for fd in self._all():
            self._loop.unwatch(fd)
        self._sources, self._sink, self._terminal, self._held = {}, None, None, False
        self._resting.clear()
        self._input.clear()

    def resize(self, rows: int, columns: int) -> None:
        if self._terminal is not None:
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _all(self) -> set[int]:
        return set(self._sources) | ({self._sink} if self._sink is not None else set())

    def _events(self, fd: int) -> int:
        reading = READ if fd in self._sources and not self._held else 0
        return reading | (WRITE if fd == self._sink and self._input else 0)

    def _update(self) -> None:
        for fd in self._all() - self._resting:
            self._loop.change(fd, self._events(fd))

    def _ready(self, fd: int, events: int) -> None:
        if events & select.EPOLLOUT:
            self._write_input()
        if events & select.EPOLLIN:
            self._take(fd)
        elif events & select.EPOLLHUP:
            # A terminal that nobody has open says so again and again: look only now and then.
            self._loop.unwatch(fd)
            self._resting.add(fd)
            self._loop.after(_RETRY, lambda: self._look_again(fd))

    def _look_again(self, fd: int) -> None:
        if fd in self._resting:
            self._resting.discard(fd)
            self._loop.watch(fd, lambda events: self._ready(fd, events), self._events(fd))

    def _take(self, fd: int) -> bool:
        """Move one chunk; False where there is none."""
        try:
            data = os.read(fd, CHUNK)
        except OSError:  # EAGAIN: empty; EIO: a terminal without anybody on the other side
            return False
        if data:
            stream = self._sources[fd]
            assert self.log is not None
            self.log.write(stream, data, time.time_ns())
            if self._clients:
                self._broadcast(frame(stream, data))
        return bool(data)

    # -- the clients' side
    def add(self, sock: socket.socket, *, stdin: bool, lossless: bool = False) -> None:
        """Attach a connection; it is owned from here on."""
        client = Client(self._loop, sock, stdin=stdin, lossless=lossless)
        client.on_frame, client.on_change = self._from_client, self._changed
        self._clients.add(client)

    def finish(self, message: Message) -> None:
        """Close the log and tell every client the end; each is closed when it has everything."""
        if self.log is not None:
            self.log.close()
        for client in list(self._clients):
            client.finish(message)

    def _broadcast(self, data: bytes) -> None:
        for client in list(self._clients):
            client.send(data)
            if client.full and not client.lossless:
                self._drop(client)
            elif client.full and not self._held:
                self._held = True
                self._update()
                self._loop.after(STALL, self._check_stalled)

    def _drop(self, client: Client) -> None:
        client.finish(_DROPPED)
        # What it already has queued may still arrive; it gets nothing more and holds nobody back.
        self._clients.discard(client)
        self._loop.after(STALL, client.close)

    def _check_stalled(self) -> None:
        for client in [client for client in self._clients if client.stalled]:
            client.close()
        if self._held:
            self._loop.after(STALL, self._check_stalled)

    def _changed(self, client: Client) -> None:
        if not client.open:
            self._clients.discard(client)
        if self._held and not any(each.full for each in self._clients):
            self._held = False
            self._update()

    def _from_client(self, client: Client, kind: int, payload: bytes) -> None:
        if kind == STDIN and client.stdin:
            self._input += payload
            self._write_input()
            if len(self._input) > LAG:
                client.mute(True)
        elif kind == JSON:
            message = json.loads(payload)
            size = message.get("resize")
            if size:
                self.resize(*cast("tuple[int, int]", size))
            if message.get("close_stdin") and client.stdin and self._terminal is None:
                self._input_ends = True
                self._write_input()

    def _write_input(self) -> None:
        if self._sink is None:
            self._input.clear()
            return
        try:
            while self._input:
                del self._input[: os.write(self._sink, self._input[:CHUNK])]
        except BlockingIOError:
            pass
        except OSError:
            self._input.clear()
        if self._input_ends and not self._input:
            self._loop.unwatch(self._sink)
            self._sink = None
            self._on_input_end()
        self._update()
        if len(self._input) <= LAG:
            for client in self._clients:
                client.mute(False)
