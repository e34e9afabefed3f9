"""The containers: state, consumption and ports, a line each."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Static

from core.model import Container, State
from tui import networking, text
from tui.filters import matches, unknown
from tui.keymap import Keymap, bindings_for
from tui.messages import ContainerChosen
from tui.panes.base import ListPane
from tui.snapshot import Snapshot, Usage
from tui.widgets.linetable import Cell, Column, LineTable, Row

SPARK = 6  # cells: twelve readings


def sign(container: Container) -> Cell:
    """The state's glyph; colour is never its only sign."""
    glyphs = text.glyphs()
    if container.health == "unhealthy" and container.state.live:
        return Cell(glyphs.unhealthy, "warning bold")
    return {
        State.RUNNING: Cell(glyphs.running, "success"),
        State.PAUSED: Cell(glyphs.paused, "warning"),
        State.STARTING: Cell(glyphs.starting, "success"),
        State.STOPPING: Cell(glyphs.starting, "warning"),
        State.RESTARTING: Cell(glyphs.starting, "warning"),
        State.CREATED: Cell(glyphs.created, "text-muted"),
        State.EXITED: Cell(glyphs.exited, "error" if failed(container) else "text-muted"),
        State.REMOVING: Cell(glyphs.starting, "text-muted"),
        State.DEAD: Cell(glyphs.dead, "error"),
        State.UNKNOWN: Cell(glyphs.unknown, "warning"),
    }[container.state]


def failed(container: Container) -> bool:
    """True where it ended by an error, and not because somebody stopped it (143: SIGTERM)."""
    return container.oom_killed or container.exit_code not in (0, 143, None)


def state_cell(container: Container, now: float) -> Cell:
    """``up 3h``, ``healthy 3h``, ``exit 137 2m``: 13 cells at most."""
    state = container.state
    if state is State.RUNNING:
        word = {"": "up", "starting": "checking"}.get(container.health, container.health)
        return Cell(f"{word} {text.age(now - container.started).strip()}", "warning" * (word == "unhealthy"))
    if state is State.EXITED:
        since = text.age(now - container.finished).strip() if container.finished else ""
        word = "oom" if container.oom_killed else "exit"
        return Cell(f"{word} {container.exit_code} {since}".rstrip(), "error" if failed(container) else "text-muted")
    if state is State.RESTARTING:
        return Cell(f"restart {container.restarts}", "warning")
    quiet = state in (State.CREATED, State.REMOVING)
    return Cell(state.value, "text-muted" if quiet else "warning")


def welcome_text(keys: Keymap) -> Content:
    """What a new user can do first."""
    lines: list[str | Content | tuple[str, str]] = [("Nothing runs here yet.\n\n", "bold")]
    for action, words in (
        ("image.pull", "pull an image from a registry"),
        ("image.load", "load an archive (docker save, OCI)"),
        ("image.run", "run a container from an image"),
        (
            "app.demo",
            f"demo: a small image made from this host, and a few\n{'':8}containers that show everything; no network",
        ),
        ("app.help", "all keys"),
    ):
        lines += [(f"   {keys.label(action):<5}", "bold $accent"), f"{words}\n"]
    return text.join(*lines)


def memory_text(usage: Usage | None) -> str:
    """``64.1M/ 128M`` in 11 cells."""
    if usage is None:
        return ""
    limit = text.size(usage.sample.memory_limit).strip() if usage.sample.memory_limit else "-"
    return f"{text.size(usage.sample.memory)}/{limit:>5}"


