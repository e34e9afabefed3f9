"""The network of one container, live: its places with their addresses, its ports with who can reach each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import on
from textual.binding import BindingType
from textual.widget import Widget

from core.errors import WharfError
from core.model import Container, EndpointInfo, EndpointSpec, Reach
from tui import networking
from tui.screens.live import LiveTable
from tui.screens.reach import told, where
from tui.snapshot import Flow, Snapshot
from tui.widgets.linetable import Cell, Column, LineTable, Row

Ask = Callable[[Callable[[list[Reach] | WharfError], None]], object]
Act = Callable[[str, str], object]

PLACES = (
    Column("network", "NETWORK", minimum=10, weight=1),
    Column("address", "ADDRESS", minimum=18, weight=2, cut="words"),
    Column("traffic", "IN      OUT", 16, align="right", priority=3),
    Column("gateway", "GATEWAY", minimum=12, weight=1, priority=1, cut="words"),
    Column("interface", "INTERFACE", minimum=9, weight=1, priority=2),
    Column("mac", "MAC", 17, priority=5),
    Column("aliases", "ALIASES", minimum=10, weight=1, priority=4),
    Column("host", "ON THE HOST", minimum=13, weight=1, priority=6),
)


class PlacesScreen(LiveTable[list[Reach], None]):
    """Above the networks that it is on, or will be; below its published ports."""

    KEYS_TEXT = "Tab switch · A add to a network · O out · o ports · t connections · Esc"
    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,q,N", "leave", "Back"),
        ("tab,shift+tab", "other", "Networks or ports"),
        ("A", "act('network.connect')", "Add to a network"),
        ("O", "act('network.disconnect')", "Out of the network"),
        ("o", "act('container.ports')", "Open and close ports"),
        ("t", "act('network.connections')", "Connections"),
    ]
    COLUMNS = (
        Column("port", "PORT", minimum=16, weight=1),
        Column("who", "REACHED BY", 13),
        Column("where", "CALLED AT", minimum=20, weight=3, priority=1),
    )
    EMPTY = "no port is published"
    shows_traffic = True

    def __init__(self, container: Container, snapshot: Snapshot, ask: Ask, act: Act) -> None:
        """``act`` gets the id of an action, and the network of the row."""
        super().__init__(ask)
        self.snapshot = snapshot
        self._container = container
        self._act = act
        self._places = LineTable(PLACES, empty="it has no network but lo", id="places")
        self._found: dict[str, Reach] = {}

    def heading(self) -> str:
        return f"Network of {self._container.name}"

    def parts(self) -> list[Widget]:
        return [self._places, *super().parts()]

    def begin(self) -> None:
        super().begin()
        self._places.focus()

    def rows(self, answer: list[Reach]) -> Sequence[Row]:
        self._found = {networking.port_words(one.port): one for one in answer}
        return [Row(key, (key, networking.scope_cell(one), where(one))) for key, one in self._found.items()]

    def shown(self) -> None:
        container = self.snapshot.container(self._container.id)
        if container is None:
            self.dismiss(None)  # it was removed
            return
        self._container = container
        rows = _place_rows(container, self.snapshot)
        self._places.styles.height = min(max(2, len(rows) + 1), max(3, self.app.size.height // 2))
        self._places.set_rows(rows)
        self.moved(self._table.cursor_key)

    def moved(self, key: str | None) -> None:
        found = self._found.get(key or "")
        if found is not None and self._table.has_focus:
            self.say(*told(found))
            return
        warnings = list(dict.fromkeys(words for one in self._found.values() for words in one.warnings))
        self.say("\n".join(warnings), "$text-warning")

    @on(LineTable.Highlighted, "#places")
    @on(LineTable.Selected, "#places")
    def _of_places(self, message: LineTable.TableMessage) -> None:
        message.stop()
        message.prevent_default()

    def action_other(self) -> None:
        """The other table."""
        (self._table if self._places.has_focus else self._places).focus()
        self.call_after_refresh(lambda: self.moved(self._table.cursor_key))

    def action_act(self, action: str) -> None:
        self._act(action, self._places.cursor_key or "")


def _place_rows(container: Container, snapshot: Snapshot) -> list[Row]:
    """Where it is now; where it will be, of one that does not run."""
    now = {end.network: end for end in container.endpoints}
    mode = container.spec.network
    if mode == "host" or mode.startswith("container:"):
        words = "the interfaces of this host" if mode == "host" else "the network of another container"
        return [Row(mode, (mode[:22], Cell(words, "text-muted"), "", "", "", "", "", ""))]
    wanted = {end.network: end for end in networking.places(container)}
    flows = snapshot.traffic
    return [
        _row(name, now.get(name), wanted.get(name), flows.get((container.id, name)))
        for name in dict.fromkeys([*now, *wanted])
    ]


def _row(name: str, end: EndpointInfo | None, want: EndpointSpec | None, flow: Flow | None) -> Row:
    quiet = "text-muted"
    if end is None:
        asked = " ".join(address for address in (want.ip, want.ip6) if address) if want else ""
        names = ", ".join(want.aliases) if want else ""
        return Row(name, (name, Cell(asked or "when it is started", quiet), "", "", "", "", names, ""), quiet)
    address = " ".join(f"{ip}/{length}" for ip, length in ((end.ip, end.prefix_len), (end.ip6, end.prefix_len6)) if ip)
    gateway = " ".join(ip for ip in (end.gateway, end.gateway6) if ip)
    cells = (gateway, end.name, end.mac, ", ".join(end.aliases), end.interface)
    return Row(name, (name, address, networking.traffic(flow), *(Cell(cell, quiet) for cell in cells)))
