"""The lines of a log as a view sees them: all, or those that a filter lets through; numbers that never move.

A line's *id* is its number plus what rotation has dropped before it, so it stays the same while the log rotates.
A *position* counts the lines of the view (all lines, or the filter's matches).
"""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass

from core.engine import LogFile
from core.model import LogLine
from tui.text import folded
from tui.widgets.logline import LEVELS, LONGEST, quick_level

_CHUNK = 1000  # lines read at once while filtering
_KEPT = 1_000_000  # matches remembered; beyond, the oldest are given up
_CACHED = 512  # lines
_MILDEST = LEVELS.index("debug")


@dataclass(frozen=True)
class LogFilter:
    """Which lines to show: those with ``needle`` (or without: ``inverse``), of at least ``level``."""

    needle: str = ""
    inverse: bool = False
    level: str = ""

    @staticmethod
    def parse(include: str, level: str = "") -> LogFilter:
        """From what was typed: ``text`` keeps lines with it, ``!text`` those without."""
        inverse = include.startswith("!") and len(include) > 1
        needle = include[1:] if inverse else include
        return LogFilter(folded(needle), inverse, level if level in LEVELS else "")

    def __bool__(self) -> bool:
        return bool(self.needle or self.level)

    def picks(self, lines: list[LogLine]) -> list[int]:
        """Indices of the lines let through.

        A line without a level of its own that is indented (a stack trace) or continues a cut line has the level of
        the line above it. Any other is let through by the mildest level that one can choose: most programs name none.
        """
        least = LEVELS.index(self.level) if self.level else 0
        chosen: list[int] = []
        above = ""
        for index, line in enumerate(lines):
            if self.needle and (self.needle in line.text[:LONGEST].lower()) == self.inverse:
                continue
            if least:
                level = quick_level(line)
                if not level and (line.text[:1] in (" ", "\t", "}") or (index and lines[index - 1].partial)):
                    level = above
                above = level
                if (LEVELS.index(level) if level else _MILDEST) < least:
                    continue
            chosen.append(index)
        return chosen


