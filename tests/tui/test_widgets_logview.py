"""The log view: follows, holds, searches, filters, wraps, copies; whatever bytes a container prints."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from core.logs.index import LogView as LogFile
from core.logs.writer import LogWriter
from tests.patience import patience
from tests.tui.memlog import MemLog, line
from tests.tui.test_app_live import quiet
from tui.text import width as cells
from tui.widgets.logline import level_of, show
from tui.widgets.loglines import LogFilter, LogLines
from tui.widgets.logview import LogView


class LogApp(App[None]):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[object] = []

    def compose(self) -> ComposeResult:
        yield LogView(empty="choose a container")

    @property
    def view(self) -> LogView:
        return self.query_one(LogView)

    def on_log_view_not_found(self, event: LogView.NotFound) -> None:
        self.said.append(event.needle)

    def on_log_view_state_changed(self, event: LogView.StateChanged) -> None:
        self.said.append(event.state)

    def on_log_view_copied(self, event: LogView.Copied) -> None:
        self.said.append(event.lines)


def shown(view: LogView) -> list[str]:
    """The screen's lines without time stamps and scrollbar."""
    skip = 14 if view.timestamps else 1
    return [view.render_line(y).text[skip:-1].rstrip() for y in range(view.size.height)]


def numbered(count: int) -> list[str]:
    return [f"line {i}" for i in range(count)]


async def until(pilot: Pilot[None], done: Callable[[], bool]) -> None:
    """Let the app go on until it is so."""
    end = time.monotonic() + patience(60)
    while not done():
        assert time.monotonic() < end
        await pilot.pause(0.02)


async def opened(pilot: Pilot[None], view: LogView, log: MemLog) -> None:
    """Show it, and wait until it is on the screen with its numbers."""
    view.show(log)
    await until(pilot, lambda: view.state.indexed and any(shown(view)))


async def test_it_follows_and_repaints_only_then() -> None:
    app = LogApp()
    async with app.run_test(size=(60, 10)) as pilot:
        view, log = app.view, MemLog(numbered(1000))
        view.show(log)
        await until(pilot, lambda: shown(view)[-1] == "line 999")
        log.texts.append("newest")
        await until(pilot, lambda: shown(view)[-1] == "newest")
        await pilot.press("k")
        assert not view.following
        before, held = view.repaints, shown(view)
        log.texts += numbered(50)
        await pilot.pause(0.4)
        assert (view.repaints, shown(view)) == (before, held)
        await pilot.press("G")
        assert view.following
        assert shown(view)[-1] == "line 49"


async def test_an_idle_log_repaints_nothing() -> None:
    app = LogApp()
    async with app.run_test(size=(60, 10)) as pilot:
        await opened(pilot, app.view, MemLog(numbered(100)))
        await quiet(pilot, lambda: app.view.repaints, 0.5)


async def test_scrolling() -> None:
    app = LogApp()
    async with app.run_test(size=(60, 10)) as pilot:
        view = app.view
        await opened(pilot, view, MemLog(numbered(1000)))
        for key, top in (("g", 0), ("j", 1), ("pagedown", 10), ("ctrl+d", 15), ("ctrl+u", 10), ("k", 9), ("pageup", 0)):
            await pilot.press(key)
            assert shown(view)[0] == f"line {top}", key
        view.go_to(500)
        assert "line 500" in shown(view)
        await pilot.press("end", "k", "j")
        assert view.following  # coming to the end follows again


async def test_the_end_shows_before_the_index_is_there() -> None:
    app = LogApp()
    async with app.run_test(size=(60, 10)) as pilot:
        view, log = app.view, MemLog(numbered(1000), late=10**6)
        view.show(log)
        await until(pilot, lambda: shown(view)[-1] == "line 999")
        assert not view.state.indexed
        await pilot.press("k", "k", "k")
        assert shown(view)[-1] == "line 996"
        log._late = 0
        await until(pilot, lambda: view.state.indexed)
        assert shown(view)[-1] == "line 996"  # nothing moved when the lines got their numbers


async def test_rotation_moves_nothing() -> None:
    app = LogApp()
    async with app.run_test(size=(60, 10)) as pilot:
        view, log = app.view, MemLog(numbered(1000))
        await opened(pilot, view, log)
        view.go_to(500)
        held = shown(view)
        log.drop(400)
        await until(pilot, lambda: view.state.dropped == 400)
        assert shown(view) == held
        log.drop(300)
        await until(pilot, lambda: shown(view)[0] == "line 700")


