"""The first line (the host's meters and how many containers are up) and, on narrow screens, the line of tabs."""

from __future__ import annotations

from textual import events
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from core.model import State
from tui import text
from tui.snapshot import Snapshot
from tui.widgets.sparkline import spark

Part = str | tuple[str, str]


def _gauge(label: str, value: str) -> list[Part]:
    return [(f"   {label} ", "$text-muted"), value]


def meters(snapshot: Snapshot, wide: bool) -> list[Part]:
    """Name and figures of the host."""
    name = snapshot.hostname or "this host"
    parts: list[Part] = [(" wharf", "bold $accent"), f"  {name}" + (" · local engine" if wide else "")]
    host = snapshot.host
    if host is None:
        return parts
    sample = host.sample
    busy = "  - " if host.cpu is None else f"{host.cpu:3.0f}%"
    parts += _gauge("cpu", f"{spark(host.cpu_history[-12:], 6, 100.0)} {busy}" if wide else busy)
    parts += _gauge("mem", f"{text.size(sample.memory_used)}/{text.size(sample.memory_total).strip()}")
    if wide:
        parts += _gauge("disk", f"{text.size(sample.disk_used)}/{text.size(sample.disk_total).strip()}")
    parts += _gauge("load", f"{sample.load1:.1f}")
    if wide and sample.pressure_cpu is not None:
        parts += _gauge("psi", f"{sample.pressure_cpu:.1f}")
    return parts


def census(snapshot: Snapshot, wide: bool) -> list[Part]:
    """How many containers are up, ended, unhealthy."""
    if not snapshot.listed:
        return [("reading … ", "$text-muted")]
    containers = snapshot.containers
    up = sum(c.state.live for c in containers)
    ended = sum(c.state in (State.EXITED, State.DEAD, State.UNKNOWN) for c in containers)
    ill = sum(c.state.live and c.health == "unhealthy" for c in containers)
    parts: list[Part] = [f"{up} up"]
    if ended:
        parts.append((f"  {ended} {'exited' if wide else 'ex'}", "$text-muted"))
    if ill:
        parts.append((f"  {ill} unhealthy" if wide else f"  {ill} !", "bold $warning"))
    return [*parts, " "]


class HostLine(Static):
    """One line; repainted only where its words changed."""

    def receive(self, snapshot: Snapshot) -> None:
        """Show the snapshot."""
        left, right = text.join(*meters(snapshot, True)), text.join(*census(snapshot, True))
        if left.cell_length + right.cell_length + 3 > self.size.width:
            left, right = text.join(*meters(snapshot, False)), text.join(*census(snapshot, False))
        gap = max(1, self.size.width - left.cell_length - right.cell_length)
        line = Content.assemble(left, " " * gap, right)
        if line != self.content:
            self.update(line, layout=False)


class TabsLine(Static):
    """The panels by number, for screens that show one at a time."""

    class Clicked(Message):
        """A tab was clicked."""

        def __init__(self, panel: str) -> None:
            super().__init__()
            self.panel = panel

    _spans: tuple[tuple[int, int, str], ...] = ()

    def show(self, tabs: list[tuple[str, str]], active: str, status: str) -> None:
        """``tabs``: (panel, words); ``status`` of the active one stands behind, as far as there is room."""
        parts: list[Part] = [" "]
        spans, at = [], 1
        for panel, words in tabs:
            cells = text.width(words) + 2
            parts.append((f" {words} ", "bold $accent reverse" if panel == active else "$text-muted"))
            spans.append((at, at + cells, panel))
            at += cells
        room = self.size.width - at - 2
        if status and room > 4:
            parts.append(("  " + text.fit(status, room).rstrip(), "$text-muted"))
        self._spans = tuple(spans)
        line = text.join(*parts)
        if line != self.content:
            self.update(line, layout=False)

    def on_click(self, event: events.Click) -> None:
        for start, end, panel in self._spans:
            if start <= event.x < end:
                self.post_message(self.Clicked(panel))
