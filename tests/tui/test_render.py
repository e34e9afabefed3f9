"""What the diffing writes gives the same screen as what Textual writes: every frame replayed through an emulator."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pyte
import pytest
from rich.color import ColorSystem
from textual._compositor import ChopsUpdate, Compositor, LayoutUpdate
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

from tests.patience import patience
from tests.tui.memlog import MemLog
from tui.render import RenderApp
from tui.render.compositor import DirtyRowsCompositor
from tui.render.flow import WINDOW, Flow, Question
from tui.render.painter import Painter
from tui.widgets.linetable import Cell, Column, LineTable, Row
from tui.widgets.logview import LogView

COLUMNS = [
    Column("name", "NAME", minimum=8),
    Column("state", "STATE", width=10, priority=1),
    Column("cpu", "CPU", width=14, align="right", priority=2),
]


def cells(screen: pyte.Screen) -> list[list[tuple[Any, ...]]]:
    rows = [[screen.buffer[y][x] for x in range(screen.columns)] for y in range(screen.lines)]
    return [[(c.data, c.fg, c.bg, c.bold, c.italics, c.underscore, c.reverse) for c in row] for row in rows]


class Replay:
    """An emulator that is fed what would be written."""

    def __init__(self, width: int, height: int) -> None:
        self.screen = pyte.Screen(width, height)
        self.stream = pyte.Stream(self.screen)
        self.bytes = 0

    def feed(self, data: str) -> None:
        self.bytes += len(data.encode())
        # pyte draws the text of hyperlinks but trips over their introducer
        self.stream.feed(re.sub("\x1b]8;[^\x1b]*\x1b\\\\", "", data))


class Dialog(ModalScreen[None]):
    DEFAULT_CSS = "Dialog { align: center middle; } Dialog Static { width: 20; height: 3; background: $error; }"

    def compose(self) -> ComposeResult:
        yield Static("sure? 世界", markup=False)


class Sample(RenderApp[None]):
    """A table and a log side by side; each frame goes stock to one emulator and diffed to another."""

    CSS = "LineTable, LogView { border: round $primary; } LineTable { width: 40%; }"

    def __init__(self) -> None:
        super().__init__()
        self.console._color_system = ColorSystem.TRUECOLOR
        self.stock = self.diffed = Replay(1, 1)
        self.shadow = Painter()
        self.frames = 0

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield LineTable(COLUMNS, empty="nothing here")
            yield LogView()
        yield Static("wide 世界 and é and ⠿", markup=False)

    def _display(self, screen: Screen[Any], renderable: Any) -> None:
        super()._display(screen, renderable)
        if isinstance(renderable, LayoutUpdate | ChopsUpdate):
            width, height = screen.outer_size
            if (width, height) != (self.stock.screen.columns, self.stock.screen.lines):
                self.stock, self.diffed = Replay(width, height), Replay(width, height)
                self.shadow.forget()
            self.stock.feed(renderable.render_segments(self.console))
            self.diffed.feed(self.shadow.paint(renderable, self.console, width, height))
            self.frames += 1
            assert cells(self.stock.screen) == cells(self.diffed.screen)

    def check_whole(self) -> None:
        """The screen is what a compositor that renders everything would show."""
        whole = Replay(*self.screen.outer_size)
        whole.feed(self.screen._compositor.render_full_update().render_segments(self.console))
        assert cells(whole.screen) == cells(self.diffed.screen)


def rows(seed: int, count: int = 30) -> list[Row]:
    return [
        Row(
            f"k{i}",
            (
                f"name-{i}[/]" + ("世" if i % 9 == 0 else ""),
                Cell("up 3h" if (i + seed) % 5 else "exited", "success" if (i + seed) % 5 else "error bold"),
                Cell(f"{i * seed % 100}.0", "", tuple(float((i + seed + j) % 7) for j in range(9)), 7.0),
            ),
        )
        for i in range(count)
    ]


async def test_every_frame_diffed_equals_stock() -> None:
    app = Sample()
    async with app.run_test(size=(100, 24)) as pilot:
        assert isinstance(app.screen._compositor, DirtyRowsCompositor)
        table, view = app.query_one(LineTable), app.query_one(LogView)
        log = MemLog([f"line {i}" for i in range(100)])
        view.show(log)
        for seed in range(12):
            table.set_rows(rows(seed, 30 if seed != 5 else 3))
            log.texts += [
                f"\x1b[3{seed % 8}mINFO {seed}\x1b[0m 世界 " + "é" * seed,
                '{"level":"error","msg":"x"}',
                "x" * 500,
            ]
            await pilot.pause(0.07)
            if seed == 3:
                await pilot.press("j", "j", "G")
            if seed == 6:
                app.theme = "textual-light"
            if seed == 8:
                await app.push_screen(Dialog())
            if seed == 9:
                await pilot.pause(0.1)
                app.pop_screen()
        await pilot.pause(0.1)
        app.check_whole()
        await pilot.resize_terminal(70, 20)
        await pilot.pause(0.1)
        app.check_whole()
        view.search("line")
        await pilot.pause(0.2)
        app.check_whole()
        assert app.frames > 12
        assert app.diffed.bytes < app.stock.bytes / 2


async def test_nothing_changed_writes_nothing() -> None:
    app = Sample()
    async with app.run_test(size=(80, 24)) as pilot:
        app.query_one(LineTable).set_rows(rows(1))
        await pilot.pause()
        before, stock_before = app.diffed.bytes, app.stock.bytes
        app.refresh()
        await pilot.pause()
        assert app.stock.bytes > stock_before
        assert app.diffed.bytes == before


async def test_only_dirty_rows_are_rendered() -> None:
    app = Sample()
    async with app.run_test(size=(80, 24)) as pilot:
        table = app.query_one(LineTable)
        table.set_rows(rows(1))
        await pilot.pause()
        asked: list[int] = []
        original = table.render_lines
        table.render_lines = lambda crop: asked.append(crop.height) or original(crop)  # type: ignore
        changed = rows(1)
        changed[2] = Row("k2", ("other", "", ""))
        changed[15] = Row("k15", ("other", "", ""))
        assert table.set_rows(changed) == 2
        await pilot.pause()
        assert asked == [1, 1]
        app.check_whole()


async def test_another_textual_version_renders_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.render.app.KNOWN_TEXTUAL", "9.0.0")
    app = Sample()
    async with app.run_test():
        assert not app.diffing
        assert type(app.screen._compositor) is Compositor


async def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHARF_RENDER", "stock")
    assert not Sample().diffing


# -- flow control -------------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def make_flow() -> tuple[Flow, Clock]:
    flow, clock = Flow(), Clock()
    flow.clock = clock
    return flow, clock


def test_flow_asks_after_a_window_and_holds_until_answered() -> None:
    flow, _ = make_flow()
    assert flow.wrote(WINDOW - 1) == ""
    assert not flow.held()
    assert flow.wrote(1) == Question.CURSOR.value
    assert flow.held()
    assert flow.wrote(10 * WINDOW) == ""  # one question at a time
    assert flow.answered()
    assert not flow.held()
    assert not flow.answered()


def test_flow_gives_up_on_a_terminal_that_never_answers() -> None:
    flow, clock = make_flow()
    for _ in range(3):
        assert flow.wrote(WINDOW)
        assert flow.held()
        clock.now += flow.patience
        assert not flow.held()
    assert flow.wrote(WINDOW) == ""
    assert not flow.held()


def test_flow_asks_nothing_while_paused() -> None:
    flow, _ = make_flow()
    flow.paused = True
    assert flow.wrote(10 * WINDOW) == ""
    flow.reset()
    assert flow.wrote(WINDOW)


# -- a real driver on a pseudo terminal ------------------------------------------------------------------------------

SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from tests.tui.test_render import Live
Live().run()
"""


