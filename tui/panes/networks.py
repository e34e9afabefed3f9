"""The networks: driver, addresses, and how many containers are attached."""

from __future__ import annotations

from core.model import Network
from tui.filters import matches
from tui.keymap import bindings_for
from tui.panes.base import ListPane
from tui.widgets.linetable import Cell, Column, Row


class NetworksPane(ListPane):
    """All networks of this engine."""

    PANEL = "networks"
    NUMBER = 3
    LABEL = "Networks"
    BINDINGS = [*bindings_for("networks")]
    COLUMNS = (
        Column("name", "NAME", minimum=8, weight=2),
        Column("driver", "DRIVER", 6, priority=2),
        Column("subnet", "SUBNET", minimum=14, weight=2, priority=1),
        Column("used", "USED", 4, align="right"),
    )
    ORDERS = (("name", "name", False), ("used", "users", True))
    EMPTY = "no networks"

    def build(self) -> tuple[list[Row], int]:
        shown = [n for n in self.snapshot.networks if matches(self.filter, self._fields(n), n.labels)]
        if self.order_key == "name":
            shown.sort(key=lambda n: n.name.lower(), reverse=self.descending)
        else:
            shown.sort(key=lambda n: len(n.containers), reverse=self.descending)
        return [self._row(network) for network in shown], len(self.snapshot.networks)

    @staticmethod
    def _fields(network: Network) -> dict[str, str]:
        return {"name": network.name, "driver": network.driver, "subnet": network.subnet, "id": network.id}

    @staticmethod
    def _row(network: Network) -> Row:
        users = Cell(str(len(network.containers) or ""), "text-muted")
        return Row(network.id, (network.name, Cell(network.driver, "text-muted"), network.subnet, users))
