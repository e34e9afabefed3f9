"""How an image was made, and what registries have by its names today."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from core.errors import WharfError
from core.model import HistoryEntry, TagCheck
from tui import text
from tui.screens.login_table import LoginTable
from tui.screens.table import TableScreen
from tui.snapshot import familiar, registry_of
from tui.widgets.linetable import Cell, Column, Row

_SIGNS = {"newer": "warning bold", "gone": "error", "current": "success"}  # status → style words
_WORDS = {"local": "only here"}
_ORDER = ["newer", "gone", "unknown", "current", "local"]


class HistoryScreen(TableScreen[list[HistoryEntry], int]):
    """The steps, the last first; Enter on one gives back its layer's position."""

    KEYS_TEXT = "↵ its layer · Esc back"
    COLUMNS = (
        Column("age", "AGE", 4, align="right"),
        Column("size", "SIZE", 6, align="right"),
        Column("command", "MADE BY", minimum=20, weight=1),
    )
    EMPTY = "nothing is known of how it was made"

    def __init__(self, name: str, ask: Callable[[Callable[[list[HistoryEntry] | WharfError], None]], object]) -> None:
        super().__init__(ask)
        self._subject = name
        self._steps: list[HistoryEntry] = []

    def heading(self) -> str:
        return f"History of {self._subject}"

    def rows(self, answer: list[HistoryEntry]) -> Sequence[Row]:
        self._steps = answer
        now = time.time()
        return [
            Row(
                str(number),
                (
                    text.age(now - step.created) if step.created else "-",
                    text.decimal(step.size) if step.layer else "",
                    " ".join((step.created_by or step.comment).split()),
                ),
                "" if step.layer else "text-muted",
            )
            for number, step in enumerate(answer)
        ]

    def moved(self, key: str | None) -> None:
        if key is None:
            return
        step = self._steps[int(key)]
        self.say("\n".join(part for part in (step.created_by, step.comment, step.author) if part))

    def opened(self, key: str) -> None:
        if self._steps[int(key)].layer:
            # Counted from the first step: a layer may be in an image twice, so that its digest is no place.
            self.dismiss(sum(bool(step.layer) for step in self._steps[int(key) :]))


class ChecksScreen(LoginTable[list[TagCheck], str]):
    """Which names have something newer at their registry; Enter on one gives back its name, to be pulled."""

    TITLE_TEXT = "Newer at the registry?"
    KEYS_TEXT = "↵ pull it · ctrl+l log in to its registry · Esc back"
    COLUMNS = (
        Column("name", "NAME", minimum=24, weight=1, cut="reference"),
        Column("status", "STATUS", 9),
        Column("why", "", minimum=10, weight=1, priority=1),
    )
    EMPTY = "no image has a name"

    def rows(self, answer: list[TagCheck]) -> Sequence[Row]:
        newer = sum(check.status == "newer" for check in answer)
        words = f"{newer} of {len(answer)} have something newer at their registry"
        if self.wants_login(answer):
            words += "\nSome registries want a login: ctrl+l on such a row, then they are asked once more."
        self.say(words)
        answer = sorted(answer, key=lambda check: (_ORDER.index(check.status), check.reference))
        return [
            Row(
                check.reference,
                (
                    familiar(check.reference),
                    Cell(_WORDS.get(check.status, check.status), _SIGNS.get(check.status, "text-muted")),
                    Cell(check.why, "text-muted"),
                ),
            )
            for check in answer
        ]

    def registry(self) -> str:
        return registry_of(self._table.cursor_key or "")

    def wants_login(self, answer: list[TagCheck]) -> bool:
        return any(check.login for check in answer)

    def opened(self, key: str) -> None:
        self.dismiss(familiar(key))
