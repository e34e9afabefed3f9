"""Sparklines in braille: two values a cell, four levels high, at most three colours."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from rich.segment import Segment
from textual.strip import Strip

from tui.text import glyphs
from tui.widgets.linewidget import LineWidget

# Dots of a braille cell's left and right column, filled from the bottom (Unicode 21.1: dots 7 3 2 1 and 8 6 5 4).
_LEFT = (0x00, 0x40, 0x44, 0x46, 0x47)
_RIGHT = (0x00, 0x80, 0xA0, 0xB0, 0xB8)
_ASCII = " .:-="


def _levels(values: Sequence[float], maximum: float) -> list[int]:
    """0 (nothing) to 4 for each value; what is above zero shows at least one dot."""
    top = maximum if maximum > 0 else max(values, default=0.0)
    if top <= 0:
        return [0] * len(values)
    return [0 if value <= 0 else min(4, 1 + int(value / top * 3.999)) for value in values]


def spark(values: Sequence[float], width: int, maximum: float = 0.0) -> str:
    """The newest values in ``width`` cells, newest at the right.

    :param maximum: what fills the height; 0 takes the largest value shown
    """
    if width <= 0:
        return ""
    if not glyphs().unicode:
        levels = _levels(values[-width:], maximum)
        return "".join(_ASCII[level] for level in levels).rjust(width)
    levels = _levels(values[-2 * width :], maximum)
    levels = [0] * (2 * width - len(levels)) + levels
    return "".join(chr(0x2800 + _LEFT[a] + _RIGHT[b]) for a, b in zip(levels[::2], levels[1::2], strict=True))


class Sparkline(LineWidget, can_focus=False):
    """One line of history. It repaints only when its picture changes.

    The whole line has one colour, by the newest value's share of ``maximum``: below the first band, between, above.
    """

    DEFAULT_CSS = """
    Sparkline { height: 1; }
    """

    def __init__(
        self,
        *,
        maximum: float = 0.0,
        bands: tuple[float, float] = (0.7, 0.9),
        name: str | None = None,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(name=name, id=id, classes=classes)
        self.maximum = maximum
        self.bands = bands
        self._values: deque[float] = deque(maxlen=1024)
        self._shown: tuple[str, str] = ("", "")

    def push(self, value: float) -> None:
        """Add the newest value."""
        self._values.append(value)
        self._update()

    def set_values(self, values: Sequence[float]) -> None:
        """Replace the history, oldest first."""
        self._values = deque(values, maxlen=1024)
        self._update()

    def _picture(self) -> tuple[str, str]:
        values = list(self._values)
        words = band(values[-1] / self.maximum if values and self.maximum > 0 else 0.0, self.bands)
        return spark(values, self.size.width, self.maximum), words

    def _update(self) -> None:
        if self.is_mounted and self._picture() != self._shown:
            self.refresh()

    def paint_line(self, y: int) -> Strip:
        if y:
            return self.blank()
        self._shown = self._picture()
        text, words = self._shown
        return Strip([Segment(text, self.palette.style(words))], self.size.width)


def band(share: float, bands: tuple[float, float]) -> str:
    """The theme variable for a share of a limit: calm, near it, at it."""
    return "error" if share >= bands[1] else "warning" if share >= bands[0] else "success"
