"""Who tells whom: one append-only file of JSON lines that every open engine watches with inotify(7).

A line is written by a single ``write`` on an ``O_APPEND`` descriptor, so that lines of several processes never mix.
The file is at once the event history of this boot. Past ``LIMIT`` it is renamed to ``events.1`` and begun anew.
The writing side is :mod:`core.store.tell`: every monitor imports that, so it must stay small.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO

from core.errors import Unavailable
from core.model.event import Event
from core.store.tell import LIMIT, append

__all__ = ["LIMIT", "Watch", "append", "parse", "past"]

_IN_MODIFY, _IN_MOVED_TO, _IN_CREATE = 0x2, 0x80, 0x100
_QUEUE = 65536  # bytes of inotify's queue taken at once
_CHUNK = 65536  # bytes of the file
_IN_NONBLOCK, _IN_CLOEXEC = 0o4000, 0o2000000


def parse(line: bytes) -> Event | None:
    """The event of one line; None for a line cut by a crash."""
    try:
        data = json.loads(line)
        return Event(data["t"], data["k"], data["a"], data["i"], data["x"])
    except (ValueError, KeyError):
        return None


def past(path: Path, since: float = 0.0) -> Iterator[Event]:
    """The events still kept, oldest first."""
    for data in _files(path):
        for line in data.splitlines():
            event = parse(line)
            if event and event.time >= since:
                yield event


def _files(path: Path) -> list[bytes]:
    """What is in the older file and in the one in use."""
    while True:
        with contextlib.ExitStack() as stack:
            found: list[BinaryIO] = []
            # The one in use first: were it renamed after a look at the older one, its lines would be in neither.
            for name in (path, path.with_name("events.1")):
                with contextlib.suppress(FileNotFoundError):
                    found.insert(0, stack.enter_context(open(name, "rb")))
            if len(found) < 2 or not os.path.sameopenfile(found[0].fileno(), found[1].fileno()):
                return [file.read() for file in found]


def _read(file: BinaryIO) -> bytes:
    data = part = os.read(file.fileno(), _CHUNK)
    while len(part) == _CHUNK:  # a short read of a file was its end
        part = os.read(file.fileno(), _CHUNK)
        data += part
    return data


class Watch:
    """New events from the moment of construction on, of every process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        mask = _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE
        # The folder, not the file: the file is replaced when it is full. Nothing else lives in that folder.
        if self._fd < 0 or libc.inotify_add_watch(self._fd, os.fsencode(path.parent), mask) < 0:
            code = ctypes.get_errno()
            self.close()
            raise Unavailable(
                "cannot watch for changes",
                f"inotify: {os.strerror(code)}",
                "Raise fs.inotify.max_user_watches or max_user_instances with sysctl",
            )
        self._file = open(path, "ab+", buffering=0)  # noqa: SIM115 - kept open for the watch's life
        self._file.seek(0, os.SEEK_END)
        self._last: BinaryIO | None = None  # the one before: who had opened it then may write to it late
        self._rest = b""

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        for file in (getattr(self, "_file", None), getattr(self, "_last", None)):
            if file is not None:
                file.close()

    def _empty(self) -> None:
        """Empty the inotify queue; what it says does not matter, the file is read either way."""
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._fd, _QUEUE)) > _QUEUE // 2:  # less: that was all
                pass

    def _drain(self) -> list[Event]:
        data = b"" if self._last is None else _read(self._last)  # whole lines: each is one write
        data += self._rest + _read(self._file)
        if self._replaced():
            # Once more: somebody may have written to it between the reading above and its renaming.
            data += _read(self._file)
            if self._last is not None:
                self._last.close()
            self._last = self._file
            self._file = open(self._path, "ab+", buffering=0)  # noqa: SIM115
            self._file.seek(0)
            data += _read(self._file)
        *lines, self._rest = data.split(b"\n")
        return [event for line in lines if (event := parse(line))]

    def _replaced(self) -> bool:
        try:
            return os.fstat(self._file.fileno()).st_ino != os.stat(self._path).st_ino
        except FileNotFoundError:
            return True

    async def __aiter__(self) -> AsyncIterator[Event]:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._fd, ready.set)
        try:
            while True:
                for event in self._drain():
                    yield event
                await ready.wait()
                ready.clear()
                self._empty()
        finally:
            if self._fd >= 0:
                loop.remove_reader(self._fd)
            self.close()
