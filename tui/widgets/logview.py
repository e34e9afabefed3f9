"""A view of one container's log: any size, followed live, searched, filtered, its lines selected and copied."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType

from tui.text import folded
from tui.widgets.linewidget import drag_target
from tui.widgets.logcanvas import LogCanvas, LogState
from tui.widgets.logline import clock, show
from tui.widgets.logsearch import hunt

__all__ = ["LogState", "LogView"]

_MOST_COPIED = 70_000  # characters: terminals refuse longer OSC 52 strings (xterm's limit is 100,000 in base64)
_WHEEL = 3  # lines
_SIDEWAYS = 16  # cells
_LAST = 1 << 62  # an id after every line


class LogView(LogCanvas):
    """Lines of a log, newest at the bottom. Give it a log with :meth:`show`; it closes it when done."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "scroll_by(1)", "Down", show=False, id="log.down"),
        Binding("k,up", "scroll_by(-1)", "Up", show=False, id="log.up"),
        Binding("g,home", "home", "Start", show=False, id="log.home"),
        Binding("G,end", "end", "End, follow", show=False, id="log.end"),
        Binding("ctrl+d", "page(0.5)", "Half page down", show=False, id="log.half_down"),
        Binding("ctrl+u", "page(-0.5)", "Half page up", show=False, id="log.half_up"),
        Binding("pagedown", "page(1)", "Page down", show=False, id="log.page_down"),
        Binding("pageup", "page(-1)", "Page up", show=False, id="log.page_up"),
        Binding("left", "sideways(-1)", "Left", show=False, id="log.left"),
        Binding("right", "sideways(1)", "Right", show=False, id="log.right"),
        Binding("n", "next_match", "Next match", show=False, id="log.next"),
        Binding("N", "previous_match", "Previous match", show=False, id="log.previous"),
        Binding("v", "select_lines", "Select lines", show=False, id="log.select"),
    ]

    _selecting = False  # keys extend the selection
    _dragging = False  # the mouse does …
    _grabbed_bar = False  # … or pulls the scrollbar
    _grabbed_id = -1  # the line on which it went down

    # -- moving -----------------------------------------------------------------------------------------------

    def _scroll(self, rows: int) -> None:
        if self._pager is not None:
            if self._selecting:
                self._extend(rows)
            else:
                self._pager.scroll(rows)
            self._update()

    def action_scroll_by(self, rows: int) -> None:
        self._scroll(rows)

    def action_page(self, pages: float) -> None:
        rows = max(1, int(self.size.height * abs(pages)) - (abs(pages) == 1))
        self._scroll(rows if pages > 0 else -rows)

    def action_home(self) -> None:
        self.go_home()

    def action_end(self) -> None:
        self.go_to_end()

    def action_sideways(self, steps: int) -> None:
        if not self.wrap:
            self._look = replace(self._look, left=max(0, self._look.left + steps * _SIDEWAYS))
            self._update()

    def go_home(self) -> None:
        """To the oldest line."""
        if self._pager is not None:
            self._pager.to_start()
            self._update()

    def go_to_end(self) -> None:
        """To the newest line, following."""
        self.set_follow(True)

    def go_to(self, line: int) -> None:
        """To the line with this number."""
        if self._pager is not None:
            self._pager.show_line(line + self._pager.source.log.dropped)
            self._update()

    # -- search -----------------------------------------------------------------------------------------------

    def search(self, needle: str) -> None:
        """Highlight ``needle`` (case does not matter) and go to the newest match at or above the end of the page."""
        self._needle, self._asked, self._match = folded(needle), needle, None
        self._update()
        if needle and self._pager is not None:
            page = self._pager.page
            self._hunt(page[-1][0] if page and page[-1][0] >= 0 else _LAST, backwards=True)

    def search_next(self) -> None:
        """To the next match below."""
        self._hunt_from(1)

    def search_previous(self) -> None:
        """To the next match above."""
        self._hunt_from(-1)

    def action_next_match(self) -> None:
        self.search_next()

    def action_previous_match(self) -> None:
        self.search_previous()

    def _hunt_from(self, step: int) -> None:
        if self._pager is None or not self._needle:
            return
        page = self._pager.page
        start = self._match + step if self._match is not None else page[0 if step > 0 else -1][0] if page else 0
        self._hunt(start, backwards=step < 0)

    def _hunt(self, start: int, *, backwards: bool) -> None:
        self.run_worker(self._look_for(start, backwards=backwards), group="log-search", exclusive=True)

    async def _look_for(self, start: int, *, backwards: bool) -> None:
        pager, needle, asked = self._pager, self._needle, self._asked
        if pager is None:
            return
        self._hunting = True
        try:
            found = await hunt(pager.source, needle, start, backwards=backwards)
        finally:
            self._hunting = False
        if pager is not self._pager:
            return
        if found is None:
            self.post_message(self.NotFound(self, asked))
        else:
            self._match = found
            pager.show_line(found)
        self._update()

    # -- selection and copying --------------------------------------------------------------------------------

    def action_select_lines(self) -> None:
        """Begin to select lines at the bottom of the page (moving extends it), or give the selection up."""
        if self._pager is None or not (page := self._pager.page) or page[-1][0] < 0:
            return
        if self._selection is None:
            self._pager.hold()
            self._selecting = True
            self._selection = (page[-1][0], page[-1][0])
        else:
            self.clear_selection()
        self._update()

    def clear_selection(self) -> None:
        """Nothing is selected any more."""
        self._selecting = self._dragging = False
        self._selection = None
        self._update()

    @property
    def selecting(self) -> bool:
        return self._selection is not None

    def _extend(self, rows: int) -> None:
        """Move the selection's end by lines and keep it on the page."""
        if self._pager is None or self._selection is None:
            return
        source = self._pager.source
        position = max(0, min(source.position_of(self._selection[1]) + rows, len(source) - 1))
        self._selection = (self._selection[0], source.id_at(position))
        self._pager.show_line(self._selection[1])

    def copy_text(self) -> str:
        """The selected lines, else those on the page, as shown: without colours, with the time where it is shown."""
        if self._pager is None:
            return ""
        source = self._pager.source
        if self._selection:
            first, last = (source.position_of(line_id) for line_id in sorted(self._selection))
            lines = [line for _, line in source.fetch(max(first, last - 4999), min(5000, last - first + 1))]
        else:
            lines = [line for _, line, sub in self._pager.page if sub == 0]
        texts = [show(line, readable=self.readable).text for line in lines]
        if self.timestamps:
            texts = [f"{clock(line.time)} {text}" for line, text in zip(lines, texts, strict=True)]
        return "\n".join(texts)

    def action_copy(self) -> None:
        """To the clipboard of the terminal the user sits at (OSC 52, so over SSH as well)."""
        text = self.copy_text()
        if len(text) > _MOST_COPIED:  # the newest lines that fit
            text = text[-_MOST_COPIED:].partition("\n")[2] or text[-_MOST_COPIED:]
        if text:
            self.app.copy_to_clipboard(text)
            self.post_message(self.Copied(self, text.count("\n") + 1))
        if self._selection:
            self.clear_selection()

    # -- mouse ------------------------------------------------------------------------------------------------

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self._wheel(_WHEEL)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self._wheel(-_WHEEL)

    def _wheel(self, rows: int) -> None:
        if self._pager is not None:
            self._pager.scroll(rows)
            self._update()

    def on_mouse_down(self, event: events.MouseDown) -> None:
        spot = event.get_content_offset(self)
        if spot is None or self._pager is None or event.button != 1:
            return
        self._selecting = False
        self._selection = None
        self._dragging = True
        self._grabbed_bar = spot.x == self.size.width - 1
        self._grabbed_id = self._id_on(spot.y)
        self.capture_mouse()
        if self._grabbed_bar:
            self._drag_bar(spot.y)
        self._update()

    def _id_on(self, y: int) -> int:
        """The id of the line on screen line ``y`` (the nearest); below 0 where lines have no numbers."""
        page = self._pager.page if self._pager else []
        return page[max(0, min(y, len(page) - 1))][0] if page else -1

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if not self._dragging or self._pager is None:
            return
        y = event.get_content_offset_capture(self).y
        if self._grabbed_bar:
            self._drag_bar(y)
        elif self._grabbed_id >= 0:
            self._pager.hold()
            self._selection = (self._grabbed_id, self._id_on(y))
            if not 0 <= y < self.size.height:
                self._pager.scroll(-1 if y < 0 else 1)
        self._update()

    def on_mouse_up(self, event: events.MouseUp) -> None:
        if self._dragging:
            self._dragging = False
            self.release_mouse()

    def _drag_bar(self, y: int) -> None:
        pager = self._pager
        if pager is None or pager.unnumbered:
            return
        height, total = self.size.height, len(pager.source)
        if y >= height - 1:
            pager.to_end()
        elif total > height:
            pager.jump(drag_target(y, height, total))
