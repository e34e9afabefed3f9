"""The engine's end of an attached container or of a command run inside (``core.engine.Session``)."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import struct
import termios
from collections.abc import Coroutine

from core.errors import Unavailable
from core.supervise.protocol import CHUNK, JSON, STDIN, Decoder, frame, json_frame

_NAMES = {1: "stdout", 2: "stderr"}
_LIMIT = 1024 * 1024  # bytes that wait for a reader before the writer is held back
_LATE = 0.5  # seconds in which output may still come after the end of a command
Chunk = tuple[str, bytes]


class _Inbox:
    """A bounded queue of chunks with one end. Once somebody waits for the end only, the bound is off."""

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []
        self._size = 0
        self._ended = False
        self._changed = asyncio.Condition()
        self.bounded = True

    async def put(self, name: str, data: bytes) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._size < _LIMIT or not self.bounded)
            self._chunks.append((name, data))
            self._size += len(data)
            self._changed.notify_all()

    async def end(self) -> None:
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def get(self) -> Chunk | None:
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._chunks) or self._ended)
            if not self._chunks:
                return None
            chunk = self._chunks.pop(0)
            self._size -= len(chunk[1])
            self._changed.notify_all()
            return chunk

    async def unbound(self) -> None:
        async with self._changed:
            self.bounded = False
            self._changed.notify_all()


class _Session:
    """What both kinds share."""

    def __init__(self, *, tty: bool) -> None:
        self._tty = tty
        self._inbox = _Inbox()
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def tty(self) -> bool:
        return self._tty

    async def read(self) -> Chunk | None:
        return await self._inbox.get()

    async def wait(self) -> int:
        """:raises Unavailable: the monitor was lost before the end"""
        # A caller that waits need not read as well: unread output must not keep the end from coming.
        await self._inbox.unbound()
        return await asyncio.shield(self._exit)

    def _start(self, *work: Coroutine[object, object, None]) -> None:
        self._tasks += [asyncio.create_task(each) for each in work]

    def _resolve(self, code: object) -> None:
        if self._exit.done():
            return
        if isinstance(code, int):
            self._exit.set_result(code)
        else:
            self._exit.set_exception(Unavailable("the exit code is unknown", "the monitor of the container has gone"))
            self._exit.exception()  # seen: nobody is obliged to ask for it

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._inbox.end()
        self._resolve(None)


class AttachSession(_Session):
    """Frames to and from the monitor of a container."""

    def __init__(self, sock: socket.socket, *, tty: bool) -> None:
        super().__init__(tty=tty)
        sock.setblocking(False)
        self._sock = sock
        self._sending = asyncio.Lock()
        self._start(self._receive())

    async def _receive(self) -> None:
        loop, decoder = asyncio.get_running_loop(), Decoder()
        try:
            while data := await loop.sock_recv(self._sock, CHUNK):
                for kind, payload in decoder.feed(data):
                    if kind in _NAMES:
                        await self._inbox.put(_NAMES[kind], payload)
                    elif kind == JSON:
                        await self._told(json.loads(payload))
        except (OSError, ValueError, Unavailable):
            pass
        finally:
            self._resolve(None)
            await self._inbox.end()

    async def _told(self, message: dict[str, object]) -> None:
        if "exit" in message:
            self._resolve(message["exit"])
        elif "dropped" in message:
            await self._inbox.put("stderr", f"\r\n[{message['dropped']}]\r\n".encode())

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), CHUNK):
            await self._send(frame(STDIN, data[start : start + CHUNK]))

    async def close_stdin(self) -> None:
        await self._send(json_frame({"close_stdin": True}))

    async def resize(self, rows: int, columns: int) -> None:
        await self._send(json_frame({"resize": [rows, columns]}))

    async def _send(self, data: bytes) -> None:
        # One frame at a time: two that were cut into each other could not be read.
        async with self._sending:
            try:
                await asyncio.get_running_loop().sock_sendall(self._sock, data)
            except OSError:
                pass  # after its end: ignored

    async def close(self) -> None:
        await self._stop()
        self._sock.close()


class ExecSession(_Session):
    """A command inside: its pipes or its terminal directly, its end from the monitor.

    :param control: connection on which the monitor reports the exit code
    :param outputs: descriptors to read, by ``stdout`` or ``stderr``; for a terminal one that is also written
    :param stdin: descriptor to write; None: no input
    """

    def __init__(self, control: socket.socket, outputs: dict[str, int], stdin: int | None, *, tty: bool) -> None:
        super().__init__(tty=tty)
        control.setblocking(False)
        self._control = control
        self._outputs = outputs
        self._stdin = stdin
        for fd in {*outputs.values()} | (set() if stdin is None else {stdin}):
            os.set_blocking(fd, False)
        self._start(self._follow())

    async def _follow(self) -> None:
        pumps = [asyncio.create_task(self._pump(name, fd)) for name, fd in self._outputs.items()]
        try:
            await self._await_exit()
            if pumps:
                # A child left in the background may hold the pipe for ever: the command itself has ended.
                await asyncio.wait(pumps, timeout=None if self._inbox.bounded else _LATE)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            await self._inbox.end()

    async def _await_exit(self) -> None:
        loop, decoder = asyncio.get_running_loop(), Decoder()
        try:
            while data := await loop.sock_recv(self._control, CHUNK):
                for _, payload in decoder.feed(data):
                    self._resolve(json.loads(payload).get("exit"))
        except (OSError, ValueError, Unavailable):
            pass
        self._resolve(None)

    async def _pump(self, name: str, fd: int) -> None:
        while True:
            try:
                data = os.read(fd, CHUNK)
            except BlockingIOError:
                await ready(fd, write=False)
                continue
            except OSError:  # EIO: nobody has the terminal open any more
                return
            if not data:
                return
            await self._inbox.put(name, data)

    async def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and self._stdin is not None:
            try:
                rest = rest[os.write(self._stdin, rest) :]
            except BlockingIOError:
                await ready(self._stdin, write=True)
            except OSError:
                return  # after its end: ignored

    async def close_stdin(self) -> None:
        if self._stdin is not None and not self._tty:
            os.close(self._stdin)
            self._stdin = None

    async def resize(self, rows: int, columns: int) -> None:
        if self._tty and "stdout" in self._outputs:
            fcntl.ioctl(self._outputs["stdout"], termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def close(self) -> None:
        await self._stop()
        self._control.close()
        for fd in {*self._outputs.values()} | (set() if self._stdin is None else {self._stdin}):
            os.close(fd)
        self._outputs, self._stdin = {}, None


async def ready(fd: int, *, write: bool) -> None:
    """Until ``fd`` can be read or written."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    add(fd, wake)
    try:
        await ready
    finally:
        remove(fd)
