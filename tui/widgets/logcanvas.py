"""What paints a log: the page at the end or where one scrolled to, kept live, and told to the pane.

The log itself is a :class:`core.engine.LogFile`: this widget holds no more than a few hundred lines. A timer asks
what is new; the screen repaints only while following and only when something arrived, at most 15 times a second,
however fast the container prints.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from rich.segment import Segment
from textual.message import Message
from textual.strip import Strip
from textual.timer import Timer

from core.engine import LogFile
from tui.text import clean, fit, glyphs
from tui.widgets.linewidget import LineWidget
from tui.widgets.logline import day
from tui.widgets.loglines import LogFilter, LogLines
from tui.widgets.logpage import PageRow, PageStyle, RowMaker
from tui.widgets.logpager import LogPager

_BUSY, _QUIET, _INDEXING = 1 / 15, 0.2, 0.02  # seconds between looks at the log
_QUIET_AFTER = 2.0  # seconds without a new line
_NOTHING = (-1, -1, False, False)  # lines, dropped, indexed, searching: when the log was last looked at
_BUDGET = 0.012  # seconds of indexing or filtering at a time: a key pressed meanwhile waits no longer


@dataclass(frozen=True)
class LogState:
    """What a pane shows about the view."""

    lines: int = 0  # of the log, or those the filter lets through
    first: int = 0  # number of the line on top
    following: bool = True
    timestamps: bool = True
    wrap: bool = False
    needle: str = ""  # as typed
    match: int | None = None  # number of the line found last
    filter: str = ""  # as typed
    level: str = ""
    searching: bool = False  # a filter or a search is still going through the log
    indexed: bool = False
    dropped: int = 0
    day: str = ""  # local date of the line on top


class LogCanvas(LineWidget):
    """Lines of a log, newest at the bottom; :class:`~tui.widgets.logview.LogView` adds keys, search and selection."""

    class LogMessage(Message, namespace="log_view"):
        """Base of the view's messages."""

        def __init__(self, view: LogCanvas) -> None:
            super().__init__()
            self.view = view

        @property
        def control(self) -> LogCanvas:
            return self.view

    class StateChanged(LogMessage, namespace="log_view"):
        """Something that a pane shows about the view changed (at most 4 times a second)."""

        def __init__(self, view: LogCanvas, state: LogState) -> None:
            super().__init__(view)
            self.state = state

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, LogCanvas.StateChanged) and message.view is self.view

    class NotFound(LogMessage, namespace="log_view"):
        """A search came to its end without a match."""

        def __init__(self, view: LogCanvas, needle: str) -> None:
            super().__init__(view)
            self.needle = needle

    class Copied(LogMessage, namespace="log_view"):
        """Lines went to the clipboard."""

        def __init__(self, view: LogCanvas, lines: int) -> None:
            super().__init__(view)
            self.lines = lines

    def __init__(
        self, *, empty: str = "no log", name: str | None = None, id: str | None = None, classes: str | None = None
    ) -> None:
        super().__init__(name=name, id=id, classes=classes)
        self._empty = empty
        self.way_out = ""  # how the filter is given up: for a view that is empty because of it
        self._pager: LogPager | None = None
        self._maker = RowMaker()
        self._rows: list[PageRow] = []
        self._look = PageStyle(80)
        self._needle, self._asked = "", ""  # folded, and as typed
        self._typed, self._level = "", ""  # the filter; it outlives the log
        self._match: int | None = None  # id of the line found last
        self._hunting = False
        self._selection: tuple[int, int] | None = None  # ids: where it began, where it is now
        self._clock: Timer | None = None
        self._known = _NOTHING
        self._last_news = 0.0
        self._told = LogState()
        self._told_at = 0.0

    # -- what is shown ----------------------------------------------------------------------------------------

    def show(self, log: LogFile | None, *, empty: str | None = None) -> None:
        """Show this log from its end, following; the former one is closed. Settings and the filter stay."""
        self._close()
        if empty is not None:
            self._empty = empty
        if log is not None:
            self._pager = LogPager(LogLines(log), self._maker)
            self._pager.source.set_filter(LogFilter.parse(self._typed, self._level))
        self._look = replace(self._look, left=0)
        self._match = self._selection = None
        self._known = _NOTHING
        self._rows = []
        self.refresh()
        self._tick()

    def _close(self) -> None:
        if self._pager is not None:
            self._pager.source.log.close()
            self._pager = None

    @property
    def following(self) -> bool:
        return self._pager is None or self._pager.follow

    def set_follow(self, on: bool) -> None:
        """Stay at the end, or hold what is shown."""
        if self._pager is not None:
            if on:
                self._pager.to_end()
            else:
                self._pager.hold()
            self._update()

    def toggle_follow(self) -> None:
        self.set_follow(not self.following)

    @property
    def timestamps(self) -> bool:
        return self._look.timestamps

    @timestamps.setter
    def timestamps(self, on: bool) -> None:
        self._restyle(timestamps=on)

    def toggle_timestamps(self) -> None:
        self.timestamps = not self.timestamps

    @property
    def wrap(self) -> bool:
        return self._look.wrap

    @wrap.setter
    def wrap(self, on: bool) -> None:
        self._restyle(wrap=on, left=0)

    def toggle_wrap(self) -> None:
        self.wrap = not self.wrap

    @property
    def readable(self) -> bool:
        """JSON as ``LEVEL message key=value`` (True) or as it came."""
        return self._look.readable

    @readable.setter
    def readable(self, on: bool) -> None:
        self._restyle(readable=on)

    def toggle_readable(self) -> None:
        self.readable = not self.readable

    @property
    def hidden_by(self) -> str:
        """The filter in words: ``level ≥ warn, only web``; "" for none."""
        level = f"level ≥ {self._level}" if glyphs().unicode else f"level {self._level}+"
        without = self._typed.startswith("!") and len(self._typed) > 1
        only = f"without {self._typed[1:]}" if without else f"only {self._typed}"
        return ", ".join([level] * bool(self._level) + [only] * bool(self._typed))

    def _restyle(self, **changes: Any) -> None:
        self._look = replace(self._look, **changes)
        if self._pager is not None:
            self._pager.rewrapped()
        self._update()

    def set_filter(self, include: str = "", *, level: str = "") -> None:
        """Show only lines with ``include`` (``!text``: without), of at least ``level``; both empty: all."""
        if (include, level) == (self._typed, self._level):
            return
        self._typed, self._level = include, level
        if self._pager is not None:
            self._pager.source.set_filter(LogFilter.parse(include, level))
            self._pager.refilter()
            self._known = _NOTHING
        self._tick()

    @property
    def state(self) -> LogState:
        """A snapshot."""
        look = self._look
        if self._pager is None:
            return LogState(timestamps=look.timestamps, wrap=look.wrap, filter=self._typed, level=self._level)
        source = self._pager.source
        dropped = source.log.dropped
        top = self._rows[0].line if self._rows else None
        return LogState(
            lines=len(source),
            first=max(0, (self._pager.top_id or dropped) - dropped),
            following=self.following,
            timestamps=look.timestamps,
            wrap=look.wrap,
            needle=self._asked,
            match=None if self._match is None else self._match - dropped,
            filter=self._typed,
            level=self._level,
            searching=self._hunting or source.searching,
            indexed=source.log.indexed,
            dropped=dropped,
            day=day(top.time) if top else "",
        )

    # -- time -------------------------------------------------------------------------------------------------

    def on_mount(self) -> None:
        self._tick()

    def on_unmount(self) -> None:
        self._stop_clock()
        self._close()

    def on_hide(self) -> None:
        self._stop_clock()

    def on_show(self) -> None:
        self._tick()

    def on_resize(self) -> None:
        if self._pager is not None:
            self._pager.rewrapped()
        self._update()

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.stop()
            self._clock = None

    def _tick(self) -> None:
        """Look at the log: index a little, repaint if following and something came; then wait for the next look."""
        self._stop_clock()
        if self._pager is None or not self.is_mounted:
            self._update()
            return
        source = self._pager.source
        more = source.advance(_BUDGET)
        known = (len(source), source.log.dropped, source.log.indexed, source.searching)
        if known != self._known:
            self._pager.settle(was_unnumbered=not self._known[2])
            dropped = known[1] != self._known[1]
            self._known = known
            self._last_news = time.monotonic()
            if self.following or dropped or not known[2] or len(self._rows) < self.size.height:
                self._update()
        elif self.following and self._rows and self._rows[-1].line.partial:
            self._update()  # the line at the end is still being written
        self._tell()
        quiet = time.monotonic() - self._last_news > _QUIET_AFTER
        self._clock = self.set_timer(_INDEXING if more else _QUIET if quiet else _BUSY, self._tick)

    def _tell(self) -> None:
        """The state to the pane; following or not at once, the rest when due."""
        moment = time.monotonic()
        if moment - self._told_at < 0.25 and self._told.following == self.following:
            return
        state = self.state
        if state != self._told:
            self._told, self._told_at = state, moment
            self.post_message(self.StateChanged(self, state))

    # -- painting ---------------------------------------------------------------------------------------------

    def _update(self) -> None:
        """Make the page anew, repaint the lines that differ, tell the pane."""
        width, height = self.size
        if not self.is_mounted or not height:
            return
        self._maker.style = self._look = replace(self._look, width=max(2, width - 1), needle=self._needle)
        former, self._rows = self._rows, []
        if (pager := self._pager) is not None:
            pager.height = height
            self._rows = [
                PageRow(line, sub, self._backdrop(line_id), sign, self._look)
                for (line_id, line, sub), sign in zip(pager.compose(), self._signs(pager), strict=False)
            ]
        if not former or not self._rows:
            self.refresh()
        else:
            pairs = enumerate(zip_longest(former, self._rows))
            self.repaint_lines(y for y, (before, after) in pairs if before != after)
        self._tell()

    def _signs(self, pager: LogPager) -> list[tuple[str, str]]:
        height, total = self.size.height, len(pager.source)
        return [self.scroll_sign(y, height, pager.position, total) for y in range(height)]

    def _backdrop(self, line_id: int) -> str:
        if self._selection and min(self._selection) <= line_id <= max(self._selection):
            return "primary-muted"
        return "boost" if line_id == self._match else ""

    def paint_line(self, y: int) -> Strip:
        if y >= len(self._rows):
            return self._paint_words(y)
        row, width = self._rows[y], self.size.width
        style = self.palette.style
        rows = self._maker.rows(row.line)
        segments = [Segment(text, style(words, row.backdrop)) for text, words in rows[min(row.sub, len(rows) - 1)]]
        strip = Strip(segments).adjust_cell_length(width - 1, style("", row.backdrop))
        sign, words = row.scroll
        return Strip([*strip, Segment(sign, style(words))], width)

    def _paint_words(self, y: int) -> Strip:
        """What an empty view says, in its middle."""
        lines = self._empty_lines()
        first = max(0, self.size.height // 2 - len(lines) + 1)
        if self._rows or not first <= y < first + len(lines):
            return self.blank()
        centred = fit(clean(lines[y - first]), self.size.width, "center")
        return Strip([Segment(centred, self.palette.style("text-muted"))], self.size.width)

    def _empty_lines(self) -> list[str]:
        if self._pager is None:
            return [self._empty]
        source = self._pager.source
        if source.searching or not source.log.indexed:
            return []
        if source.filter and source.log.lines:
            count = source.log.lines
            words = "its only line is" if count == 1 else f"all {count} lines are"
            return [f"{words} hidden by {self.hidden_by}", *filter(None, [self.way_out])]
        return ["nothing written yet"]
