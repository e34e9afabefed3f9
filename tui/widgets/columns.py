"""What a line table shows: columns, cells, rows; and how columns share the width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tui.text import Align, width

GAP = 2  # cells between two columns
GUTTER = 3  # cursor sign, mark, space
SCROLLBAR = 1


@dataclass(frozen=True)
class Column:
    """One column.

    ``width`` 0 makes it flexible: it shares by ``weight`` what the fixed ones leave, never below ``minimum``.
    ``priority`` 0 never goes; where the table is too narrow the highest number goes first. ``cut`` is where a text
    that is too long loses something: at its end, or as :func:`tui.text.fit_reference` or :func:`tui.text.fit_words` do.
    """

    key: str
    label: str
    width: int = 0
    minimum: int = 4
    weight: int = 1
    align: Align = "left"
    priority: int = 0
    cut: Literal["end", "reference", "words"] = "end"

    @property
    def least(self) -> int:
        return self.width or self.minimum


@dataclass(frozen=True)
class Cell:
    """A text with style words (``"success"``, ``"error bold"``), and a sparkline after it where there are values."""

    text: str = ""
    style: str = ""
    spark: tuple[float, ...] = ()
    spark_max: float = 0.0
    spark_width: int = 8


@dataclass(frozen=True)
class Row:
    """One line, known by its key. ``style`` holds for cells without their own."""

    key: str
    cells: tuple[str | Cell, ...]
    style: str = ""


def fitted(columns: Sequence[Column], rows: Sequence[Row], most: int) -> list[Column]:
    """Columns of fixed width made as wide as these rows need, up to ``most`` cells; the others have the rest."""
    found = []
    for index, column in enumerate(columns):
        cells = (row.cells[index] for row in rows)
        longest = max((width(cell.text if isinstance(cell, Cell) else cell) for cell in cells), default=0)
        found.append(replace(column, width=min(most, max(longest, len(column.label)))) if column.width else column)
    return found


@dataclass(frozen=True)
class Slot:
    """A column that is shown: its place among the cells and on the line."""

    column: Column
    index: int
    x: int
    width: int


def arrange(columns: Sequence[Column], width: int) -> tuple[Slot, ...]:
    """Which columns fit into ``width`` cells, and where."""
    room = width - GUTTER - SCROLLBAR
    chosen = list(enumerate(columns))

    def needed() -> int:
        return sum(column.least for _, column in chosen) + GAP * (len(chosen) - 1)

    while len(chosen) > 1 and needed() > room:
        index, worst = max(chosen, key=lambda item: (item[1].priority, item[0]))
        if worst.priority == 0:
            break
        chosen.remove((index, worst))
    spare = max(0, room - needed())
    weights = sum(column.weight for _, column in chosen if not column.width)
    slots: list[Slot] = []
    x = GUTTER
    for index, column in chosen:
        cells = column.least
        if not column.width and weights:
            share = spare * column.weight // weights
            cells += share
            spare -= share
            weights -= column.weight
        cells = max(0, min(cells, GUTTER + room - x))  # even the columns that never go may be too many
        if cells:
            slots.append(Slot(column, index, x, cells))
        x += cells + GAP
    return tuple(slots)
