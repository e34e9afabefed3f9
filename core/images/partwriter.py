"""A blob that is being downloaded, on its way into its file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import Self

from core.images.unpackers import in_thread

_IN_THREAD = 64 * 1024  # bytes from which a write is worth a thread: the disk may make it wait
_AHEAD = 2 * 1024 * 1024  # bytes that may wait for the disk
_MOST_PIECES = os.sysconf("SC_IOV_MAX")  # of one pwritev(2)


class PartWriter:
    """Use as ``async with``. Pieces that come while the disk is at work are written together, as they lie in memory.

    :param size: of the file so far
    :param written: told the file's size after each write
    :ivar size: bytes that are in the file
    """

    def __init__(self, fd: int, size: int, written: Callable[[int], None]) -> None:
        self.size = size
        self._fd = fd
        self._written = written
        self._waiting: list[bytes] = []
        self._bytes = 0  # that wait
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """What still waits is given up; nothing writes any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def add(self, piece: bytes) -> None:
        """Take a piece; wait only where many are waiting already. :raises OSError: of an earlier one"""
        self._waiting.append(piece)
        self._bytes += len(piece)
        if self._bytes > _AHEAD or len(self._waiting) == _MOST_PIECES:
            await self.flush()
        elif self._task is None or self._task.done():
            await self._over()
            self._task = asyncio.create_task(self._write())

    async def flush(self) -> None:
        """Until all is in the file. :raises OSError:"""
        await self._over()
        await self._write()

    async def _over(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            await task

    async def _write(self) -> None:
        while pieces := self._waiting:
            size, self._waiting, self._bytes = self._bytes, [], 0
            if size < _IN_THREAD:
                _write(self._fd, pieces, self.size)
            else:
                await in_thread(partial(_write, self._fd, pieces, self.size))
            self.size += size
            self._written(self.size)


def _write(fd: int, pieces: list[bytes], offset: int) -> None:
    done = os.pwritev(fd, pieces, offset)
    if done == sum(map(len, pieces)):
        return
    view = memoryview(b"".join(pieces))[done:]
    while view:
        offset += done
        done = os.pwrite(fd, view, offset)
        view = view[done:]