async def test_search_goes_round_and_says_when_there_is_nothing() -> None:
    app = LogApp()
    async with app.run_test(size=(60, 10)) as pilot:
        view = app.view
        await opened(pilot, view, MemLog(numbered(50_000)))
        view.search("LINE 7777")
        await until(pilot, lambda: view.state.match == 7777)
        assert not view.following
        await pilot.press("n")
        await pilot.pause(0.3)
        await until(pilot, lambda: view.state.match == 7777)  # the only one: round the end
        view.search("line 1000")
        await until(pilot, lambda: view.state.match == 1000)  # the nearest above
        view.search_next()
        await until(pilot, lambda: view.state.match == 10_000)
        view.search_previous()
        await until(pilot, lambda: view.state.match == 1000)
        view.search("nowhere")
        await until(pilot, lambda: "nowhere" in app.said)


async def test_filters() -> None:
    app = LogApp()
    async with app.run_test(size=(60, 10)) as pilot:
        view = app.view
        log = MemLog([f"{'ERROR' if i % 100 == 0 else 'INFO'} line {i}" for i in range(30_000)])
        view.show(log)
        view.set_filter("Error")
        await until(pilot, lambda: view.state.lines == 300 and shown(view)[-1] == "ERROR line 29900")
        view.set_filter("!error")
        await until(pilot, lambda: view.state.lines == 29_700)
        view.set_filter("line 2", level="warn")
        await until(pilot, lambda: not view.state.searching and all("ERROR line 2" in text for text in shown(view)))
        log.texts.append("FATAL line 2 new")
        await until(pilot, lambda: shown(view)[-1] == "FATAL line 2 new")
        view.set_filter("nothing like it")
        await until(pilot, lambda: "lines are hidden by only nothing like it" in " ".join(shown(view)))
        view.set_filter()
        await until(pilot, lambda: shown(view)[-1] == "FATAL line 2 new")


async def test_wrapping_and_sideways() -> None:
    app = LogApp()
    async with app.run_test(size=(40, 10)) as pilot:
        view = app.view
        await opened(pilot, view, MemLog(["abcdefghij" * 20, "世界" * 30]))
        assert shown(view)[0].endswith("…")
        await pilot.press("right")
        assert shown(view)[0].startswith("ghij")
        view.toggle_wrap()
        await until(pilot, lambda: "".join(shown(view)).count("abcdefghij"[:3]) >= 6)
        assert {cells(view.render_line(y).text) for y in range(10)} == {40}
        await pilot.press("k")
        assert {cells(view.render_line(y).text) for y in range(10)} == {40}


async def test_copying() -> None:
    app = LogApp()
    async with app.run_test(size=(60, 10)) as pilot:
        view = app.view
        await opened(pilot, view, MemLog(["\x1b[31mred\x1b[0m", *numbered(30)]))
        view.timestamps = False
        assert view.copy_text().splitlines() == [f"line {i}" for i in range(20, 30)]
        await pilot.press("v", "k", "k")
        assert view.copy_text() == "line 27\nline 28\nline 29"
        view.action_copy()
        await until(pilot, lambda: app.clipboard == "line 27\nline 28\nline 29" and 3 in app.said)
        assert not view.selecting
        await pilot.mouse_down(view, offset=(5, 2))
        await pilot.hover(view, offset=(5, 4))
        await pilot.mouse_up(view, offset=(5, 4))
        assert view.copy_text() == "line 22\nline 23\nline 24"


async def test_a_selection_is_seen_in_the_terminals_own_colours() -> None:
    app = LogApp()
    async with app.run_test(size=(60, 10)) as pilot:
        app.theme = "ansi-dark"
        await opened(pilot, app.view, MemLog(numbered(30)))
        await pilot.press("v")
        selected, other = (list(app.view.render_line(y))[1].style for y in (9, 8))
        assert selected
        assert other
        assert selected.bgcolor != other.bgcolor


async def test_any_bytes() -> None:
    app = LogApp()
    async with app.run_test(size=(60, 10)) as pilot:
        view = app.view
        hostile = [
            "\x1b[2J\x1b[H\x1b]0;t\x07x", "a\x00\x07b\rc", "\udcff\udcfe", "[/][bold]", "\u202egnp", "x" * 3_000_000,
            "{" * 100_000, '{"msg": ' * 5000, "\x1b[38;5;", "e\u0301" * 40,
        ]  # fmt: skip
        for wrap in (False, True):
            view.wrap = wrap
            await opened(pilot, view, MemLog(hostile))
            for _ in range(30):
                await pilot.press("k")
                lines = [view.render_line(y).text for y in range(10)]
                assert {cells(text) for text in lines} == {60}
                assert all(text.isprintable() for text in lines)


