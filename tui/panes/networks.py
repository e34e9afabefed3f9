"""The networks: driver, addresses, what is special about each, and how many containers are attached."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.widgets import Static

from core.model import Network
from tui import networking, text
from tui.filters import matches
from tui.keymap import bindings_for
from tui.panes.base import ListPane
from tui.snapshot import Snapshot
from tui.widgets.linetable import Cell, Column, Row


class NetworksPane(ListPane):
    """All networks of this engine; ``host`` and ``none``, which nothing can be done with, stand last."""

    PANEL = "networks"
    NUMBER = 3
    LABEL = "Networks"
    BINDINGS = [*bindings_for("networks")]
    COLUMNS = (
        Column("name", "NAME", minimum=8, weight=2),
        Column("driver", "DRIVER", 7, priority=2),
        Column("subnet", "SUBNETS", minimum=18, weight=3, priority=1, cut="words"),
        Column("flags", "FLAGS", 18, priority=3),
        Column("used", "USED", 4, align="right"),
        Column("traffic", "IN      OUT", 16, align="right", priority=4),
        Column("gateway", "GATEWAY", minimum=13, weight=2, priority=6, cut="words"),
        Column("bridge", "BRIDGE", minimum=13, weight=1, priority=7),
        Column("mtu", "MTU", 5, align="right", priority=8),
    )
    ORDERS = (
        ("name", "name", False),
        ("used", "users", True),
        ("driver", "driver", False),
        ("traffic", "traffic", True),
    )
    EMPTY = "no networks"

    def __init__(self) -> None:
        super().__init__()
        self.note = Static("", classes="note")

    def compose(self) -> ComposeResult:
        yield self.table
        yield self.note
        yield self.bar

    def on_mount(self) -> None:
        super().on_mount()
        self.note.display = False

    def lacks(self, words: str) -> None:
        """Say why containers can have no network here, and what helps; "": they can."""
        self.note.update(text.safe(words))
        self.note.display = bool(words)

    def build(self) -> tuple[list[Row], int]:
        shown = [n for n in self.snapshot.networks if matches(self.filter, self._fields(n), n.labels)]
        keys = {
            "name": lambda n: n.name.lower(),
            "used": lambda n: len(n.containers),
            "traffic": lambda n: sum(self.snapshot.flow_of(n.name) or (0.0, 0.0)),
            "driver": lambda n: (n.driver, n.name.lower()),
        }
        shown.sort(key=keys[self.order_key], reverse=self.descending)
        shown.sort(key=lambda n: n.driver in ("host", "null"))  # stable: the order of the others stays
        return [self._row(network, self.snapshot) for network in shown], len(self.snapshot.networks)

    @property
    def shows_traffic(self) -> bool:
        """True where there is room for what passes: then it is worth reading."""
        return self.display and "traffic" in self.table.visible_columns

    @staticmethod
    def _fields(network: Network) -> dict[str, str]:
        return {
            "name": network.name,
            "driver": network.driver,
            "subnet": networking.subnets(network),
            "flags": networking.flags(network),
            "bridge": network.bridge,
            "id": network.id,
        }

    @staticmethod
    def _row(network: Network, snapshot: Snapshot) -> Row:
        quiet = "text-muted"
        used = len(network.containers)
        if network.driver in ("host", "null"):  # nothing is attached to these
            used = sum(box.state.live and box.spec.network == network.name for box in snapshot.containers)
        return Row(
            network.id,
            (
                network.name,
                Cell(network.driver, quiet),
                networking.subnets(network),
                Cell(networking.flags(network), quiet),
                Cell(str(used or ""), quiet),
                networking.traffic(snapshot.flow_of(network.name)),
                networking.gateways(network),
                Cell(network.bridge, quiet),
                Cell(text.count(network.mtu) if network.mtu else "", quiet),
            ),
            quiet if network.driver in ("host", "null") else "",
        )
