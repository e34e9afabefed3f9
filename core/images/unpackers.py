"""The engine's side of the unpack server (:mod:`core.images.unpack`)."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from core.errors import Unavailable, WharfError, from_dict
from core.store.paths import Instance

T = TypeVar("T")
_CODE = "import sys; sys.path[:0] = sys.argv[1:-3]; from core.images.unpack import main; main()"
_MESSAGE = 65536
# Workers at once, however many layers are under way: each has two threads, and where those of several share a processor
# they only take its cache from each other. Two, that a layer which comes slowly holds up no other one.
_WORKERS = max(2, min(4, len(os.sched_getaffinity(0))))
_PACKAGES = ("core", "isal", "backports.zstd")


@dataclass(frozen=True)
class Result:
    """What a worker made: digests of the blob and of the archive in it, bytes of files, directories left out."""

    blob: str
    diffid: str
    size: int
    implied: int


@dataclass(frozen=True)
class Verdict:
    """What a worker found: the digest of a layer's archive ("" where it cannot be made), its bytes, what is wrong."""

    diffid: str
    size: int
    problems: tuple[str, ...]


def _places() -> list[str]:
    """Where the server finds its modules: nothing else is on its path."""
    found = []
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = spec.origin if spec else None
        if origin is None:
            raise Unavailable(f"the package {name} is not installed", "images need it", "Install wharfinger again")
        place = str(Path(origin).parents[name.count(".") + 1])
        if place not in found:
            found.append(place)
    return found


class Unpackers:
    """Starts the server on first use and hands it layers. Close it when the pull is over."""

    def __init__(self, inst: Instance) -> None:
        self._inst = inst
        self._sock: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._jobs: dict[int, tuple[asyncio.Future[dict[str, Any]], Callable[[int], None]]] = {}
        self._last = 0
        self.held: list[int] = []  # descriptors of layers that must stay until :meth:`close` (Layers.hold)
        self._starting = asyncio.Lock()
        self._free = asyncio.Semaphore(_WORKERS)

    async def start(self) -> None:
        """Start the server, if that is not done yet; takes about 30 ms, which are best spent beside something else."""
        async with self._starting:
            if self._sock is None:
                self._sock = await in_thread(self._spawn)
                asyncio.get_running_loop().add_reader(self._sock, self._read)

    def _spawn(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            numbers = [str(theirs.fileno()), str(self._inst.root), str(self._inst.run)]
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _CODE, *_places(), *numbers],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd="/",
            )
        ours.setblocking(False)
        return ours

    async def check(self, layer: int, staging: int, progress: Callable[[int], None]) -> Verdict:
        """Compare the layer in the folder ``layer`` with its archive, and tell that one's digest.

        :param staging: an empty folder beside it, for the worker's use
        :raises WharfError: it could not be done (the disk is full)
        """
        answer = await self._ask({"check": 1}, [layer, staging], progress)
        return Verdict(answer["diffid"], answer["size"], tuple(answer["problems"]))

    async def unpack(
        self, fd: int, offset: int, size: int, staging: int, wake: int | None, progress: Callable[[int], None]
    ) -> Result:
        """Unpack ``size`` bytes from ``offset`` of ``fd`` into the directory ``staging``, once a worker is free.

        :param size: -1 for a pipe, which is read to its end
        :param wake: read end of the pipe that tells of growth (see :class:`core.images.inflate.Source`), or None
        :param progress: told how many bytes have been read
        :raises WharfError: what the worker found; it has ended
        """
        fds = [fd, staging] if wake is None else [fd, staging, wake]
        async with self._free:
            answer = await self._ask({"offset": offset, "size": size}, fds, progress)
        return Result(answer["blob"], answer["diffid"], answer["size"], answer["implied"])

    async def _ask(self, request: dict[str, int], fds: list[int], progress: Callable[[int], None]) -> dict[str, Any]:
        await self.start()
        assert self._sock is not None
        self._last += 1
        job = self._last
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._jobs[job] = (future, progress)
        try:
            socket.send_fds(self._sock, [json.dumps({"job": job, **request}).encode()], fds)
            return await future
        except OSError as error:
            raise _gone() from error
        finally:
            self._jobs.pop(job, None)

    def _read(self) -> None:
        assert self._sock is not None
        try:
            data = self._sock.recv(_MESSAGE)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._sock)
            for future, _ in self._jobs.values():
                if not future.done():
                    future.set_exception(_gone())
            return
        message = json.loads(data)
        known = self._jobs.get(message["job"])
        if known is None or known[0].done():
            return
        future, progress = known
        if "done" in message:
            progress(message["done"])
        elif "error" in message:
            future.set_exception(from_dict(message["error"]))
        else:
            future.set_result(message)

    async def close(self, *, wait: bool) -> None:
        """End the server and its workers; ``wait`` until no worker can write any more."""
        while self.held:
            os.close(self.held.pop())
        if self._sock is None or self._process is None:
            return
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()
        self._sock = None
        if wait:
            await asyncio.to_thread(self._process.wait)
        else:
            threading.Thread(target=self._process.wait, daemon=True).start()


async def in_thread(work: Callable[[], T]) -> T:
    """Like ``asyncio.to_thread``, but a cancelled caller waits until the thread has ended: what it works on (a
    descriptor that would be closed and its number used again, a process that would be lost) outlives it."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)  # its failure no longer matters, and is nothing to print
        raise


def _gone() -> WharfError:
    return Unavailable("the unpack server ended", "it was killed, or could not start", "Look for OOM kills; try again")


def wake_pipe() -> tuple[int, int]:
    """(read end, write end) of a pipe that tells of growth; writing never blocks."""
    read, write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(write, False)
    return read, write


def poke(write: int) -> None:
    """Say that there is more; a full pipe has said it already, and a worker that ended need not know."""
    try:
        os.write(write, b"\1")
    except (BlockingIOError, BrokenPipeError):
        pass
