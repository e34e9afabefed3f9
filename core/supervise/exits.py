"""The engine's ear: monitors tell it of containers that have ended."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine

from core.errors import WharfError
from core.store.paths import Instance
from core.supervise import sockets
from core.supervise.protocol import CHUNK

_PATIENCE = 5.0  # seconds a monitor may take to say what it wants
_COUNT = itertools.count()  # a process may hold several engines


class EngineSocket:
    """``$RUN/engines/PID.sock``: monitors tell this engine of containers that have ended.

    :param handler: releases what the container with that id holds
    """

    def __init__(self, inst: Instance, handler: Callable[[str], Awaitable[None]]) -> None:
        self._path = inst.engines / f"{os.getpid()}.{next(_COUNT)}.sock"
        self._handler = handler
        self._tasks: set[asyncio.Task[None]] = set()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._sock.setblocking(False)

    async def start(self) -> None:
        # Only what listens has the name: a monitor takes one that refuses it for a dead engine's, and removes it.
        early = f"{self._path}.new"
        sockets.bind(self._sock, early)
        self._sock.listen(1024)
        os.rename(early, self._path)
        # Not the loop's own accept: cancelling that may lose a connection that has just been accepted.
        asyncio.get_running_loop().add_reader(self._sock, self._accept)

    async def close(self) -> None:
        """Let the work at hand finish; monitors that come later find another engine or clean up themselves."""
        self._path.unlink(missing_ok=True)
        # Before the socket is closed: the event loop still watches its descriptor.
        asyncio.get_running_loop().remove_reader(self._sock)
        self._accept()  # who has connected already is served
        self._sock.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _run(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work, name="exited")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _accept(self) -> None:
        while True:
            try:
                sock = self._sock.accept()[0]
            except OSError:  # EAGAIN: no more
                return
            sock.setblocking(False)
            self._run(self._serve(sock))

    async def _serve(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with sock:
            try:
                async with asyncio.timeout(_PATIENCE):
                    message = json.loads(await loop.sock_recv(sock, CHUNK))
                await self._handler(str(message["id"]))
                await loop.sock_sendall(sock, b'{"ok": true}')
            except (OSError, ValueError, KeyError, TimeoutError, WharfError):
                return  # without an answer the monitor turns to the next engine, or to the one-shot clean-up
