"""What ``wharf logs`` reads: the lines of a log between two moments, the last ones, and those that come.

Text keeps every byte: what is not UTF-8 becomes surrogate escapes, so ``text.encode("utf-8", "surrogateescape")`` is
what the container wrote. A line that was split (16 KiB, rotation, the other stream in between) comes as several
``LogLine`` of which all but the last are ``partial``: written out without a newline they are the output again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

from core.logs.files import (
    Part,
    Place,
    close_chain,
    end_of,
    lines_forward,
    open_chain,
    place_of,
    tail_place,
)
from core.logs.format import MAX_RECORD, parse, stamp_seconds
from core.logs.watch import FolderWatch
from core.model.event import LogLine


def _line(raw: bytes) -> LogLine:
    return LogLine(*parse(raw, "surrogateescape"))


def read_lines(
    path: Path, *, tail: int | None = None, since: float | None = None, until: float | None = None
) -> Iterator[LogLine]:
    """The lines of the log at ``path`` as it is now, oldest first; none where it does not exist.

    :param tail: at most so many of the last lines
    :param since: from this moment on, seconds since the epoch
    :param until: up to and with this moment
    """
    parts = open_chain(path)
    try:
        if not parts:
            return
        end = end_of(parts) if until is None else place_of(parts, stamp_seconds(until), after=True)
        start = _begin(parts, end, tail, since)
        for index in range(start.part, end.part + 1):
            at = start.offset if index == start.part else 0
            stop = end.offset if index == end.part else parts[index].size
            for behind, lines in lines_forward(parts[index].fd, at, stop):
                at = behind
                yield from map(_line, lines)
            if at < stop:  # the record that is still open, or was when its writer was killed
                left = os.pread(parts[index].fd, min(MAX_RECORD, stop - at), at)
                when, stream, text, _ = parse(left, "surrogateescape")
                yield LogLine(when, stream, text, True)
    finally:
        close_chain(parts)


def _begin(parts: list[Part], end: Place, tail: int | None, since: float | None) -> Place:
    start = Place(0, 0) if since is None else place_of(parts, stamp_seconds(since))
    return start if tail is None else tail_place(parts, start, end, tail)


class _Follower:
    """Where a reader stands in a log that grows and is rotated under it."""

    def __init__(self, path: Path, tail: int | None, since: float | None) -> None:
        self._path = path
        self._part: Part | None = None
        self._at = 0
        parts = open_chain(path)
        if not parts:
            return
        place = _begin(parts, end_of(parts), tail, since)
        self._part = parts.pop(place.part)
        self._at = place.offset
        close_chain(parts)

    def batches(self) -> Iterator[list[LogLine]]:
        """All whole lines that are there now, across rotations."""
        while self._part or self._next():
            assert self._part is not None
            done = self._rotated()  # asked before reading: a file that was replaced before is complete
            for behind, lines in lines_forward(self._part.fd, self._at, self._part.size):
                self._at = behind
                yield [_line(line) for line in lines]
            if not done or not self._next():
                return

    def open_line(self) -> list[LogLine]:
        """The record at the very end that has no newline (its writer was killed)."""
        left = os.pread(self._part.fd, MAX_RECORD, self._at) if self._part else b""
        if not left or b"\n" in left:
            return []
        when, stream, text, _ = parse(left, "surrogateescape")
        return [LogLine(when, stream, text, True)]

    def _rotated(self) -> bool:
        try:
            return self._part is not None and os.stat(self._path).st_ino != self._part.inode
        except FileNotFoundError:
            return False  # between two renames of a rotation; its end wakes us

    def _next(self) -> bool:
        """Go to the file after ours; where rotation took that away as well, to the oldest that is left."""
        parts = open_chain(self._path)
        inodes = [part.inode for part in parts]
        if self._part and self._part.inode not in inodes and os.fstat(self._part.fd).st_nlink:
            # Not deleted, so hidden by renames during every listing: what woke us, or the next change, asks again.
            close_chain(parts)
            return False
        index = inodes.index(self._part.inode) + 1 if self._part and self._part.inode in inodes else 0
        if index >= len(parts):
            close_chain(parts)
            return False
        self.close()
        self._part, self._at = parts.pop(index), 0
        close_chain(parts)
        return True

    def close(self) -> None:
        if self._part:
            os.close(self._part.fd)
            self._part = None


async def follow_lines(
    path: Path,
    *,
    ended: Callable[[], Awaitable[object]],
    tail: int | None = None,
    since: float | None = None,
    until: float | None = None,
) -> AsyncIterator[LogLine]:
    """As :func:`read_lines`, then the lines to come, each once, across rotations; nothing polls.

    :param ended: returns once no more will be written; what is there by then is still read
    :param until: ends at this moment, seconds since the epoch
    :raises Unavailable: the host's inotify limits are used up
    """
    ready = asyncio.Event()
    over = asyncio.ensure_future(ended())
    over.add_done_callback(lambda _: ready.set())
    watch: FolderWatch | None = None
    follower: _Follower | None = None
    try:
        try:
            watch = FolderWatch(path.parent, ready)  # before reading: a line in between wakes us again
        except FileNotFoundError:
            await over  # never started: there is no folder yet, and none will come while it does not run
        follower = _Follower(path, tail, since)
        async for line in _follow(follower, ready, over, until):
            yield line
    finally:
        if watch:
            watch.close()
        if follower is not None:
            follower.close()
        over.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await over


async def _follow(
    follower: _Follower, ready: asyncio.Event, over: asyncio.Future[object], until: float | None
) -> AsyncIterator[LogLine]:
    last = None if until is None else stamp_seconds(until).decode()
    while True:
        ready.clear()
        final = over.done() or (until is not None and time.time() >= until)  # asked before reading: then all is there
        for batch in follower.batches():
            for line in batch:
                if last is not None and line.time > last:
                    return
                yield line
            await asyncio.sleep(0)  # a long log must not hold up the event loop
        if final:
            for line in follower.open_line():
                yield line
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if until is None else max(0.0, until - time.time())):
                await ready.wait()
