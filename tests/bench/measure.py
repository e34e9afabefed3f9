"""Timing, and the table at the end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the results: the median of each side. ``None``: that side cannot do it or was not there."""

    name: str
    unit: str
    wharf: float
    docker: float | None = None
    podman: float | None = None
    note: str = ""

    @property
    def ratio(self) -> str:
        """How many times less than dockerd."""
        return f"{self.docker / self.wharf:.1f}×" if self.docker is not None and self.wharf > 0 else "–"


def clock(action: Callable[[], object]) -> float:
    """Milliseconds that ``action`` takes."""
    begun = time.perf_counter()
    action()
    return (time.perf_counter() - begun) * 1000


def turns(sides: Mapping[str, Callable[[], float]], rounds: int, warm: int = 1) -> dict[str, float]:
    """The median of each side. The sides take turns, so that a noisy minute hits all of them alike."""
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warm + rounds):
        for name, side in sides.items():
            value = side()
            if number >= warm:
                seen[name].append(value)
    return {name: statistics.median(values) for name, values in seen.items()}


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}"


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| | unit | wharf | docker | podman | docker ÷ wharf | |", "|---|---|--:|--:|--:|--:|---|"]
    for row in rows:
        cells = (_number(row.wharf), _number(row.docker), _number(row.podman))
        lines.append(f"| {row.name} | {row.unit} | {' | '.join(cells)} | {row.ratio} | {row.note} |")
    return "\n".join(lines)
