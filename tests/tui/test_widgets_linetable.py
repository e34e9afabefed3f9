"""The line table: only what changed repaints, the cursor stays on its key, columns drop out when narrow."""

from __future__ import annotations

from textual.app import App, ComposeResult

from tui.text import width as cells
from tui.widgets.columns import GAP, GUTTER, SCROLLBAR, arrange
from tui.widgets.linetable import Cell, Column, LineTable, Row

COLUMNS = [
    Column("name", "NAME", minimum=8),
    Column("state", "STATE", width=10, priority=1),
    Column("cpu", "CPU", width=14, align="right", priority=2),
]


class TableApp(App[None]):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[str, object]] = []

    def compose(self) -> ComposeResult:
        yield LineTable(COLUMNS, empty="nothing here\npull an image")

    @property
    def table(self) -> LineTable:
        return self.query_one(LineTable)

    def on_line_table_highlighted(self, event: LineTable.Highlighted) -> None:
        self.said.append(("highlighted", event.key))

    def on_line_table_selected(self, event: LineTable.Selected) -> None:
        self.said.append(("selected", event.key))

    def on_line_table_marked(self, event: LineTable.Marked) -> None:
        self.said.append(("marked", event.marks))

    def on_line_table_header_clicked(self, event: LineTable.HeaderClicked) -> None:
        self.said.append(("header", event.column))


def rows(count: int, **changed: str) -> list[Row]:
    return [
        Row(
            f"k{i}", (changed.get(f"k{i}", f"name-{i}"), Cell("up", "success"), f"{i}.0"), "text-muted" if i % 2 else ""
        )
        for i in range(count)
    ]


def shown(table: LineTable) -> list[str]:
    return [table.render_line(y).text for y in range(table.size.height)]


async def test_an_equal_snapshot_repaints_nothing() -> None:
    app = TableApp()
    async with app.run_test(size=(60, 12)) as pilot:
        app.table.set_rows(rows(1000))
        await pilot.pause()
        before = app.table.repaints
        assert app.table.set_rows(rows(1000)) == 0
        await pilot.pause()
        assert app.table.repaints == before


async def test_only_visible_lines_that_differ_repaint() -> None:
    app = TableApp()
    async with app.run_test(size=(60, 12)) as pilot:
        app.table.set_rows(rows(1000))
        await pilot.pause()
        assert app.table.set_rows(rows(1000, k3="other")) == 1
        assert app.table.set_rows(rows(1000, k3="other", k500="unseen")) == 0
        assert "other" in shown(app.table)[4]


async def test_every_line_fills_the_width_exactly() -> None:
    app = TableApp()
    async with app.run_test(size=(60, 12)) as pilot:
        wide = [
            Row("a", ("世" * 40, Cell("é" * 30, "error"), Cell("9", spark=(1.0, 2.0)))),
            Row("b", ("[/]\x1b[2J", "", "")),
        ]
        app.table.set_rows(wide)
        for size in ((60, 12), (20, 8), (7, 4), (200, 50)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            assert {cells(line) for line in shown(app.table)} == {size[0]}
            assert "\x1b" not in "".join(shown(app.table))


async def test_the_cursor_stays_on_its_key_or_its_line() -> None:
    app = TableApp()
    async with app.run_test(size=(60, 12)) as pilot:
        table = app.table
        table.set_rows(rows(20))
        table.move_to("k7")
        table.set_rows([row for row in rows(20) if row.key != "k2"])
        assert (table.cursor_key, table.cursor) == ("k7", 6)
        table.set_rows([row for row in rows(20) if row.key not in ("k2", "k7")])
        assert (table.cursor_key, table.cursor) == ("k8", 6)
        table.set_rows(rows(3))
        assert table.cursor_key == "k2"
        table.set_rows([])
        assert table.cursor_key is None
        await pilot.pause()
        assert app.said[-1] == ("highlighted", None)
        assert any("pull an image" in line for line in shown(table))


async def test_keys() -> None:
    app = TableApp()
    async with app.run_test(size=(60, 12)) as pilot:
        table = app.table
        table.set_rows(rows(100))
        table.focus()
        for key, cursor in (
            ("j", 1), ("down", 2), ("k", 1), ("G", 99), ("k", 98), ("g", 0), ("k", 0),
            ("ctrl+d", 5), ("pagedown", 16), ("ctrl+u", 11), ("pageup", 0), ("end", 99), ("home", 0),
        ):  # fmt: skip
            await pilot.press(key)
            assert table.cursor == cursor, key
            assert any(f"name-{cursor} " in line for line in shown(table)), key
        await pilot.press("enter")
        assert app.said[-1] == ("selected", "k0")


async def test_marks() -> None:
    app = TableApp()
    async with app.run_test(size=(60, 12)) as pilot:
        table = app.table
        table.set_rows(rows(10))
        table.toggle_mark("k2")
        table.move_to("k5")
        table.mark_range()
        assert table.marks == {"k2", "k3", "k4", "k5"}
        table.toggle_mark()
        assert "k5" not in table.marks
        table.set_rows(rows(4))
        await pilot.pause()
        assert table.marks == {"k2", "k3"}
        assert ("marked", frozenset({"k2", "k3"})) in app.said
        table.clear_marks()
        assert not table.marks
        table.mark_all()
        assert len(table.marks) == 4


async def test_mouse() -> None:
    app = TableApp()
    async with app.run_test(size=(60, 12)) as pilot:
        table = app.table
        table.set_rows(rows(100))
        await pilot.pause()
        await pilot.click(table, offset=(5, 4))
        assert table.cursor_key == "k3"
        await pilot.click(table, offset=(5, 4), times=2)
        assert ("selected", "k3") in app.said
        await pilot.click(table, offset=(4, 0))
        assert app.said[-1] == ("header", "name")
        await pilot.mouse_down(table, offset=(59, 11))
        await pilot.mouse_up(table, offset=(59, 11))
        assert "name-99" in shown(table)[-1]
        assert table.cursor_key == "k3"


async def test_matches_and_sort_sign_are_shown() -> None:
    app = TableApp()
    async with app.run_test(size=(60, 12)) as pilot:
        table = app.table
        table.set_rows(rows(5))
        table.set_highlight("ME-3")
        table.set_sort("cpu", True)
        await pilot.pause()
        match = table.palette.style("text on warning")
        assert [segment.text for segment in table.render_line(4) if segment.style == match] == ["me-3"]
        assert "CPU ▾" in shown(table)[0]


def test_columns_drop_out_by_priority() -> None:
    def keys(width: int) -> list[str]:
        return [slot.column.key for slot in arrange(COLUMNS, width)]

    assert keys(80) == ["name", "state", "cpu"]
    assert keys(GUTTER + 8 + 10 + GAP + SCROLLBAR) == ["name", "state"]
    assert keys(GUTTER + 8 + 9 + GAP + SCROLLBAR) == ["name"]
    assert keys(9) == ["name"]
    assert keys(4) == []


def test_flexible_columns_share_what_is_left() -> None:
    columns = [Column("a", "A", weight=3), Column("b", "B", width=10), Column("c", "C", weight=1)]
    slots = arrange(columns, 80)
    used = sum(slot.width for slot in slots) + 2 * GAP
    assert used == 80 - GUTTER - SCROLLBAR
    assert slots[0].width > slots[2].width
    assert slots[1].width == 10