async def test_the_former_log_is_closed() -> None:
    app = LogApp()
    async with app.run_test(size=(60, 10)) as pilot:
        first, second = MemLog(["a"]), MemLog(["b"])
        app.view.show(first)
        app.view.show(second)
        await until(pilot, lambda: first.closed and shown(app.view)[0] == "b")
        app.view.show(None, empty="gone")
        assert second.closed
        assert "gone" in " ".join(shown(app.view))


async def test_stderr_is_marked() -> None:
    app = LogApp()
    async with app.run_test(size=(60, 4)) as pilot:
        app.view.show(MemLog(["out", "to stderr"]))
        await until(pilot, lambda: [app.view.render_line(y).text[0] for y in range(2)] == [" ", "▎"])


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("2024-01-01 ERROR bad", "error"),
        ('time=x level=warn msg="y"', "warn"),
        ("[error] 12#0: x", "error"),
        ("warning: deprecated", "warn"),
        ("E0102 15:04:05.1 x.go:1] y", "error"),
        ("DEBUG x", "debug"),
        ("GET /error 200", ""),
        ("information about errors", ""),
        ("", ""),
    ],
)
def test_levels(text: str, level: str) -> None:
    assert level_of(text)[0] == level
    assert show(line(0, text)).level == level


def test_json_is_readable() -> None:
    text = '{"time":"2024","level":"error","msg":"it broke","code":5,"who":"a b","deep":{"x":[1]}}'
    seen = show(line(0, text))
    assert seen.text == 'ERROR it broke code=5 who="a b" deep={"x":[1]}'
    assert seen.level == "error"
    assert show(line(0, text), readable=False).text == text
    assert show(line(0, '{"level":30,"msg":"pino"}')).text == "INFO  pino"
    assert show(line(0, '{"a":1}')).text == "a=1"
    assert show(line(0, '{"broken')).text == '{"broken'


def test_ansi_becomes_styles() -> None:
    seen = show(line(0, "\x1b[1;31mred\x1b[0m and \x1b[38;2;1;2;3mrgb\x1b[48;5;196mback\x1b[K"))
    assert seen.text == "red and rgbback"
    assert seen.spans == ((0, 3, "bold ansi_red"), (8, 11, "#010203"), (11, 15, "#010203 on #ff0000"))


def test_a_progress_bar_shows_its_last_state() -> None:
    assert show(line(0, "10%\r50%\r100%\r")).text == "100%"


def test_a_stack_trace_has_the_level_of_its_line() -> None:
    lines = [line(0, "ERROR boom"), line(1, "    at x.y(z)"), line(2, "INFO fine"), line(3, "  indented")]
    assert LogFilter.parse("", "error").picks(lines) == [0, 1]


def test_filtered_positions_and_ids() -> None:
    log = MemLog(numbered(5000))
    source = LogLines(log)
    source.set_filter(LogFilter.parse("7"))
    while source.searching:
        source.advance(1.0)
    expected = [i for i in range(5000) if "7" in str(i)]
    assert len(source) == len(expected)
    assert [source.id_at(position) for position in range(len(source))] == expected
    assert all(source.position_of(line_id) == position for position, line_id in enumerate(expected))
    assert source.position_of(8) == 1
    assert source.has(17)
    assert not source.has(18)
    log.texts += ["7 new", "8"]
    source.advance(1.0)
    assert source.id_at(len(source) - 1) == 5000
    log.drop(100)
    source.advance(1.0)
    assert source.id_at(0) == 107
    assert source.fetch(0, 1)[0][1].text == "line 107"


async def test_a_line_still_being_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    stamp = b"2025-11-20T19:04:05.000000000Z stdout F "
    path.write_bytes(stamp + b"first\n" + stamp + b"half")
    app = LogApp()
    async with app.run_test(size=(60, 10)) as pilot:
        app.view.show(LogFile(path))
        await until(pilot, lambda: shown(app.view)[:2] == ["first", "half"])
        with path.open("ab") as file:
            file.write(b" and whole\n")
        await until(pilot, lambda: shown(app.view)[:2] == ["first", "half and whole"])


async def test_a_real_log_across_rotation(tmp_path: Path) -> None:
    writer = LogWriter(str(tmp_path / "0.log"), 20_000, 3)
    app = LogApp()
    async with app.run_test(size=(60, 10)) as pilot:
        view = app.view
        view.show(LogFile(tmp_path / "0.log"))
        for number in range(2000):
            writer.write(1, f"line {number}\n".encode(), 1_700_000_000_000_000_000 + number)
            if number % 200 == 0:
                await pilot.pause(0.1)
        await until(pilot, lambda: shown(view)[-1] == "line 1999")
        assert view.state.dropped > 0
        view.set_filter("99")
        await until(pilot, lambda: not view.state.searching and all("99" in text for text in shown(view)))
        assert shown(view)[-1] == "line 1999"
    writer.close()
