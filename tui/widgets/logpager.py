"""Where a log view stands: which rows are on the page, and how that changes by scrolling. Knows no screen."""

from __future__ import annotations

from core.model import LogLine
from tui.widgets.loglines import LogLines
from tui.widgets.logpage import RowMaker

_TAIL_BACK = 10_000  # lines one can go back before the lines have numbers

Placed = tuple[int, LogLine, int]
"""Id of a line, the line, which of its rows."""


class LogPager:
    """The page of ``height`` rows over some lines.

    While lines have no numbers yet (the index is being built) the page is known by its distance from the end.
    """

    def __init__(self, source: LogLines, maker: RowMaker) -> None:
        self.source = source
        self.height = 1
        self.follow = True
        self.position = 0  # of the line on top …
        self._sub = 0  # … and its first visible row
        self._back = 0  # lines between the page and the end, while they have no numbers
        self._maker = maker
        self._page: list[Placed] = []

    @property
    def top_id(self) -> int | None:
        """The id of the line on top, where it has one."""
        return self._page[0][0] if self._page and self._page[0][0] >= 0 else None

    @property
    def page(self) -> list[Placed]:
        return self._page

    @property
    def unnumbered(self) -> bool:
        return not self.source.log.indexed and not self.source.filter

    def compose(self) -> list[Placed]:
        """The rows of the page now."""
        if self.unnumbered:
            entries = self.source.tail(self.height + self._back)
            self._page = self._upwards(entries[: max(0, len(entries) - self._back)])
        elif self.follow:
            self._page = self._last()
        else:
            self._page = self._downwards()
            if len(self._page) < self.height:
                self._page = self._last()
        return self._page

    def _downwards(self) -> list[Placed]:
        placed: list[Placed] = []
        for number, (line_id, line) in enumerate(self.source.fetch(self.position, self.height)):
            first = self._sub if number == 0 else 0
            placed.extend((line_id, line, sub) for sub in range(first, len(self._maker.rows(line))))
            if len(placed) >= self.height:
                break
        return placed[: self.height]

    def _last(self) -> list[Placed]:
        """The rows at the end of the log; the position becomes theirs."""
        placed = self._upwards(self.source.fetch(len(self.source) - self.height, self.height))
        if placed:
            self.position, self._sub = self.source.position_of(placed[0][0]), placed[0][2]
        else:
            self.position = self._sub = 0
        return placed

    def _upwards(self, entries: list[tuple[int, LogLine]]) -> list[Placed]:
        """The last ``height`` rows of these lines."""
        placed: list[Placed] = []
        for line_id, line in reversed(entries):
            for sub in reversed(range(len(self._maker.rows(line)))):
                placed.append((line_id, line, sub))
                if len(placed) == self.height:
                    return placed[::-1]
        return placed[::-1]

    # -- moving -----------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Stop following: the page stays where it is."""
        self.follow = False

    def to_end(self) -> None:
        self.follow, self._back, self._sub = True, 0, 0

    def to_start(self) -> None:
        self.follow, self.position, self._sub = False, 0, 0
        self._back = _TAIL_BACK if self.unnumbered else 0

    def jump(self, position: int) -> None:
        """Put this line of the view on top."""
        self.follow, self.position, self._sub = False, position, 0

    def scroll(self, rows: int) -> None:
        """Down (or up) by rows; coming to the end follows again, any step up stops following."""
        if rows < 0:
            self.follow = False
        if self.unnumbered:
            self._back = max(0, min(self._back - rows, _TAIL_BACK))
            self.follow = self._back == 0
        elif rows < 0:
            self._step_up(-rows)
        elif not self.follow:
            self._step_down(rows)

    def _step_up(self, rows: int) -> None:
        while rows > 0:
            if self._sub >= rows:
                self._sub -= rows
                return
            rows -= self._sub
            self._sub = 0
            if self.position == 0:
                return
            self.position -= 1
            rows -= 1
            above = self.source.fetch(self.position, 1)
            self._sub = len(self._maker.rows(above[0][1])) - 1 if above else 0

    def _step_down(self, rows: int) -> None:
        while rows > 0:
            here = self.source.fetch(self.position, 1)
            count = len(self._maker.rows(here[0][1])) if here else 1
            if self._sub + rows < count:
                self._sub += rows
                break
            if self.position + 1 >= len(self.source):
                break
            rows -= count - self._sub
            self._sub = 0
            self.position += 1
        if self._shows_end(self._downwards()):
            self.to_end()

    def _shows_end(self, placed: list[Placed]) -> bool:
        if len(placed) < self.height:
            return True
        line_id, line, sub = placed[-1]
        return line_id >= self.source.id_at(len(self.source) - 1) and sub == len(self._maker.rows(line)) - 1

    def show_line(self, line_id: int) -> None:
        """Bring a line onto the page: nothing moves if it is there, else it comes to a third of the height."""
        self.follow = False
        if any(line_id == placed[0] for placed in self._page):
            return
        self.position, self._sub = self.source.position_of(line_id), 0
        self._step_up(self.height // 3)

    def settle(self, was_unnumbered: bool) -> None:
        """Older lines came or went: keep the line on top where it is."""
        if self.follow:
            return
        if was_unnumbered and not self.unnumbered:
            self.position, self._sub = max(0, len(self.source) - self._back - self.height), 0
            self._back = 0
        elif (top := self.top_id) is not None:
            self.position = self.source.position_of(top)

    def rewrapped(self) -> None:
        """Lines have another number of rows now."""
        self._sub = 0

    def refilter(self) -> None:
        """The lines of the view are others now."""
        self._sub = 0
        if self.follow or self.source.filter or (top := self.top_id) is None:
            self.to_end()
        else:
            self.position = self.source.position_of(top)
