"""The map of networks, live: who is where, which ports lead there, who can reach those."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual.binding import BindingType

from core.errors import WharfError
from core.model import Reach
from tui import netmap, networking, text
from tui.screens.live import LiveTable
from tui.screens.reach import told
from tui.snapshot import Snapshot
from tui.widgets.linetable import Row

Ask = Callable[[Callable[[list[Reach] | WharfError], None]], object]


class MapScreen(LiveTable[list[Reach], str]):
    """Enter on a network opens or closes it; on a container or a port it gives back that container's id."""

    TITLE_TEXT = "Map of the networks"
    KEYS_TEXT = "↵ open or close, go to the container · ←→ · Esc back"
    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,q,m", "leave", "Back"),
        ("right,l", "unfold(True)", "Open"),
        ("left,h", "unfold(False)", "Close"),
    ]
    COLUMNS = netmap.COLUMNS
    EMPTY = "no networks"
    shows_traffic = True

    def __init__(self, ask: Ask, snapshot: Snapshot, start: str = "") -> None:
        """``start``: id of the network that the cursor begins on."""
        super().__init__(ask)
        self.snapshot = snapshot
        self._start = start
        self._shut: set[str] = set()
        self._reach: list[Reach] = []

    def rows(self, answer: list[Reach]) -> Sequence[Row]:
        self._reach = answer
        return list(netmap.tree(self.snapshot, answer, self._shut))

    def shown(self) -> None:
        if self._start and self._table.move_to(f"n {self._start}"):
            self._start = ""
        self.moved(self._table.cursor_key)

    def moved(self, key: str | None) -> None:
        kind, _, rest = (key or "").partition(" ")
        if kind != "p":
            glyphs = text.glyphs()
            self.say(
                f"{glyphs.everywhere} everyone   {glyphs.lan} the LAN   {glyphs.local} this host only   ! a warning"
            )
            return
        _, container, words = rest.split(" ", 2)
        box = self.snapshot.container(container)
        for found in self._reach:
            if box is not None and found.container == box.name and networking.port_words(found.port) == words:
                self.say(*told(found))

    def _fold(self, network: str, shut: bool) -> None:
        (self._shut.add if shut else self._shut.discard)(network)
        self._table.set_rows(self.rows(self._reach))
        self._table.move_to(f"n {network}")

    def opened(self, key: str) -> None:
        kind, network, *rest = key.split(" ")
        if kind == "n":
            self._fold(network, network not in self._shut)
        else:
            self.dismiss(rest[0])

    def action_unfold(self, wide: bool) -> None:
        """Open the network of the row, or close it."""
        if (key := self._table.cursor_key) is not None:
            self._fold(key.split(" ")[1], not wide)
