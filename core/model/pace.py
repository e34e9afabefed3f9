"""How fast a pull, load or push moves, and how long it will still last."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from core.model.progress import LayerProgress, PullProgress

_WINDOW = 5.0  # seconds: shorter jumps about, longer does not see that the line has become slow
_THERE = ("exists", "mounted")
_LEAST = 0.4  # seconds of reports before there is a rate


@dataclass(frozen=True)
class Speed:
    """``moved`` of ``total`` bytes; ``rate`` in bytes a second, ``left`` in seconds; ``None`` where it is not known."""

    moved: int = 0
    total: int = 0
    rate: float | None = None
    left: float | None = None


class Pace:
    """Takes the reports of one transfer."""

    def __init__(self) -> None:
        self._readings: deque[tuple[float, int]] = deque()
        self._fetched: set[str] = set()  # layers that were seen under way: unpacking counts their bytes once more

    def take(self, progress: PullProgress, now: float) -> Speed:
        """The speed with this report, which came at ``now`` (seconds, of any clock that never goes back)."""
        moved = sum(map(self._moved, progress.layers))
        total = sum(layer.total for layer in progress.layers if layer.phase not in _THERE)
        if self._readings and moved < self._readings[-1][1]:
            self._readings.clear()  # a layer begins anew, or the next image of an archive
        self._readings.append((now, moved))
        while now - self._readings[0][0] > _WINDOW and len(self._readings) > 2:
            self._readings.popleft()
        since, before = self._readings[0]
        if now - since < _LEAST:
            return Speed(moved, total)
        rate = (moved - before) / (now - since)
        left = (total - moved) / rate if rate > 0 and total > moved else None
        return Speed(moved, total, rate, left)

    def _moved(self, layer: LayerProgress) -> int:
        if layer.phase == "waiting" or layer.phase in _THERE:
            return 0
        if layer.phase == "done":
            return layer.total
        if layer.phase != "unpacking":
            self._fetched.add(layer.digest)
            return layer.done
        return layer.total if layer.digest in self._fetched else layer.done
