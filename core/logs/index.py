"""``LogView``: any line of a log by its number, for a screen, whatever the size.

The index is the count of newlines up to the end of each 64 KiB block: 1 GB takes half a second of CPU and 128 kB.
Text is read by pread(2) when it is asked for (mmap would show the whole file as resident memory). Each record is a
line; one that was split keeps its parts as lines of their own, marked ``partial``, so that a number never moves.
"""

from __future__ import annotations

import os
import time
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

from core.logs.files import BLOCK, Part, close_chain, end_of, lines_backward, open_chain
from core.logs.format import MAX_RECORD, PREFIX, parse
from core.model.event import LogLine

_SLICE = 16  # blocks counted between two looks at the clock
_PAGE = 2000  # lines searched at once


class _Numbered:
    """The index of one file."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.counts = array("Q")  # newlines up to the end of each block
        self.size = 0  # bytes counted
        self.open = False  # whether what was counted ends amid a line

    @property
    def newlines(self) -> int:
        return self.counts[-1] if self.counts else 0

    @property
    def lines(self) -> int:
        return self.newlines + self.open

    def count(self, limit: int) -> bool:
        """Count at most ``limit`` blocks more; True at the end of the file as it is now."""
        for _ in range(limit):
            within = self.size % BLOCK
            data = os.pread(self.part.fd, BLOCK - within, self.size)
            if not data:
                return True
            total = self.newlines + data.count(b"\n")
            if within:
                self.counts[-1] = total
            else:
                self.counts.append(total)
            self.size += len(data)
            self.open = data[-1] != 10
        return False

    def offset(self, line: int) -> int:
        """Where line ``line`` of this file begins; it must be numbered."""
        if line == 0:
            return 0
        block = bisect_left(self.counts, line)
        skip = line - (self.counts[block - 1] if block else 0)
        data = os.pread(self.part.fd, BLOCK, block * BLOCK)
        return block * BLOCK + len(data) - len(data.split(b"\n", skip)[skip])

    def read(self, first: int, count: int) -> list[bytes]:
        """Up to ``count`` lines from ``first`` on."""
        count = min(count, self.lines - first)
        if count <= 0:
            return []
        at = self.offset(first)
        pieces: list[bytes] = []
        found = 0
        while found < count and at < self.size:
            data = os.pread(self.part.fd, min(BLOCK, self.size - at), at)
            if not data:
                break
            pieces.append(data)
            found += data.count(b"\n")
            at += len(data)
        return b"".join(pieces).split(b"\n", count)[:count]


class LogView:
    """Implements :class:`core.engine.LogFile` for the log at ``path``; it need not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts = [_Numbered(part) for part in open_chain(path)]
        self._dropped = 0
        self._indexed = not self._parts

    # -- numbers --------------------------------------------------------------------------------------------------
    @property
    def indexed(self) -> bool:
        """True once every line that was there at the last :meth:`refresh` is numbered."""
        return self._indexed

    @property
    def lines(self) -> int:
        """How many lines are numbered; a line still being written counts."""
        return sum(part.lines for part in self._parts)

    @property
    def dropped(self) -> int:
        """How many numbered lines rotation has taken away since the log was opened."""
        return self._dropped

    def refresh(self, budget: float = 0.01) -> bool:
        """Take up what is new, for about ``budget`` seconds; True where more remains."""
        self._follow_rotation()
        end = time.monotonic() + budget
        for part in self._parts:
            # A file that was rotated away no longer grows: counted once to its end, it is left alone.
            while not part.count(_SLICE):
                if time.monotonic() >= end:
                    self._indexed = all(one.size >= one.part.size for one in self._parts)
                    return not self._indexed
        self._indexed = True
        return False

    def _follow_rotation(self) -> None:
        try:
            newest = os.stat(self._path).st_ino
        except FileNotFoundError:
            return  # not written yet, or between two renames of a rotation
        if self._parts and self._parts[-1].part.inode == newest:
            return
        found = open_chain(self._path)
        known = {one.part.inode: one for one in self._parts}
        kept: list[_Numbered] = []
        for part in found:
            same = known.pop(part.inode, None)
            if same:
                os.close(part.fd)
            kept.append(same or _Numbered(part))
        for gone in known.values():  # closed at once: an open descriptor would keep the space of the deleted file
            self._dropped += gone.lines
            os.close(gone.part.fd)
        self._parts = kept

    # -- lines ----------------------------------------------------------------------------------------------------
    def read(self, first: int, count: int) -> list[LogLine]:
        """Lines ``first`` to ``first + count - 1``, those of them that are numbered."""
        return [LogLine(*parse(raw)) if closed else _open_line(raw) for raw, closed in self._raw(max(0, first), count)]

    def _raw(self, first: int, count: int) -> Iterator[tuple[bytes, bool]]:
        for part in self._parts:
            if count <= 0:
                return
            if first < part.lines:
                lines = part.read(first, count)
                for number, raw in enumerate(lines, first):
                    yield raw, number < part.newlines
                count -= len(lines)
                first = 0
            else:
                first -= part.lines

    def tail(self, count: int) -> list[LogLine]:
        """The last ``count`` lines there are now; needs no index."""
        self._follow_rotation()
        parts = [one.part for one in self._parts]
        if not parts or count <= 0:
            return []
        end = end_of(parts)
        closed = not end.offset or os.pread(parts[-1].fd, 1, end.offset - 1) == b"\n"
        found: list[LogLine] = []
        for _, raw in lines_backward(parts, type(end)(0, 0), end):
            found.append(LogLine(*parse(raw)) if closed else _open_line(raw))
            closed = True
            if len(found) == count:
                break
        found.reverse()
        return found

    def find(self, needle: str, start: int, *, backwards: bool = False, limit: int = 100_000) -> int | None:
        """The number of the nearest line with ``needle`` (any case) at or after ``start`` (backwards: at or before).

        :param limit: how many lines are looked through at most
        """
        wanted = needle.lower()
        total = self.lines
        if backwards:
            start = min(start, total - 1)
            stop = max(-1, start - limit)
            while start > stop:
                first = max(stop + 1, start - _PAGE + 1)
                found = self._search(wanted, first, start - first + 1, backwards=True)
                if found is not None:
                    return found
                start = first - 1
            return None
        start = max(0, start)
        stop = min(total, start + limit)
        while start < stop:
            count = min(_PAGE, stop - start)
            found = self._search(wanted, start, count, backwards=False)
            if found is not None:
                return found
            start += count
        return None

    def _search(self, wanted: str, first: int, count: int, *, backwards: bool) -> int | None:
        # The newline keeps a match from reaching over two lines; lower() first, for one pass over the page.
        texts = [raw[PREFIX:] for raw, _ in self._raw(first, count)]
        page = b"\n".join(texts).decode("utf-8", "replace").lower()
        if wanted not in page:
            return None
        lines = page.split("\n")
        order = range(len(lines) - 1, -1, -1) if backwards else range(len(lines))
        return next((first + number for number in order if wanted in lines[number]), None)

    def close(self) -> None:
        """Let the files go."""
        close_chain([one.part for one in self._parts])
        self._parts = []


def _open_line(raw: bytes) -> LogLine:
    """The line at the end of the file that is still being written."""
    when, stream, text, _ = parse(raw[:MAX_RECORD])
    return LogLine(when, stream, text, True)
