"""Attached connections of one container."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable

from core.errors import Unavailable
from core.supervise.loop import READ, WRITE, Loop
from core.supervise.protocol import CHUNK, Decoder, Message, json_frame

LAG = 1024 * 1024  # bytes a client may lag behind
STALL = 60.0  # seconds without any progress after which a lossless client is given up


class Client:
    """One attached connection. Its owner sets ``on_frame`` and ``on_change`` (room again, or gone)."""

    def __init__(self, loop: Loop, sock: socket.socket, *, stdin: bool, lossless: bool) -> None:
        self._loop = loop
        self._sock = sock
        self.stdin = stdin
        self.lossless = lossless
        self.on_frame: Callable[[Client, int, bytes], None] = lambda client, kind, payload: None
        self.on_change: Callable[[Client], None] = lambda client: None
        self._decoder = Decoder()
        self._waiting = bytearray()
        self._ending = False
        self._muted = False
        self._progress = time.monotonic()
        sock.setblocking(False)
        loop.watch(sock.fileno(), self._ready)

    @property
    def open(self) -> bool:
        return self._sock.fileno() >= 0

    @property
    def full(self) -> bool:
        return len(self._waiting) > LAG

    @property
    def stalled(self) -> bool:
        return self.full and time.monotonic() - self._progress > STALL

    def send(self, data: bytes) -> None:
        """Queue a frame; what the socket takes at once is never copied."""
        if self._ending or not self.open:
            return
        sent = 0 if self._waiting else self._try(data)
        if sent < len(data) and self.open:
            self._waiting += data[sent:]
            self._update()

    def finish(self, message: Message) -> None:
        """The last message; the connection closes once everything is delivered."""
        self.send(json_frame(message))
        self._ending = True
        if not self._waiting:
            self.close()

    def close(self) -> None:
        if self.open:
            self._loop.unwatch(self._sock.fileno())
            self._sock.close()
            self._waiting.clear()
            self.on_change(self)

    def mute(self, on: bool) -> None:
        """Stop (or go on) reading it, while the container does not take its input."""
        self._muted = on
        self._update()

    def _update(self) -> None:
        if self.open:
            wanted = (0 if self._muted else READ) | (WRITE if self._waiting else 0)
            self._loop.change(self._sock.fileno(), wanted)

    def _try(self, data: bytes | bytearray) -> int:
        try:
            sent = self._sock.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError:
            self.close()
            return 0
        self._progress = time.monotonic()
        return sent

    def _ready(self, events: int) -> None:
        if events & select.EPOLLOUT and self._waiting:
            del self._waiting[: self._try(self._waiting)]
            if not self._waiting and self._ending:
                self.close()
                return
            self._update()
            self.on_change(self)
        if self.open and events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self._read()

    def _read(self) -> None:
        try:
            data = self._sock.recv(CHUNK)
            for kind, payload in self._decoder.feed(data):
                self.on_frame(self, kind, payload)
        except BlockingIOError:
            return
        except (OSError, Unavailable, ValueError, TypeError):  # gone, or it does not speak our language
            data = b""
        if not data:
            self.close()
