"""A bar meter with its limit: ``memory  ━━━━━━╸────  64.1M / 128M  50%``, on one line."""

from __future__ import annotations

from collections.abc import Callable

from rich.segment import Segment
from textual.strip import Strip

from tui.text import clean, fit, glyphs, percent, size, width
from tui.widgets.linewidget import LineWidget
from tui.widgets.sparkline import band


def bar(fraction: float, cells: int) -> str:
    """A bar of exactly ``cells`` cells in steps of half a cell; more than nothing shows at least one."""
    if cells <= 0:
        return ""
    signs = glyphs()
    halves = round(min(1.0, max(0.0, fraction)) * cells * 2)
    if fraction > 0:
        halves = max(1, halves)
    full, half = divmod(halves, 2)
    return signs.bar_full * full + signs.bar_half * half + signs.bar_empty * (cells - full - half)


class Meter(LineWidget, can_focus=False):
    """A label, a bar where there is a limit, the figure. Repaints only when what it shows changes."""

    DEFAULT_CSS = """
    Meter { height: 1; }
    """

    def __init__(
        self,
        label: str,
        *,
        unit: Callable[[float], str] = size,
        bands: tuple[float, float] = (0.7, 0.9),
        label_width: int = 8,
        name: str | None = None,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(name=name, id=id, classes=classes)
        self.label = label
        self.unit = unit
        self.bands = bands
        self.label_width = label_width
        self._value = 0.0
        self._limit = 0.0
        self._detail = ""
        self._shown: tuple[tuple[str, str], ...] = ()

    def set(self, value: float, limit: float = 0.0, detail: str = "") -> None:
        """Show ``value`` of ``limit`` (0: none, so no bar) and ``detail`` after the figure."""
        self._value, self._limit, self._detail = value, limit, clean(detail)
        if self.is_mounted and self._parts() != self._shown:
            self.refresh()

    def _parts(self) -> tuple[tuple[str, str], ...]:
        share = self._value / self._limit if self._limit > 0 else 0.0
        figure = self.unit(self._value)
        if self._limit > 0:
            figure += f" / {self.unit(self._limit).strip()}".ljust(8) + f"{percent(share * 100)}%"
        if self._detail:
            figure += f"  {self._detail}"
        label = fit(clean(self.label), self.label_width)
        room = self.size.width - self.label_width - width(figure) - 2
        if self._limit > 0 and room >= 6:
            drawn = bar(share, min(room, 40))
            filled = len(drawn.rstrip(glyphs().bar_empty))
            parts = [(drawn[:filled], band(share, self.bands)), (drawn[filled:], "foreground-disabled")]
            return ((label + " ", "text-muted"), *parts, (" " + figure, ""))
        return ((label + " ", "text-muted"), (figure, band(share, self.bands) if share >= self.bands[0] else ""))

    def paint_line(self, y: int) -> Strip:
        if y:
            return self.blank()
        self._shown = self._parts()
        style = self.palette.style
        strip = Strip([Segment(text, style(words)) for text, words in self._shown if text])
        return strip.adjust_cell_length(self.size.width, style(""))