class Live(RenderApp[None]):
    """Moves for a second, then leaves."""

    CSS = Sample.CSS
    compose = Sample.compose

    def on_mount(self) -> None:
        self.log_file = MemLog([f"line {i}" for i in range(100)])
        self.query_one(LogView).show(self.log_file)
        self.step = 0
        self.set_interval(0.04, self.advance)

    def advance(self) -> None:
        self.step += 1
        if self.step <= 25:
            self.query_one(LineTable).set_rows(rows(self.step))
            self.log_file.texts += [f"\x1b[3{self.step % 8}mINFO {self.step}\x1b[0m 世界 " + "x" * self.step] * 3
        elif self.step == 45:
            self.exit()


def drive(mode: str, answers: dict[bytes, bytes]) -> tuple[bytes, int, list[list[tuple[Any, ...]]], bytes]:
    """Run it on a pty: what it wrote, questions asked, the last screen, what came after leaving."""
    root = str(Path(__file__).parents[2])
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", WHARF_RENDER=mode)
        os.execv(sys.executable, [sys.executable, "-c", SCRIPT.format(root=root)])
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    screen = pyte.Screen(100, 30)
    stream = pyte.ByteStream(screen)
    data, asked, deadline = b"", 0, time.monotonic() + patience(60)
    while True:  # until it has ended: what nobody reads would hold it up for ever
        if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            os.kill(pid, signal.SIGKILL)
        try:
            chunk = os.read(fd, 65536)
        except OSError:
            break
        data += chunk
        for question, answer in answers.items():
            asked += chunk.count(question)
            os.write(fd, answer * chunk.count(question))
    os.waitpid(pid, 0)
    os.close(fd)
    body, _, rest = data.partition(b"\x1b[?1049l")
    stream.feed(re.sub(rb"\x1b\[[<>?=][0-9;]*[a-zA-Z$]p?", b"", body))  # private modes, unknown to the emulator
    return data, asked, cells(screen), rest


@pytest.mark.slow
def test_on_a_terminal_the_screen_is_the_same_with_every_way_of_asking() -> None:
    stock = drive("stock", {})
    cursor = drive("", {b"\x1b[6n": b"\x1b[3;4R"})
    mode = drive("", {b"\x1b[6n": b"\x1b[3;4R", b"\x1b[?2026$p": b"\x1b[?2026;2$y"})
    silent = drive("", {})
    assert stock[2] == cursor[2] == mode[2]
    assert len(cursor[0]) < len(stock[0]) / 1.5
    assert cursor[1] > 5
    assert b"\x1b[?1003h" not in cursor[0]  # pointer motion is not asked for
    assert b"\x1b[?1002h" in cursor[0]
    assert mode[1] > 5
    assert b"\x1b[6n" not in cursor[3]  # nothing is asked that would be answered to the shell
    assert len(silent[0]) < len(cursor[0])  # frames wait for a terminal that does not answer, but not for ever
