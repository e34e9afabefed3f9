"""The bottom line: keys and what they do, as many as fit; at the right what runs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from textual import events
from textual.content import Content
from textual.message import Message
from textual.strip import Strip

from tui.text import clean, fit, width
from tui.widgets.linewidget import LineWidget

_GAP = 2


class StatusBar(LineWidget, can_focus=False):
    """``↵ open  l log  s stop …           jobs 1``. Fed by the action registry; a click presses the key."""

    DEFAULT_CSS = """
    StatusBar { height: 1; }
    """

    class Pressed(Message):
        """A click on the entry with this index (-1: on the words at the right)."""

        def __init__(self, bar: StatusBar, index: int) -> None:
            super().__init__()
            self.bar = bar
            self.index = index

        @property
        def control(self) -> StatusBar:
            return self.bar

    def __init__(self, *, name: str | None = None, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(name=name, id=id, classes=classes)
        self._keys: tuple[tuple[str, str], ...] = ()
        self._right: tuple[str, str] = ("", "")
        self._places: list[tuple[int, int, int]] = []  # index, first cell, end

    def set_keys(self, keys: Sequence[tuple[str, str]]) -> None:
        """(key, words) in the order of importance: what does not fit goes from the end."""
        chosen = tuple((clean(key), clean(words)) for key, words in keys)
        if chosen != self._keys:
            self._keys = chosen
            self.refresh()

    def set_right(self, text: Content | str, style: str = "text-muted") -> None:
        """What stands at the right edge; ``style`` in words of the theme."""
        right = (clean(text.plain if isinstance(text, Content) else text), style)
        if right != self._right:
            self._right = right
            self.refresh()

    def paint_line(self, y: int) -> Strip:
        if y:
            return self.blank()
        style = self.palette.style
        total = self.size.width
        right = fit(self._right[0], min(width(self._right[0]), total // 2))
        room = total - width(right) - (2 if right else 1)
        self._places = []
        segments = [Segment(" ", style(""))]
        at = 1
        for index, (key, words) in enumerate(self._keys):
            cells = width(key) + 1 + width(words)
            if at + cells > room:
                break
            self._places.append((index, at, at + cells))
            segments += [
                Segment(key, style("accent bold")),
                Segment(f" {words}", style("text-muted")),
                Segment(" " * _GAP, style("")),
            ]
            at += cells + _GAP
        strip = Strip(segments).adjust_cell_length(total - width(right) - bool(right), style(""))
        tail = [Segment(right, style(self._right[1])), Segment(" ", style(""))] if right else []
        return Strip([*strip, *tail]).adjust_cell_length(total, style(""))

    def on_click(self, event: events.Click) -> None:
        spot = event.get_content_offset(self)
        for index, first, end in self._places:
            if spot is not None and first <= spot.x < end:
                self.post_message(self.Pressed(self, index))
                return
        if spot is not None and self._right[0] and spot.x >= self.size.width - width(self._right[0]) - 1:
            self.post_message(self.Pressed(self, -1))
