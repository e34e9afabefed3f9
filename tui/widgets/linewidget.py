"""Base of the widgets that paint line by line: a strip per line, cached; only the lines said to have changed repaint.

Textual's own way (``ScrollView``, scrollbar widgets, ``virtual_size``) lays the screen out again when the number
of lines changes and renders every line of the widget for one that changed. Here the position is a number, the
scrollbar a column of each line, and :meth:`LineWidget.repaint_lines` names what to paint.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Self

from rich.segment import Segment
from textual.filter import ANSIToTruecolor
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from tui.text import glyphs
from tui.widgets.palette import Palette


class LineWidget(Widget, can_focus=True):
    """A widget whose subclass gives the strip of each line in :meth:`paint_line`."""

    ALLOW_SELECT: ClassVar[bool] = False  # a drag selects whole lines, by the subclass

    DEFAULT_CSS = """
    LineWidget { width: 1fr; height: 1fr; }
    """

    def __init__(self, *, name: str | None = None, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(name=name, id=id, classes=classes)
        self.palette = Palette(self)
        self.repaints = 0  # lines asked to be painted again, ever: what tests and `bench` count
        self._strips: dict[int, Strip] = {}

    def paint_line(self, y: int) -> Strip:
        """The strip of line ``y`` of the content, exactly as wide as the content."""
        raise NotImplementedError

    def repaint_lines(self, lines: Iterable[int]) -> int:
        """Paint these lines (``y`` in the content) again; returns how many."""
        width, height = self.size
        regions = [Region(0, y, width, 1) for y in lines if 0 <= y < height]
        if regions:
            self.refresh(*regions)
        return len(regions)

    def refresh(self, *regions: Region, repaint: bool = True, layout: bool = False, recompose: bool = False) -> Self:
        if repaint:
            if regions:
                self.repaints += sum(region.height for region in regions)
                for region in regions:
                    for y in region.line_range:
                        self._strips.pop(y, None)
            else:
                self.repaints += self.size.height
                self._strips.clear()
        return super().refresh(*regions, repaint=repaint, layout=layout, recompose=recompose)

    def render_line(self, y: int) -> Strip:
        strip = self._strips.get(y)
        if strip is None:
            strip = self._strips[y] = self.paint_line(y)
        return strip

    def render_lines(self, crop: Region) -> list[Strip]:
        """Straight from the cached strips where no border, padding or opacity has to be added."""
        self.palette.begin()
        styles = self.styles
        if styles.gutter.totals != (0, 0) or self.opacity != 1.0:
            return super().render_lines(crop)
        strips = [self.render_line(y) for y in crop.line_range]
        if crop.column_span != (0, self.size.width):
            strips = [strip.crop(*crop.column_span) for strip in strips]
        # Strips hold true colours already, or on purpose the terminal's own; what remains is NO_COLOR and the like.
        for line_filter in self.get_line_filters():
            if not isinstance(line_filter, ANSIToTruecolor):
                strips = [strip.apply_filter(line_filter, self.palette.background) for strip in strips]
        return strips

    def notify_style_update(self) -> None:
        self._strips.clear()
        super().notify_style_update()

    def blank(self, words: str = "", background: str = "") -> Strip:
        """An empty line."""
        return Strip([Segment(" " * self.size.width, self.palette.style(words, background))], self.size.width)

    def scroll_sign(self, y: int, height: int, first: int, total: int) -> tuple[str, str]:
        """The scrollbar's sign and style words on line ``y`` of ``height``, ``first`` of ``total`` lines on top."""
        if total <= height or height < 1:
            return " ", ""
        start, end = thumb(height, first, total)
        if start <= y < end:
            return glyphs().scroll_thumb, "primary" if self.has_focus else "foreground-muted"
        return glyphs().scroll_track, "foreground-disabled"


def thumb(height: int, first: int, total: int) -> tuple[int, int]:
    """First line and end of a scrollbar's thumb; it touches an end only when the view does."""
    length = max(1, height * height // total)
    room = height - length
    last = total - height
    if first <= 0 or room < 1:
        start = 0
    elif first >= last:
        start = room
    else:
        start = min(max(1, first * room // last), max(0, room - 1))
    return start, start + length


def drag_target(y: int, height: int, total: int) -> int:
    """The first of ``total`` lines to show when the scrollbar is pulled to line ``y`` of ``height``."""
    return max(0, total - height) * max(0, min(y, height - 1)) // max(1, height - 1)
