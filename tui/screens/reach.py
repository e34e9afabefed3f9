"""Who can reach the published ports: this host, the LAN or everyone, and what says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from core.errors import WharfError
from core.model import Reach
from tui import networking
from tui.screens.live import LiveTable
from tui.widgets.columns import fitted
from tui.widgets.linetable import Cell, Column, Row

_NARROW = 110  # columns of a terminal: below, interfaces are told of the chosen row alone
_MOST = 24  # cells: what a container's name or a port may take
Ask = Callable[[Callable[[list[Reach] | WharfError], None]], object]


class ReachScreen(LiveTable[list[Reach], None]):
    """A line for each port as it is bound; below the table the rule and the warnings of the row."""

    COLUMNS = (
        Column("container", "CONTAINER", 10, priority=1),
        Column("port", "PORT", 10),
        Column("who", "REACHED BY", 13),
        Column("where", "CALLED AT", minimum=20, weight=1, cut="words"),
    )
    EMPTY = "no port is published"

    def __init__(self, subject: str, ask: Ask) -> None:
        """``subject``: whose ports, for the heading; "": everybody's."""
        super().__init__(ask)
        self._subject = subject
        self._found: dict[str, Reach] = {}
        self._fitted: list[Column] = []

    def heading(self) -> str:
        return f"Who can reach the ports of {self._subject}" if self._subject else "Who can reach the published ports"

    def rows(self, answer: list[Reach]) -> Sequence[Row]:
        self._found = {f"{one.container} {networking.port_words(one.port)}": one for one in answer}
        self.moved(self._table.cursor_key)
        short = self.app.size.width < _NARROW
        rows = [
            Row(
                key,
                (
                    one.container,
                    networking.port_words(one.port),
                    networking.scope_cell(one),
                    where(one, short=short),
                ),
            )
            for key, one in self._found.items()
        ]
        columns = fitted(self.COLUMNS, rows, _MOST)  # the rest is for where it is called
        if columns != self._fitted:
            self._fitted = columns
            self._table.set_columns(columns)
        return rows

    def moved(self, key: str | None) -> None:
        found = self._found.get(key or "")
        if found is None:
            self.say("")
            return
        self.say(*told(found))


def told(found: Reach) -> tuple[str, str]:
    """All that is known of a port, below the table, and its colour."""
    at = f"{networking.port_words(found.port)} at {', '.join(found.addresses)}" if found.addresses else ""
    words = "\n".join(line for line in (*found.warnings, at, found.rule) if line)
    return words, "$text-warning" if found.warnings else "$text-muted"


def where(found: Reach, *, short: bool = False) -> Cell:
    """The addresses of the host at which it is called; ``short``: without their interfaces, which :func:`told` has."""
    addresses = (one.partition(" ")[0] if short else one for one in found.addresses)
    return Cell(", ".join(addresses), "text-muted")
