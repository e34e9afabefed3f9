"""Keys that come all at once: each is handled when what the one before it did is true."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar

import pytest
import pytest_asyncio
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.pilot import Pilot
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from core.engine import Engine
from core.model import ContainerSpec, State
from tests.patience import patience
from tests.tui.test_app_live import own_folders, shown, until
from tests.tui.typing import burst
from tui.app import WharfApp
from tui.render import RenderApp
from tui.render.parser import InOrderParser
from tui.screens.confirm import ConfirmScreen
from tui.screens.inspect import InspectScreen
from tui.screens.layers import LayersScreen
from tui.screens.pull import PullScreen
from tui.screens.run_form import RunScreen

__all__ = ["own_folders"]
DOWN, ENTER, TAB = "\x1b[B", "\r", "\t"


class Told(Message):
    """Travels from a widget to the screen."""


class Far(Static, can_focus=True):
    """Its key takes effect at the far end of a chain of messages."""

    BINDINGS: ClassVar = [("a", "tell", "Tell")]

    def action_tell(self) -> None:
        self.post_message(Told())


class Chain(Vertical):
    """Gives on as another message, after the refresh."""

    class Again(Message):
        pass

    def on_told(self) -> None:
        self.call_after_refresh(self.post_message, self.Again())


class ChainApp(RenderApp[None]):
    """``a`` counts, at the end of its chain; ``b`` notes the count that it sees."""

    BINDINGS: ClassVar = [("b", "note", "Note"), ("m", "modal", "Modal")]

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.noted: list[int] = []

    def compose(self) -> ComposeResult:
        yield Chain(Vertical(Far()))

    def on_mount(self) -> None:
        self.query_one(Far).focus()

    def on_chain_again(self) -> None:
        self.count += 1

    def action_note(self) -> None:
        self.noted.append(self.count)

    def action_modal(self) -> None:
        self.push_screen(Box())


class Box(ModalScreen[None]):
    def compose(self) -> ComposeResult:
        yield Vertical(Input(id="one"), Input(id="two"))


async def test_a_key_sees_the_end_of_what_the_one_before_it_began() -> None:
    app = ChainApp()
    async with app.run_test() as pilot:
        burst(app, "ababaab" + "ab" * 50)
        await until(pilot, lambda: len(app.noted) == 53)
        assert app.noted == [1, 2, 4, *range(5, 55)]


async def test_words_after_a_tab_go_to_the_next_field_of_a_box_that_has_just_opened() -> None:
    app = ChainApp()
    async with app.run_test() as pilot:
        burst(app, f"mfirst{TAB}second{TAB}third")
        await until(pilot, lambda: isinstance(app.screen, Box) and "third" in app.screen.query_one("#one", Input).value)
        assert app.screen.query_one("#one", Input).value in ("firstthird", "third")
        assert app.screen.query_one("#two", Input).value == "second"


async def test_a_hung_handler_does_not_take_the_keyboard_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.render.typist.LIMIT", 0.1)
    app = ChainApp()
    async with app.run_test() as pilot:
        monkeypatch.setattr(type(app.screen), "at_work", True, raising=False)
        burst(app, "bb")
        await until(pilot, lambda: app.noted == [0, 0])


async def test_escape_does_not_wait_for_what_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    app = ChainApp()
    async with app.run_test() as pilot:
        monkeypatch.setattr(type(app.screen), "at_work", True, raising=False)
        burst(app, "bb")
        await pilot.pause(0.7)
        assert app.noted == []
        burst(app, "\x11")  # ctrl+q
        await until(pilot, lambda: not app.is_running)
        assert app.noted == []


async def test_keys_that_wait_when_the_app_ends_go_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    app = ChainApp()
    async with app.run_test() as pilot:  # what a handler raises comes out here
        monkeypatch.setattr(type(app.screen), "at_work", True, raising=False)
        burst(app, "ab" * 20)
        await pilot.pause(0.1)
    async with asyncio.timeout(patience(20)):
        while app.typist._task is not None:
            await asyncio.sleep(0.01)
    assert app.noted == []
    assert not app.typist._waiting


@pytest_asyncio.fixture
async def three(engine: Engine, busybox_image: str) -> AsyncIterator[list[str]]:
    """Three running containers, by name in the order of the list."""
    for name in ("one", "two", "three"):
        made = await engine.create(
            ContainerSpec(
                image=busybox_image, name=name, command=("sleep", "600"), network="none", stop_signal="SIGKILL"
            )
        )
        await engine.start(made.id)
    yield ["three", "two", "one"]


@pytest.mark.real
class TestWorkstation:
    """Over a real engine."""

    async def opened(self, app: WharfApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.desk.containers.table.row_count == 3)
        await until(pilot, lambda: app.desk.chosen is not None)

    @pytest.mark.parametrize(("keys", "row"), [("jK", 1), ("jjK", 2), ("jjkK", 1), ("GK", 2), (f"{DOWN}{DOWN}K", 2)])
    async def test_kill_asks_of_the_row_that_the_keys_before_moved_to(
        self, engine: Engine, three: list[str], keys: str, row: int
    ) -> None:
        app = WharfApp(engine)
        async with app.run_test(size=(120, 30)) as pilot:
            await self.opened(app, pilot)
            burst(app, keys)
            await until(pilot, lambda: f"Kill {three[row]}?" in shown(app))

    async def test_yes_in_the_same_burst_kills_that_row_only(self, engine: Engine, three: list[str]) -> None:
        app = WharfApp(engine)
        async with app.run_test(size=(80, 24)) as pilot:
            await self.opened(app, pilot)
            burst(app, "jKy")

            def states() -> dict[str, State]:
                return {container.name: container.state for container in app.desk.snapshot.containers}

            await until(pilot, lambda: states()["two"] is State.EXITED)
            assert states() == {"one": State.RUNNING, "two": State.EXITED, "three": State.RUNNING}

    async def test_no_then_another_row(self, engine: Engine, three: list[str]) -> None:
        app = WharfApp(engine)
        async with app.run_test(size=(120, 30)) as pilot:
            await self.opened(app, pilot)
            burst(app, "KnjKnjs")  # asks twice, is refused twice, stops the third at once
            await until(
                pilot,
                lambda: [c.name for c in app.desk.snapshot.containers if c.state is State.EXITED] == ["one"],
                15,
            )
            assert app.screen is app.desk

    async def test_marks_filter_and_remove_in_one_go(self, engine: Engine, three: list[str]) -> None:
        app = WharfApp(engine)
        async with app.run_test(size=(120, 30)) as pilot:
            await self.opened(app, pilot)
            burst(app, f"/two{ENTER}d")
            await until(pilot, lambda: "Remove two?" in shown(app))
            burst(app, "n")
            await until(pilot, lambda: app.screen is app.desk)
            await pilot.press("escape")
            await until(pilot, lambda: app.desk.containers.table.row_count == 3)
            burst(app, "g  d")
            await until(pilot, lambda: "Remove three, two?" in shown(app))

    async def test_keys_after_one_that_changes_the_panel_are_that_panels(
        self, engine: Engine, three: list[str]
    ) -> None:
        app = WharfApp(engine)
        async with app.run_test(size=(80, 24)) as pilot:
            await self.opened(app, pilot)
            burst(app, "2d")
            await until(pilot, lambda: "Remove image busybox:test" in shown(app))
            burst(app, f"n{TAB}d1jd")  # the default network cannot be removed
            await until(pilot, lambda: "Remove two?" in shown(app))

    async def test_words_go_to_the_dialog_that_a_key_has_opened(self, engine: Engine, three: list[str]) -> None:
        app = WharfApp(engine)
        async with app.run_test(size=(80, 24)) as pilot:
            await self.opened(app, pilot)
            burst(app, "Pquick/dish:1")
            await until(pilot, lambda: isinstance(app.screen, PullScreen))
            await until(pilot, lambda: app.screen.query_one("#source", Input).value == "quick/dish:1")

    async def test_run_form_in_one_burst(self, engine: Engine, three: list[str]) -> None:
        app = WharfApp(engine)
        async with app.run_test(size=(80, 24)) as pilot:
            await self.opened(app, pilot)
            burst(app, f"2nmade{TAB}sleep 60{TAB}{TAB}A=b")
            await until(pilot, lambda: isinstance(app.screen, RunScreen) and "A=b" in shown(app))
            values = {key: app.screen.query_one(f"#field-{key}", Input).value for key in ("name", "command", "ports")}
            assert values == {"name": "made", "command": "sleep 60", "ports": ""}
            assert app.screen.query_one("#field-env", Input).value == "A=b"

    async def test_inspect_takes_the_keys_after_it(self, engine: Engine, three: list[str]) -> None:
        app = WharfApp(engine)
        async with app.run_test(size=(80, 24)) as pilot:
            await self.opened(app, pilot)
            burst(app, "iqji")  # q leaves the box, not the workstation
            await until(pilot, lambda: isinstance(app.screen, InspectScreen) and "Inspect two" in shown(app))
            assert app.is_running

    async def test_palette_runs_what_was_typed(self, engine: Engine, three: list[str]) -> None:
        app = WharfApp(engine)
        async with app.run_test(size=(80, 24)) as pilot:
            await self.opened(app, pilot)
            burst(app, f"j:kill{ENTER}")
            await until(pilot, lambda: isinstance(app.screen, ConfirmScreen) and "Kill two?" in shown(app))

    async def test_keys_before_the_first_list_are_meant_for_it(self, engine: Engine, three: list[str]) -> None:
        app = WharfApp(engine)
        async with app.run_test(size=(120, 30)) as pilot:
            burst(app, "jK")
            await until(pilot, lambda: "Kill two?" in shown(app))


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        ("\x1bJ", "escape J"),
        ("\x1b\r", "escape enter"),
        ("\x1b\x1bj", "escape escape j"),
        ("\x1b2\x1b/\x1b?x", "escape 2 escape slash escape question_mark x"),
        ("a\x1b[Ab\x1bOA\x1bd\x1b[6~", "a up b up escape d pagedown"),
        ("\x1b[200~one\ntwo\x1b[201~\x1bq", "Paste escape q"),
        ("\x1b[1;1R\x1bd\x1b[<0;10;5M\x1b", "CursorPosition escape d MouseDown escape"),
    ],
)
def test_escape_and_the_key_after_it_are_two_keys(typed: str, keys: str) -> None:
    for cut in range(len(typed) + 1):  # wherever one read ends
        parser = InOrderParser()
        events = [event for part in (typed[:cut], typed[cut:]) if part for event in parser.feed(part)]
        events += parser.feed("")
        assert " ".join(getattr(event, "key", type(event).__name__) for event in events) == keys, cut


async def test_escape_then_enter_leaves_and_does_nothing_else(engine: Engine, busybox_image: str) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: bool(app.desk.snapshot.images))
        burst(app, "2nmade\x1b\r")  # leaves the form; Enter opens the layers of the row
        await until(pilot, lambda: isinstance(app.screen, LayersScreen))
        assert await engine.containers() == []
        burst(app, "\x1bd\x1bu\x1bPabc\x1bi")
        await until(pilot, lambda: isinstance(app.screen, InspectScreen))


def test_keys_become_bytes_again() -> None:
    from tui.handover import as_typed

    typed = "ls -l\r\x1b[A\x1b[D\x03é\t\x7f"
    assert as_typed(InOrderParser().feed(typed)) == typed.encode()
