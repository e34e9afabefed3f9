"""The files of one log as one: the chain ``0.log.N`` … ``0.log.1``, ``0.log``, oldest first, held open.

Everything is read with pread(2) in blocks; no function holds more than a few blocks, whatever the size of the log.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.logs.format import MAX_RECORD, PREFIX, TAG, TIME, is_record

BLOCK = 64 * 1024  # bytes
_STRIDE = 256 * 1024  # bytes read at once on the way forward
_NEAR = 4096  # bytes left to look through one by one at the end of a bisection


@dataclass(frozen=True)
class Part:
    """One open file of the chain."""

    fd: int
    inode: int

    @property
    def size(self) -> int:
        return os.fstat(self.fd).st_size


@dataclass(frozen=True, order=True)
class Place:
    """A position in a chain: the part's index and a byte offset where a record begins."""

    part: int
    offset: int


def open_chain(path: Path) -> list[Part]:
    """The files of the log at ``path``, oldest first; the caller closes them. Empty where there is no log yet.

    Opened from the newest to the oldest, the way rotation moves them: a rotation meanwhile may show a file twice
    (then it is taken once), but never hides one. Rotations may also move the oldest beyond what a listing showed
    (and a listing may miss a file renamed during it): so one is made again until it shows nothing further.
    """
    found: dict[int, Part] = {}
    number, last = 0, _last_number(path)
    while number <= last + 1:
        while number <= last + 1:
            name = f"{path}.{number}" if number else str(path)
            number += 1
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                inode = os.fstat(fd).st_ino
                if inode in found:
                    os.close(fd)
                else:
                    found[inode] = Part(fd, inode)
        last = _last_number(path)
    return list(reversed(found.values()))


def _last_number(path: Path) -> int:
    """The number of the oldest file, 0 for none older than the current one; -2 where there is no folder."""
    pattern = re.compile(re.escape(path.name) + r"\.(\d+)")
    try:
        return max((int(match[1]) for name in os.listdir(path.parent) if (match := pattern.fullmatch(name))), default=0)
    except FileNotFoundError:
        return -2


def close_chain(parts: list[Part]) -> None:
    for part in parts:
        os.close(part.fd)


def _line_after(fd: int, at: int, end: int) -> int:
    """The offset behind the first newline at ``at`` or after it; ``end`` for none."""
    while at < end:
        data = os.pread(fd, min(BLOCK, end - at), at)
        found = data.find(b"\n")
        if found >= 0 or not data:
            return at + found + 1 if data else end
        at += len(data)
    return end


def record_at(fd: int, offset: int, end: int) -> tuple[int, bytes]:
    """The first record that begins at ``offset`` or after it, as (its offset, its line); (``end``, b"") for none.

    What is not a record (a host crash may leave zeros) is passed over.
    """
    start = _line_after(fd, offset - 1, end) if offset else 0
    while start < end:
        line = os.pread(fd, min(MAX_RECORD, end - start), start).partition(b"\n")[0]
        if is_record(line):
            return start, line
        start = _line_after(fd, start, end)
    return end, b""


def seek_time(fd: int, end: int, when: bytes, *, after: bool = False) -> int:
    """The offset of the first record whose time is ``when`` or later (with ``after``: later), by bisection.

    Times are taken to rise; a clock that was set back makes the answer one of several right ones.
    """
    low, high = 0, end
    while high - low > _NEAR:
        middle = (low + high) // 2
        start, line = record_at(fd, middle, end)
        if start < high and (line[:TIME] <= when if after else line[:TIME] < when):
            low = start
        else:
            high = middle
    while low < end:
        start, line = record_at(fd, low, end)
        if not line or not (line[:TIME] <= when if after else line[:TIME] < when):
            return start
        low = start + max(1, len(line))
    return end


def place_of(parts: list[Part], when: bytes, *, after: bool = False) -> Place:
    """Where the records from ``when`` on begin in the whole chain (see :func:`seek_time`)."""
    for index in range(len(parts) - 1, -1, -1):
        size = parts[index].size
        _, first = record_at(parts[index].fd, 0, size)
        if index == 0 or (first and (first[:TIME] <= when if after else first[:TIME] < when)):
            return Place(index, seek_time(parts[index].fd, size, when, after=after))
    return Place(0, 0)


def end_of(parts: list[Part]) -> Place:
    return Place(len(parts) - 1, parts[-1].size) if parts else Place(0, 0)


def lines_forward(fd: int, start: int, end: int) -> Iterator[tuple[int, list[bytes]]]:
    """Whole lines from ``start`` on in batches, each with the offset behind it; no last one without newline."""
    while start < end:
        data = os.pread(fd, min(_STRIDE, end - start), start)
        stop = data.rfind(b"\n")
        if stop < 0:
            if len(data) < _STRIDE:
                return
            start += len(data)  # no record of ours is that long: pass over what a crash left
            continue
        start += stop + 1
        yield start, data[:stop].split(b"\n")


def lines_backward(parts: list[Part], start: Place, end: Place) -> Iterator[tuple[Place, bytes]]:
    """Lines with their places from before ``end`` back to ``start``, newest first."""
    for index in range(end.part, start.part - 1, -1):
        low = start.offset if index == start.part else 0
        high = end.offset if index == end.part else parts[index].size
        for offset, line in _backward(parts[index].fd, low, high):
            yield Place(index, offset), line


def _backward(fd: int, low: int, high: int) -> Iterator[tuple[int, bytes]]:
    if high <= low:
        return
    if os.pread(fd, 1, high - 1) == b"\n":
        high -= 1
    rest = b""
    while high > low:
        size = min(BLOCK, high - low)
        high -= size
        data = os.pread(fd, size, high) + rest
        rest, *lines = data.split(b"\n")
        at = high + len(data)
        for line in reversed(lines):
            at -= len(line) + 1
            yield at + 1, line
    yield low, rest


def tail_place(parts: list[Part], start: Place, end: Place, count: int) -> Place:
    """Where the last ``count`` lines before ``end`` begin (not before ``start``).

    A line that was split into partial records counts once; one that ends without a newline counts too.
    """
    place, found, stream = end, 0, b""
    for at, line in lines_backward(parts, start, end):
        partial = is_record(line) and line[TAG] == ord("P")
        if not partial or place == end:
            if found == count:
                break
            found += 1
        elif found == count and line[TIME + 1 : TAG - 1] != stream:
            break
        stream = line[TIME + 1 : TAG - 1] if len(line) >= PREFIX else b""
        place = at
    return place
