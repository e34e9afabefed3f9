"""Search the layers of all images for a path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.widget import Widget
from textual.widgets import Input, Static

from core.errors import WharfError
from core.model import FoundFile
from tui import text
from tui.screens.base import Dialog
from tui.screens.layers import fate_text
from tui.widgets.linetable import Cell, Column, LineTable, Row

Answer = list[FoundFile] | WharfError
_MOST = 5000  # rows
_SHORT = 24  # cells: what an image's name may take before it shares with the path


class FindScreen(Dialog[FoundFile]):
    """A line to type, then the hits; Enter on one gives it back, to be shown in its layer."""

    CSS_PATH: ClassVar = ["dialog.tcss", "layers.tcss"]
    BINDINGS: ClassVar = [("escape", "leave", "Back"), ("tab,shift+tab", "other", "Pattern or hits")]
    TITLE_TEXT = "Find in all layers of all images"
    KEYS_TEXT = "↵ search, then show · Tab pattern/hits · Esc back"

    COLUMNS = (
        Column("path", "PATH", minimum=18, weight=3, cut="reference"),
        Column("image", "IMAGE", minimum=18, weight=2, priority=1, cut="reference"),
        Column("layer", "LAYER", 5, align="right"),
        Column("size", "SIZE", 6, align="right", priority=2),
        Column("fate", "", 15, priority=3),  # "replaced by 123"
    )

    def __init__(self, ask: Callable[[str, Callable[[Answer], None]], object]) -> None:
        """``ask`` gets the pattern, and the function that takes what was found, or why nothing can be."""
        super().__init__()
        self._ask = ask
        self._found: list[FoundFile] = []
        self._searching = False
        self._input = Input(placeholder="/etc/passwd, *.pem, /usr/**/*.so, a part of a path", id="pattern")
        self._said = Static("", classes="quiet", id="said")
        self._table = LineTable(self.COLUMNS, empty="", id="hits")

    @property
    def at_work(self) -> bool:
        """True while it searches: the next keys are meant for what it finds."""
        return self._searching

    def parts(self) -> list[Widget]:
        return [self._input, self._said, self._table]

    def on_mount(self) -> None:
        self._input.cursor_blink = False
        self._input.focus()

    @on(Input.Submitted)
    def _search(self, message: Input.Submitted) -> None:
        message.stop()
        pattern = self._input.value.strip()
        if pattern and not self._searching:
            self._searching = True
            self._said.update(text.safe("searching"))
            self._ask(pattern, self._show)

    def _show(self, answer: Answer) -> None:
        self._searching = False
        if not self.is_attached:
            return
        self._found = [] if isinstance(answer, WharfError) else answer[:_MOST]
        rows = [_row(number, hit) for number, hit in enumerate(self._found)]
        self._table.set_columns(_fitted(self.COLUMNS, rows))
        self._table.set_rows(rows)
        if isinstance(answer, WharfError):
            self._said.update(text.safe(f"{answer.what}: {answer.why}" if answer.why else answer.what, "$text-error"))
            return
        more = f", the first {_MOST} are shown" if len(answer) > _MOST else ""
        self._said.update(text.safe(f"{len(answer)} found{more}" if answer else "no layer has it"))
        if self._found:
            self._table.focus()

    @on(LineTable.Selected)
    def _chosen(self, message: LineTable.Selected) -> None:
        self.dismiss(self._found[int(message.key)])

    def action_other(self) -> None:
        (self._table if self._input.has_focus else self._input).focus()


def _fitted(columns: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    """Image and fate as wide as these rows need them: the path has the rest, which on 80 columns is little."""
    fitted = []
    for index, column in enumerate(columns):
        cells = [row.cells[index] for row in rows]
        longest = max((len(cell.text if isinstance(cell, Cell) else cell) for cell in cells), default=column.width)
        if column.key == "fate" or (column.key == "image" and longest <= _SHORT):
            column = replace(column, width=max(longest, len(column.label)), minimum=0)
        fitted.append(column)
    return fitted


def _row(number: int, hit: FoundFile) -> Row:
    fate, words = fate_text(hit)
    name = hit.name.removeprefix("docker.io/library/").removeprefix("docker.io/")
    size = text.decimal(hit.size) if hit.kind in ("file", "link") else ""
    return Row(str(number), (f"/{hit.path}", name, str(hit.position), size, Cell(fate, words)))
