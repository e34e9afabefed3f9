"""A table that paints line by line: thousands of rows, and of a new snapshot only the lines that differ.

Textual's ``DataTable`` repaints all of itself for every cell updated. Here a pane hands over a whole snapshot of
rows each tick; what each visible line *would* show is compared with what it shows, and only the others repaint.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from rich.segment import Segment
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip

from tui.text import clean, fit, folded
from tui.widgets.columns import Cell, Column, Row, Slot, arrange
from tui.widgets.linewidget import LineWidget, drag_target
from tui.widgets.tablepaint import Look, paint_header, paint_row

__all__ = ["Cell", "Column", "LineTable", "Row"]

_WHEEL = 3  # lines a notch of the wheel moves


class LineTable(LineWidget):
    """Rows with a cursor and marks. The pane sorts and filters; the table shows what it is given, in that order."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "move(1)", "Down", show=False, id="table.down"),
        Binding("k,up", "move(-1)", "Up", show=False, id="table.up"),
        Binding("g,home", "top", "Top", show=False, id="table.top"),
        Binding("G,end", "bottom", "Bottom", show=False, id="table.bottom"),
        Binding("ctrl+d", "page(0.5)", "Half page down", show=False, id="table.half_down"),
        Binding("ctrl+u", "page(-0.5)", "Half page up", show=False, id="table.half_up"),
        Binding("pagedown", "page(1)", "Page down", show=False, id="table.page_down"),
        Binding("pageup", "page(-1)", "Page up", show=False, id="table.page_up"),
        Binding("enter", "select", "Open", show=False, id="table.select"),
    ]

    class TableMessage(Message):
        """Base of the table's messages."""

        def __init__(self, table: LineTable) -> None:
            super().__init__()
            self.table = table

        @property
        def control(self) -> LineTable:
            return self.table

    class Highlighted(TableMessage):
        """The cursor is on another row (``None``: no rows)."""

        def __init__(self, table: LineTable, key: str | None) -> None:
            super().__init__(table)
            self.key = key

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, LineTable.Highlighted) and message.table is self.table

    class Selected(TableMessage):
        """Enter or a double click on a row."""

        def __init__(self, table: LineTable, key: str) -> None:
            super().__init__(table)
            self.key = key

    class Marked(TableMessage):
        """The set of marked rows changed."""

        def __init__(self, table: LineTable, marks: frozenset[str]) -> None:
            super().__init__(table)
            self.marks = marks

    class HeaderClicked(TableMessage):
        """A click on a column's label: the pane may sort by it."""

        def __init__(self, table: LineTable, column: str) -> None:
            super().__init__(table)
            self.column = column

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        empty: str = "",
        name: str | None = None,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(name=name, id=id, classes=classes)
        self._columns = tuple(columns)
        self._slots: tuple[Slot, ...] = ()
        self._empty = empty
        self._rows: tuple[Row, ...] = ()
        self._index: dict[str, int] | None = None  # key → row, made when first needed after a snapshot
        self._cursor = 0
        self._top = 0
        self._marks: frozenset[str] = frozenset()
        self._last_mark: str | None = None
        self._sort: tuple[str, bool] | None = None
        self._needle = ""
        self._looks: list[Look] = []
        self._announced: str | None = None
        self._dragging = False

    # -- what is shown ----------------------------------------------------------------------------------------

    def set_rows(self, rows: Sequence[Row]) -> int:
        """Show this snapshot; returns how many lines repaint (0: it looks the same).

        The cursor stays on its key, or on its line where the key went; marks of rows that went are dropped.
        """
        key = self.cursor_key
        in_view = self._top <= self._cursor < self._top + self.page_height
        was_empty = not self._rows
        self._rows = tuple(rows)
        self._index = None
        if key is not None and not (self._cursor < len(self._rows) and self._rows[self._cursor].key == key):
            self._cursor = self._find(key, self._cursor)
        self._cursor = max(0, min(self._cursor, len(self._rows) - 1))
        if self._marks and (kept := frozenset(k for k in self._marks if k in self._positions())) != self._marks:
            self._set_marks(kept)
        if was_empty or not self._rows:
            self._top = 0
            self.refresh()  # the words for "empty" come or go
        return self._sync(show_cursor=in_view)

    def set_columns(self, columns: Sequence[Column]) -> None:
        """Show other columns; the rows given must have as many cells."""
        self._columns = tuple(columns)
        self._slots = arrange(self._columns, self.size.width)
        self.refresh()

    def set_empty(self, text: str) -> None:
        """What to say where there are no rows (lines are centred)."""
        if text != self._empty:
            self._empty = text
            if not self._rows:
                self.refresh()

    def set_sort(self, column: str | None, reverse: bool = False) -> None:
        """Show the sign of the sorted column."""
        sort = (column, reverse) if column else None
        if sort != self._sort:
            self._sort = sort
            self.repaint_lines([0])

    def set_highlight(self, needle: str) -> None:
        """Highlight ``needle`` in the cells, without regard to case."""
        needle = folded(needle)
        if needle != self._needle:
            self._needle = needle
            self.refresh()

    @property
    def rows(self) -> tuple[Row, ...]:
        return self._rows

    @property
    def row_count(self) -> int:
        return len(self._rows)

    @property
    def cursor(self) -> int:
        return self._cursor

    @property
    def cursor_row(self) -> Row | None:
        return self._rows[self._cursor] if self._cursor < len(self._rows) else None

    @property
    def cursor_key(self) -> str | None:
        row = self.cursor_row
        return row.key if row else None

    @property
    def visible_columns(self) -> tuple[str, ...]:
        return tuple(slot.column.key for slot in self._slots)

    @property
    def page_height(self) -> int:
        """Lines of rows that fit."""
        return max(1, self.size.height - 1)

    @property
    def keys_in_view(self) -> frozenset[str]:
        """The keys of the rows on the screen now: what is worth metering."""
        return frozenset(row.key for row in self._rows[self._top : self._top + self.page_height])

    def _positions(self) -> dict[str, int]:
        if self._index is None:
            self._index = {row.key: position for position, row in enumerate(self._rows)}
        return self._index

    def _find(self, key: str, default: int) -> int:
        return self._positions().get(key, default)

    # -- cursor -----------------------------------------------------------------------------------------------

    def move_to(self, key: str) -> bool:
        """Put the cursor on a row; False where there is none with that key."""
        position = self._find(key, -1)
        if position < 0:
            return False
        self._cursor = position
        self._sync(show_cursor=True)
        return True

    def move_cursor(self, delta: int) -> None:
        """Down (or up) by lines, stopping at the ends."""
        self._cursor = max(0, min(self._cursor + delta, len(self._rows) - 1))
        self._sync(show_cursor=True)

    def action_move(self, delta: int) -> None:
        self.move_cursor(delta)

    def action_top(self) -> None:
        self.move_cursor(-len(self._rows))

    def action_bottom(self) -> None:
        self.move_cursor(len(self._rows))

    def action_page(self, pages: float) -> None:
        step = max(1, int(self.page_height * abs(pages)))
        self._top += step if pages > 0 else -step
        self.move_cursor(step if pages > 0 else -step)

    def action_select(self) -> None:
        if (key := self.cursor_key) is not None:
            self.post_message(self.Selected(self, key))

    # -- marks ------------------------------------------------------------------------------------------------

    @property
    def marks(self) -> frozenset[str]:
        return self._marks

    def toggle_mark(self, key: str | None = None) -> None:
        """Mark or unmark a row (default: the cursor's)."""
        key = self.cursor_key if key is None else key
        if key is not None and key in self._positions():
            self._last_mark = key
            self._set_marks(self._marks ^ {key})
            self._sync()

    def mark_range(self) -> None:
        """Mark all rows from the one marked last to the cursor."""
        start = self._find(self._last_mark, self._cursor) if self._last_mark else self._cursor
        first, last = sorted((start, self._cursor))
        self._set_marks(self._marks | {row.key for row in self._rows[first : last + 1]})
        self._last_mark = self.cursor_key
        self._sync()

    def mark_all(self) -> None:
        self._set_marks(frozenset(row.key for row in self._rows))
        self._sync()

    def clear_marks(self) -> None:
        self._last_mark = None
        self._set_marks(frozenset())
        self._sync()

    def _set_marks(self, marks: frozenset[str]) -> None:
        if marks != self._marks:
            self._marks = marks
            self.post_message(self.Marked(self, marks))

    # -- painting ---------------------------------------------------------------------------------------------

    def _sync(self, *, show_cursor: bool = False) -> int:
        """Repaint the lines that would look different now; say so where the cursor is on another row."""
        height = self.page_height
        if show_cursor:
            self._top = max(self._cursor - height + 1, min(self._top, self._cursor))
        self._top = max(0, min(self._top, len(self._rows) - height))
        looks = [self._look(y) for y in range(height)]
        former, self._looks = self._looks, looks
        if len(former) != len(looks):
            changed: Iterable[int] = range(1, height + 1)
        else:
            changed = [y for y, (a, b) in enumerate(zip(former, looks, strict=True), 1) if a != b]
        count = self.repaint_lines(changed)
        if (key := self.cursor_key) != self._announced:
            self._announced = key
            self.post_message(self.Highlighted(self, key))
        return count

    def _look(self, y: int) -> Look:
        position = self._top + y
        row = self._rows[position] if position < len(self._rows) else None
        return Look(
            row,
            row is not None and position == self._cursor,
            row is not None and row.key in self._marks,
            self.has_focus,
            self.scroll_sign(y, self.page_height, self._top, len(self._rows)),
        )

    def paint_line(self, y: int) -> Strip:
        if y == 0:
            return paint_header(self.palette, self._slots, self._sort, self.size.width)
        if not self._rows:
            return self._paint_empty(y)
        look = self._look(y - 1)
        if look.row is None:
            return self.blank()
        return paint_row(self.palette, self._slots, look, look.row, self._needle, self.size.width)

    def _paint_empty(self, y: int) -> Strip:
        lines = self._empty.splitlines()
        first = max(1, (self.size.height - len(lines)) // 2)
        if not first <= y < first + len(lines):
            return self.blank()
        text = fit(clean(lines[y - first]), self.size.width, "center")
        return Strip([Segment(text, self.palette.style("text-muted"))], self.size.width)

    # -- events -----------------------------------------------------------------------------------------------

    def on_resize(self, event: events.Resize) -> None:
        self._slots = arrange(self._columns, self.size.width)
        self._looks = []
        self.refresh()  # the header, too, has other columns now
        self._sync(show_cursor=True)

    def on_focus(self) -> None:
        self._sync()

    def on_blur(self) -> None:
        self._sync()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self._top += _WHEEL
        self._sync()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self._top -= _WHEEL
        self._sync()

    def on_mouse_down(self, event: events.MouseDown) -> None:
        spot = event.get_content_offset(self)
        if spot and spot.y > 0 and spot.x == self.size.width - 1 and len(self._rows) > self.page_height:
            self._dragging = True
            self.capture_mouse()
            self._drag_to(spot.y - 1)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if self._dragging:
            self._drag_to(event.get_content_offset_capture(self).y - 1)

    def on_mouse_up(self, event: events.MouseUp) -> None:
        if self._dragging:
            self._dragging = False
            self.release_mouse()

    def _drag_to(self, y: int) -> None:
        self._top = drag_target(y, self.page_height, len(self._rows))
        self._sync()

    def on_click(self, event: events.Click) -> None:
        spot = event.get_content_offset(self)
        if spot is None or spot.x == self.size.width - 1:
            return
        if spot.y == 0:
            for slot in self._slots:
                if slot.x <= spot.x < slot.x + slot.width:
                    self.post_message(self.HeaderClicked(self, slot.column.key))
            return
        position = self._top + spot.y - 1
        if position < len(self._rows):
            self.move_cursor(position - self._cursor)
            if event.chain == 2:
                self.action_select()
