"""How far a transfer has come: a head line, then a line for each layer."""

from __future__ import annotations

from rich.segment import Segment
from textual.geometry import Size
from textual.strip import Strip

from core.model import LayerProgress, PullProgress, Speed
from tui.text import clean, decimal, decimal_rate, fit, span, width
from tui.widgets.linewidget import LineWidget
from tui.widgets.meter import bar

_PHASE_STYLE = {
    "done": "success",
    "unpacking": "accent",
    "downloading": "primary",
    "pushing": "primary",
    "preparing": "primary",
    "reading": "primary",
    "writing": "accent",
}
_FINISHED = frozenset({"done", "exists", "mounted"})


def share(layer: LayerProgress) -> float:
    """0 to 1; a layer of unknown size counts as nothing until it is done."""
    if layer.phase in _FINISHED:
        return 1.0
    return min(1.0, layer.done / layer.total) if layer.total else 0.0


def total_share(progress: PullProgress) -> float:
    """The whole, weighted by bytes where they are known."""
    if progress.image is not None:
        return 1.0
    weights = [max(layer.total, 1) for layer in progress.layers]
    done = sum(share(layer) * weight for layer, weight in zip(progress.layers, weights, strict=True))
    return done / sum(weights) if weights else 0.0


class PullView(LineWidget, can_focus=False):
    """Line by line; only the layers that moved repaint."""

    DEFAULT_CSS = """
    PullView { height: auto; }
    """

    def __init__(self, *, name: str | None = None, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(name=name, id=id, classes=classes)
        self._progress: PullProgress | None = None
        self._speed = Speed()
        self._lines: list[list[tuple[str, str]]] = []

    @property
    def progress(self) -> PullProgress | None:
        return self._progress

    def set_progress(self, progress: PullProgress, speed: Speed) -> None:
        """Show this moment."""
        former, self._progress, self._speed = self._lines, progress, speed
        self._lines = self._compose_lines()
        if len(former) != len(self._lines):
            self.refresh(layout=True)
        else:
            pairs = enumerate(zip(former, self._lines, strict=True))
            self.repaint_lines(y for y, (before, after) in pairs if before != after)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return max(1, len(self._progress.layers) + 1 if self._progress else 1)

    def on_resize(self) -> None:
        self._lines = self._compose_lines()
        self.refresh()

    def _compose_lines(self) -> list[list[tuple[str, str]]]:
        if self._progress is None or not self.size.width:
            return []
        return [self._head(self._progress), *(self._layer(layer) for layer in self._progress.layers)]

    def _head(self, progress: PullProgress) -> list[tuple[str, str]]:
        finished = sum(layer.phase in _FINISHED for layer in progress.layers)
        part = total_share(progress)
        layered = any(":" in layer.digest for layer in progress.layers)  # of one stream there is nothing to count
        right = f"{finished}/{len(progress.layers)} layers  " if layered or not progress.layers else ""
        right += f"{part * 100:3.0f}%" if self._speed.total or progress.image or layered else ""
        if self._speed.rate is not None and progress.image is None:
            left = f"{span(self._speed.left)} left" if self._speed.left is not None else ""
            right += f"  {decimal_rate(self._speed.rate)}  {left:>10}"
        words = clean(f"{progress.reference}  {progress.message}".rstrip())
        return [(fit(words, max(0, self.size.width - width(right) - 1)), "bold"), (" " + right, "text-muted")]

    def _layer(self, layer: LayerProgress) -> list[tuple[str, str]]:
        words = _PHASE_STYLE.get(layer.phase, "text-muted")
        name = fit(clean(layer.digest.removeprefix("sha256:"))[:12], 12)
        figure = f"{decimal(layer.done)} / {decimal(layer.total)}" if layer.total else " " * 9 + decimal(layer.done)
        if layer.phase in _FINISHED:
            figure = decimal(layer.total or layer.done).rjust(15)
        room = self.size.width - 12 - 13 - 15 - 3
        drawn = bar(share(layer), min(room, 60)) if room >= 4 else ""
        return [
            (name + " ", "text-muted"),
            (fit(layer.phase, 12) + " ", words),
            (drawn, words),
            (" " + figure, ""),
        ]

    def paint_line(self, y: int) -> Strip:
        if y >= len(self._lines):
            return self.blank()
        style = self.palette.style
        strip = Strip([Segment(text, style(words)) for text, words in self._lines[y] if text])
        return strip.adjust_cell_length(self.size.width, style(""))