class LogLines:
    """Lines of a :class:`~core.engine.LogFile` by position; :meth:`advance` does the work that is due, bounded."""

    def __init__(self, log: LogFile) -> None:
        self.log = log
        self.filter = LogFilter()
        self._older: array[int] = array("Q")  # matching ids below _from, newest first: it grows at its end
        self._newer: array[int] = array("Q")  # matching ids from _from on, oldest first
        self._low = 0  # ids below this are not looked at yet (or given up) …
        self._high = 0  # … nor those from this on
        self._cache: OrderedDict[int, LogLine] = OrderedDict()

    def set_filter(self, chosen: LogFilter) -> None:
        """Begin anew with another filter: from the newest line backwards, so that the end is there first."""
        self.filter = chosen
        self._older, self._newer = array("Q"), array("Q")
        self._low = self._high = self.log.dropped + self.log.lines

    @property
    def searching(self) -> bool:
        """True while older lines still have to be looked at by the filter."""
        return bool(self.filter) and self._low > self.log.dropped

    def __len__(self) -> int:
        return len(self._older) + len(self._newer) if self.filter else self.log.lines

    def id_at(self, position: int) -> int:
        """The id of the line at ``position``."""
        if not self.filter:
            return self.log.dropped + position
        if position < len(self._older):
            return int(self._older[len(self._older) - 1 - position])
        return int(self._newer[position - len(self._older)])

    def position_of(self, line_id: int) -> int:
        """The position of the line with this id, or of the first after it."""
        if not self.filter:
            return max(0, min(line_id - self.log.dropped, self.log.lines))
        if self._newer and line_id >= self._newer[0]:
            return len(self._older) + bisect_left(self._newer, line_id)
        # _older runs downwards: the matches at or after line_id stand at its start
        return len(self._older) - bisect_left(self._older, -line_id + 1, key=lambda value: -value)

    def has(self, line_id: int) -> bool:
        """True where the view shows the line with this id."""
        position = self.position_of(line_id)
        return position < len(self) and self.id_at(position) == line_id

    def fetch(self, position: int, count: int) -> list[tuple[int, LogLine]]:
        """(id, line) of ``count`` lines from ``position`` on; fewer at the end."""
        first = max(0, position)
        ids = [self.id_at(p) for p in range(first, min(first + count, len(self)))]
        found = {line_id: self._cache[line_id] for line_id in ids if line_id in self._cache}
        dropped = self.log.dropped
        for start, stop in _runs([line_id for line_id in ids if line_id not in found]):
            for line_id, line in enumerate(self.log.read(start - dropped, stop - start), start):
                found[line_id] = line
                self._keep(line_id, line)
        return [(line_id, found[line_id]) for line_id in ids if line_id in found]

    def tail(self, count: int) -> list[tuple[int, LogLine]]:
        """The newest lines, before they have numbers; their ids count down from -1."""
        lines = self.log.tail(count)
        return [(index - len(lines), line) for index, line in enumerate(lines)]

    def _keep(self, line_id: int, line: LogLine) -> None:
        if line.partial and line_id == self.log.dropped + self.log.lines - 1:
            return  # still being written: it will have more text
        self._cache[line_id] = line
        if len(self._cache) > _CACHED:
            self._cache.popitem(last=False)

    # -- work that is due ---------------------------------------------------------------------------------------

    def advance(self, budget: float) -> bool:
        """Index and filter for about ``budget`` seconds; True where more is left."""
        deadline = time.monotonic() + budget
        more = self.log.refresh(budget)
        if not self.log.indexed:
            return more
        self._forget_dropped()
        if not self.filter:
            return more
        while self._high < self.log.dropped + self.log.lines and self._scan_newer():
            if time.monotonic() >= deadline:
                return True
        while self._low > self.log.dropped:
            self._scan_older()
            if time.monotonic() >= deadline:
                return True
        return more

    def _scan_newer(self) -> bool:
        """Look at the next new lines; False where there is nothing to see yet."""
        self._high = max(self._high, self.log.dropped)
        lines = self.log.read(self._high - self.log.dropped, _CHUNK)
        end = self.log.dropped + self.log.lines
        if not lines:
            self._high = end  # rotation took them away meanwhile
            return False
        if lines[-1].partial and self._high + len(lines) == end:
            lines.pop()  # still being written: it may match with the rest of its text
        for index in self.filter.picks(lines):
            self._newer.append(self._high + index)
            self._keep(self._high + index, lines[index])
        self._high += len(lines)
        if len(self._newer) > _KEPT:
            del self._newer[: _KEPT // 2]
            self._older, self._low = array("Q"), self.log.dropped
        return bool(lines)

    def _scan_older(self) -> None:
        dropped = self.log.dropped
        if len(self._older) >= _KEPT:
            self._low = dropped
            return
        start = max(dropped, self._low - _CHUNK)
        lines = self.log.read(start - dropped, self._low - start)
        picked = self.filter.picks(lines)
        self._older.extend(start + index for index in reversed(picked))
        self._low = start
        if not picked and self.filter.needle and not self.filter.inverse:
            self._skip_older()

    def _skip_older(self) -> None:
        """A whole chunk without a match: let the log's own search jump over the next stretch."""
        dropped = self.log.dropped
        stretch = 20 * _CHUNK
        if self._low - dropped <= 0:
            return
        found = self.log.find(self.filter.needle, self._low - dropped - 1, backwards=True, limit=stretch)
        if found is None:
            self._low = max(dropped, self._low - stretch)
        else:
            self._low = min(self._low, dropped + found + 1)

    def _forget_dropped(self) -> None:
        dropped = self.log.dropped
        self._low, self._high = max(self._low, dropped), max(self._high, dropped)
        while self._older and self._older[-1] < dropped:
            self._older.pop()
        if self._newer and self._newer[0] < dropped:
            del self._newer[: bisect_left(self._newer, dropped)]


def _runs(ids: list[int]) -> list[tuple[int, int]]:
    """Consecutive stretches of ascending ids as (first, end)."""
    runs: list[tuple[int, int]] = []
    for line_id in ids:
        if runs and runs[-1][1] == line_id:
            runs[-1] = (runs[-1][0], line_id + 1)
        else:
            runs.append((line_id, line_id + 1))
    return runs
