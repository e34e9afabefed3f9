"""What all panes share: a number, a heading in the border (or the tabs line); lists: a filter and a sort order."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widget import Widget

from tui import text
from tui.messages import OpenRequested, PaneStatus
from tui.snapshot import Snapshot
from tui.widgets.filterbar import FilterBar
from tui.widgets.linetable import Column, LineTable, Row


class Pane(Vertical):
    """A panel of the first screen. It gets snapshots, and posts messages; it never calls the engine."""

    PANEL: ClassVar[str] = ""
    NUMBER: ClassVar[int] = 0
    LABEL: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__(id=self.PANEL)
        self.snapshot = Snapshot()
        self._heading = ""

    def receive(self, snapshot: Snapshot) -> None:
        """A new snapshot arrived."""
        self.snapshot = snapshot
        self.repaint()

    def repaint(self) -> None:
        """Show the snapshot."""
        raise NotImplementedError

    def status(self) -> str:
        """What stands beside the name: counts, sort, filter."""
        return ""

    def told(self) -> None:
        """The heading may have changed: show it, in the border and in the tabs line."""
        status = self.status()
        heading = f"{self.NUMBER} {self.LABEL}" + (f"  {status}" if status else "")
        if heading != self._heading:
            self._heading = heading
            self.border_title = text.safe(heading)
            self.post_message(PaneStatus(self.PANEL))

    @property
    def target(self) -> Widget:
        """The widget that takes the focus."""
        return self


class ListPane(Pane):
    """A pane with a table, a filter and sort orders."""

    COLUMNS: ClassVar[tuple[Column, ...]] = ()
    # (column key, words, descending); the first is the order in which the list opens
    ORDERS: ClassVar[tuple[tuple[str, str, bool], ...]] = ()
    EMPTY: ClassVar[str] = "nothing here"

    def __init__(self) -> None:
        super().__init__()
        self.filter = ""
        self.order = 0
        self.reverse = False
        self.total = 0
        self.table = LineTable(self.COLUMNS, empty="", id=f"{self.PANEL}-table")
        self.bar = FilterBar(id=f"{self.PANEL}-filter")

    def compose(self) -> ComposeResult:
        yield self.table
        yield self.bar

    def on_mount(self) -> None:
        self._show_sort()
        self.told()

    @property
    def target(self) -> Widget:
        return self.table

    @property
    def key(self) -> str | None:
        """The key of the row under the cursor."""
        return self.table.cursor_key

    def build(self) -> tuple[list[Row], int]:
        """The rows to show, sorted and filtered, and how many there are in all."""
        raise NotImplementedError

    def repaint(self) -> None:
        if not self.snapshot.listed:
            return
        rows, self.total = self.build()
        self.table.set_empty(self.no_match() if self.filter and self.total else self.EMPTY)
        self.table.set_rows(rows)
        self.told()

    def no_match(self) -> str:
        """What stands where the filter lets nothing through."""
        return "nothing matches the filter"

    # -- filter ---------------------------------------------------------------------------------------------------

    def open_filter(self) -> None:
        """Let the user type a filter."""
        self.bar.open("filter", self.filter)

    def set_filter(self, words: str) -> None:
        """Show only what matches."""
        from tui.filters import needle

        self.filter = words
        self.table.set_highlight(needle(words))
        self.repaint()

    @on(FilterBar.Changed)
    def _filter_changed(self, message: FilterBar.Changed) -> None:
        message.stop()
        self.set_filter(message.text)

    @on(FilterBar.Submitted)
    def _filter_submitted(self, message: FilterBar.Submitted) -> None:
        message.stop()
        self.set_filter(message.text)
        self.bar.close()
        self.table.focus()

    @on(FilterBar.Cancelled)
    def _filter_cancelled(self, message: FilterBar.Cancelled) -> None:
        message.stop()
        self.set_filter("")
        self.bar.close()
        self.table.focus()

    # -- order ----------------------------------------------------------------------------------------------------

    @property
    def order_key(self) -> str:
        return self.ORDERS[self.order][0]

    @property
    def descending(self) -> bool:
        """Whether the largest stands first."""
        return self.ORDERS[self.order][2] != self.reverse

    def next_order(self) -> None:
        """The next sort order."""
        self.order, self.reverse = (self.order + 1) % len(self.ORDERS), False
        self._show_sort()
        self.repaint()

    @on(LineTable.HeaderClicked)
    def _header_clicked(self, message: LineTable.HeaderClicked) -> None:
        message.stop()
        for index, (key, _, _) in enumerate(self.ORDERS):
            if key == message.column:
                self.order, self.reverse = index, index == self.order and not self.reverse
                self._show_sort()
                self.repaint()

    def _show_sort(self) -> None:
        columns = {column.key for column in self.COLUMNS}
        self.table.set_sort(self.order_key if self.order_key in columns else None, self.descending)

    @on(LineTable.Selected)
    def _selected(self, message: LineTable.Selected) -> None:
        message.stop()
        self.post_message(OpenRequested(self.PANEL, message.key))

    @on(LineTable.Marked)
    def _marked(self, message: LineTable.Marked) -> None:
        message.stop()
        self.told()

    def status(self) -> str:
        shown = self.table.row_count
        parts = [f"{shown}/{self.total}" if self.filter else str(self.total) if self.snapshot.listed else ""]
        if self.table.marks:
            parts.append(f"{len(self.table.marks)} marked")
        if self.order:
            parts.append(f"sort {self.ORDERS[self.order][1]}")
        if self.filter:
            parts.append(f"/{self.filter}")
        return "  ".join(part for part in parts if part)