class ContainersPane(ListPane):
    """All containers of this engine."""

    PANEL = "containers"
    NUMBER = 1
    LABEL = "Containers"
    BINDINGS = [*bindings_for("containers")]
    COLUMNS = (
        Column("sign", "", 1),
        Column("name", "NAME", minimum=12, weight=3),
        Column("image", "IMAGE", minimum=14, weight=2, priority=5),
        Column("state", "STATE", 13),
        Column("cpu", "CPU %", 6 + SPARK, align="right", priority=1),
        Column("memory", "MEM/LIMIT", 11, align="right", priority=2),
        Column("ports", "PORTS", minimum=10, weight=2, priority=3),
    )
    ORDERS = (
        ("created", "newest", True),
        ("name", "name", False),
        ("cpu", "cpu", True),
        ("memory", "memory", True),
        ("state", "state", False),
    )
    EMPTY = "no containers yet"

    def __init__(self) -> None:
        super().__init__()
        self._awaited: str | None = None
        self._welcome = Static("", id="welcome")

    def compose(self) -> ComposeResult:
        yield self.table
        yield self._welcome
        yield self.bar

    def tell_keys(self, keys: Keymap) -> None:
        """The words that stand here while there is nothing else to see."""
        self._welcome.update(welcome_text(keys))

    def ids_in_view(self) -> set[str]:
        """The containers whose counters are to be read; all of them while the order depends on the counters."""
        if not self.display:
            return set()
        if self.order_key in ("cpu", "memory"):
            return {row.key for row in self.table.rows}
        return set(self.table.keys_in_view)

    def wait_for(self, cid: str) -> None:
        """Put the cursor on that container as soon as it is in the list."""
        self._awaited = cid

    def repaint(self) -> None:
        super().repaint()
        snapshot = self.snapshot
        self.set_class(snapshot.listed and not snapshot.containers, "-empty")
        if self._awaited and self.table.move_to(self._awaited):
            self._awaited = None

    def build(self) -> tuple[list[Row], int]:
        snapshot = self.snapshot
        shown = [c for c in snapshot.containers if matches(self.filter, self._fields(c), c.spec.labels)]
        self._sort(shown, snapshot)
        return [self._row(c, snapshot) for c in shown], len(snapshot.containers)

    @staticmethod
    def _fields(container: Container) -> dict[str, str]:
        ports = " ".join(f"{p.host_port}:{p.container_port}" for p in container.ports)
        return {
            "name": container.name,
            "image": container.spec.image,
            "state": container.state.value,
            "health": container.health,
            "id": container.id,
            "port": ports,
        }

    def no_match(self) -> str:
        known = [state.value for state in State]
        wrong = unknown(self.filter, "state", known)
        if not wrong:
            return super().no_match()
        return f"there is no state {wrong!r}; there are\n{', '.join(known[:5])},\n{', '.join(known[5:])}"

    def _sort(self, shown: list[Container], snapshot: Snapshot) -> None:
        def used(container: Container) -> tuple[float, float]:
            usage = snapshot.usage.get(container.id)
            return (usage.cpu or 0.0, float(usage.sample.memory)) if usage else (-1.0, -1.0)

        keys = {
            "created": lambda c: c.created,
            "name": lambda c: c.name.lower(),
            "cpu": lambda c: used(c)[0],
            "memory": lambda c: used(c)[1],
            "state": lambda c: (not c.state.live, c.state.value, c.name.lower()),
        }
        shown.sort(key=keys[self.order_key], reverse=self.descending)

    @staticmethod
    def _row(container: Container, snapshot: Snapshot) -> Row:
        usage = snapshot.usage.get(container.id)
        cpu = Cell()
        if usage is not None and usage.cpu is not None:
            nano = container.spec.resources.nano_cpus
            ceiling = nano / 1e7 if nano else 100.0
            history = usage.cpu_history[-2 * SPARK :]
            cpu = Cell(text.percent(usage.cpu), spark=history, spark_max=ceiling, spark_width=SPARK)
        ports = networking.ports_cell(container, snapshot.reach.get(container.name, ()))
        name = Cell(container.name, "" if container.state.live else "text-muted")
        image = Cell(container.spec.image, "text-muted")
        cells = (
            sign(container),
            name,
            image,
            state_cell(container, snapshot.now),
            cpu,
            memory_text(usage),
            ports,
        )
        return Row(container.id, cells)

    @on(LineTable.Highlighted)
    def _highlighted(self, message: LineTable.Highlighted) -> None:
        message.stop()
        self.post_message(ContainerChosen(message.key))
