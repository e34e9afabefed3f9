"""What the chosen container consumes: meters with limits, rates, and their last two minutes."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Static

from core.model import Container, Sample
from tui import text
from tui.keymap import bindings_for
from tui.panes.base import Pane
from tui.snapshot import Usage
from tui.widgets.meter import Meter
from tui.widgets.sparkline import Sparkline


def _pair(one: str, first: float | None, two: str, second: float | None) -> str:
    figures = [text.rate(value) if value is not None else "      -" for value in (first, second)]
    return f"{one} {figures[0]}   {two} {figures[1]}"


def _shares(history: tuple[float, ...], limit: float) -> tuple[float, ...]:
    """The history as shares of the limit. Without one its peak stays below the band that warns: it is no danger."""
    ceiling = max((limit, *history)) * (1.0 if limit else 1.5) or 1.0
    return tuple(value / ceiling for value in history)


class ResourcesPane(Pane, can_focus=True):
    """CPU, memory, processes, block and network I/O of one container."""

    PANEL = "resources"
    NUMBER = 5
    LABEL = "Resources"
    BINDINGS = [*bindings_for("resources")]

    def __init__(self) -> None:
        super().__init__()
        self.container_id: str | None = None
        self._cpu = Meter("cpu", unit=text.percent)
        self._memory = Meter("memory")
        self._pids = Meter("pids", unit=text.count)
        self._block = Static("", classes="rates")
        self._net = Static("", classes="rates")
        self._shown = {self._block: "", self._net: ""}
        self._sparks = {
            name: Sparkline(maximum=maximum, classes="history")
            for name, maximum in (("cpu", 1.0), ("memory", 1.0), ("block", 0.0), ("net", 0.0))
        }

    def compose(self) -> ComposeResult:
        yield Horizontal(self._cpu, self._sparks["cpu"], classes="row")
        yield Horizontal(self._memory, self._sparks["memory"], classes="row")
        yield Horizontal(self._pids, Static("", classes="history"), classes="row")
        yield Horizontal(self._block, self._sparks["block"], classes="row")
        yield Horizontal(self._net, self._sparks["net"], classes="row")

    def on_resize(self, event: events.Resize) -> None:
        """The figures come first: their past is shown where there is room for both."""
        self.set_class(event.size.width < 70, "-slim")

    def on_mount(self) -> None:
        self._show(None, None)
        self.told()

    def choose(self, container_id: str | None) -> None:
        """Meter another container."""
        self.container_id = container_id
        self.repaint()

    def repaint(self) -> None:
        container = self.snapshot.container(self.container_id)
        self._show(container, self.snapshot.usage.get(container.id) if container else None)
        self.told()

    def _show(self, container: Container | None, usage: Usage | None) -> None:
        limits = container.spec.resources if container else None
        quota = limits.nano_cpus / 1e7 if limits and limits.nano_cpus else 0.0
        sample = usage.sample if usage else None
        throttled = usage.throttled if usage else None
        cpus = f"of {quota / 100:.2f} cpu" if quota else ""
        waits = f"waits {throttled:.0f}%" if throttled and throttled >= 0.5 else ""
        self._cpu.set((usage.cpu or 0.0) if usage else 0.0, quota or 100.0, "  ".join(p for p in (cpus, waits) if p))
        peak = f"peak {text.size(sample.memory_peak).strip()}" if sample and sample.memory_peak else ""
        kills = f"oom kills {sample.oom_kills}" if sample and sample.oom_kills else ""
        self._memory.set(
            float(sample.memory) if sample else 0.0,
            float(sample.memory_limit) if sample else 0.0,
            "  ".join(part for part in (peak, kills) if part),
        )
        self._pids.set(float(sample.pids) if sample else 0.0, float(sample.pids_limit) if sample else 0.0)
        used = usage or Usage(Sample("", 0.0))
        self._write(self._block, "block", _pair("read", used.block_read, "write", used.block_write))
        self._write(self._net, "network", _pair("in  ", used.net_rx, "out  ", used.net_tx))
        for name, history in (
            ("cpu", _shares(used.cpu_history, quota or 100.0)),
            ("memory", _shares(used.memory_history, float(used.sample.memory_limit))),
            ("block", used.block_history),
            ("net", used.net_history),
        ):
            self._sparks[name].set_values(history)

    def _write(self, where: Static, label: str, figures: str) -> None:
        if self._shown[where] != figures:
            self._shown[where] = figures
            where.update(text.join((f"{label:<8} ", "$text-muted"), figures), layout=False)

    def status(self) -> str:
        container = self.snapshot.container(self.container_id)
        if container is None:
            return ""
        return container.name if container.state.live else f"{container.name}  not running"
