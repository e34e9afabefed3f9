"""A table over the whole screen, filled when the engine answers: history, newer versions, disk usage, search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Generic, TypeVar

from textual import on
from textual.binding import BindingType
from textual.widget import Widget
from textual.widgets import Static

from core.errors import WharfError
from tui import text
from tui.screens.base import Dialog
from tui.widgets.linetable import Column, LineTable, Row

A = TypeVar("A")
R = TypeVar("R")


class TableScreen(Dialog[R], Generic[A, R]):
    """``ask`` gets the function that takes the answer, or why there is none; :meth:`rows` makes lines of it."""

    CSS_PATH: ClassVar = ["dialog.tcss", "table.tcss"]
    BINDINGS: ClassVar[list[BindingType]] = [("escape,q", "leave", "Back")]
    covers = True
    COLUMNS: ClassVar[tuple[Column, ...]] = ()
    EMPTY: ClassVar[str] = "nothing"

    def __init__(self, ask: Callable[[Callable[[A | WharfError], None]], object]) -> None:
        super().__init__()
        self._ask = ask
        self._asking = True
        self._table = LineTable(self.COLUMNS, empty="…", id="table")
        self._said = Static("", id="said")

    @property
    def at_work(self) -> bool:
        """True until the answer is there: keys are meant for it."""
        return self._asking

    def parts(self) -> list[Widget]:
        return [self._table, self._said]

    def on_mount(self) -> None:
        self.begin()

    def begin(self) -> None:
        """It is on the screen: ask."""
        self._table.focus()
        self._ask(self._show)

    def _show(self, answer: A | WharfError) -> None:
        self._asking = False
        self.answered(answer)
        if not self.is_attached:
            return
        if isinstance(answer, WharfError):
            self._table.set_empty("")
            words = (answer.what, answer.why, answer.fix, self.advice(answer))
            self.say("\n".join(part for part in words if part), "$text-error")
            return
        self._table.set_empty(self.EMPTY)
        self._table.set_rows(self.rows(answer))

    def answered(self, answer: A | WharfError) -> None:
        """An answer has come, and is about to be shown."""

    def advice(self, error: WharfError) -> str:
        """What this table itself can do about a failure."""
        return ""

    def rows(self, answer: A) -> Sequence[Row]:
        """The lines."""
        raise NotImplementedError

    def say(self, words: str, style: str = "$text-muted") -> None:
        """Words below the table."""
        self._said.update(text.safe(words, style))

    @on(LineTable.Highlighted)
    def _moved(self, message: LineTable.Highlighted) -> None:
        message.stop()
        self.moved(message.key)

    @on(LineTable.Selected)
    def _selected(self, message: LineTable.Selected) -> None:
        message.stop()
        self.opened(message.key)

    def moved(self, key: str | None) -> None:
        """The cursor is on another line."""

    def opened(self, key: str) -> None:
        """Enter on a line."""
