"""The workstation over a real engine: what a user does, and what is then true in the kernel and on the screen."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from textual._compositor import LayoutUpdate
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Input

from core.engine import Engine
from core.model import Container, ContainerSpec, State
from tests.criu import needs_criu
from tests.patience import patience
from tests.registry import push, registry
from tui.actions import BY_ID
from tui.app import WharfApp
from tui.screens.confirm import ConfirmScreen
from tui.screens.help import HelpScreen
from tui.screens.inspect import InspectScreen
from tui.screens.jobs import JobsScreen
from tui.screens.pull import LoadScreen, PullScreen
from tui.screens.run_form import RunScreen
from tui.screens.settings import ThemeScreen

pytestmark = pytest.mark.real
SIZES = [(80, 24), (200, 50)]


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of nobody."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest_asyncio.fixture
async def sleeper(engine: Engine, busybox_image: str) -> AsyncIterator[Container]:
    """A running container that logs a line which is markup, and then sleeps."""
    made = await engine.create(
        ContainerSpec(
            image=busybox_image,
            name="sleeper",
            command=("sh", "-c", "echo '[/] [bold]hello'; exec sleep 600"),
            network="none",
            labels={"team": "[/]"},
            stop_signal="SIGKILL",
        )
    )
    yield await engine.start(made.id)


async def until(pilot: Pilot[None], true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until it holds."""
    end = asyncio.get_running_loop().time() + patience(seconds)
    while not true():
        assert asyncio.get_running_loop().time() < end, "\n" + shown(pilot.app)
        await pilot.pause(0.02)


def shown(app: App[None]) -> str:
    """The screen's text, a line each, with the screens that show below it. (Textual's picture of itself tells the same,
    and takes ten times as long.)"""
    update = app.screen._compositor.render_update(full=True, screen_stack=app._background_screens, simplify=True)
    assert isinstance(update, LayoutUpdate)
    lines = [[piece.text for strip in line for piece in strip if piece.text.strip(" ")] for line in update.strips]
    return "\n".join("".join(line) for line in lines if line)


def ended(app: WharfApp, title: str) -> bool:
    """A job of this name has been done to its end. (That none is under way would hold before it has begun, too.)"""
    return any(job.title == title and job.state == "done" for job in app.desk.jobs.shown)


async def quiet(pilot: Pilot[None], painted: Callable[[], object], seconds: float) -> None:
    """Wait until nothing has been painted for so long. (Whatever is painted again and again never lets that be.)

    :param painted: how much has been, up to now
    """
    clock = asyncio.get_running_loop().time
    end, since, before = clock() + patience(30), clock(), painted()
    while clock() - since < seconds:
        assert clock() < end, f"it paints on: {before}, {painted()}"
        await pilot.pause(0.05)
        if (now := painted()) != before:
            since, before = clock(), now


async def test_nothing_there_offers_what_to_do(engine: Engine) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.desk.snapshot.listed)
        await until(pilot, lambda: "Nothing runs here yet" in shown(app))
        for key, screen in (("P", PullScreen), ("L", LoadScreen), ("n", RunScreen), ("question_mark", HelpScreen)):
            await pilot.press(key)
            await until(pilot, lambda screen=screen: isinstance(app.screen, screen))  # type: ignore[misc]
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is app.desk)


@pytest.mark.parametrize("size", SIZES)
async def test_list_log_and_meters(engine: Engine, sleeper: Container, size: tuple[int, int]) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: "sleeper" in shown(app) and "up " in shown(app))
        await until(pilot, lambda: sleeper.id in app.desk.snapshot.usage)
        await pilot.press("enter")
        await until(pilot, lambda: "[/] [bold]hello" in shown(app))
        await pilot.press("5")
        await until(pilot, lambda: "memory" in shown(app) and "pids" in shown(app))
        await pilot.press("escape")
        await until(pilot, lambda: app.desk.active == "containers")


async def test_stop_start_pause_and_remove(engine: Engine, sleeper: Container) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: app.desk.chosen == sleeper.id)

        def state() -> State | None:
            container = app.desk.container()
            return container.state if container else None

        await pilot.press("p")
        await until(pilot, lambda: state() is State.PAUSED)
        await pilot.press("p")
        await until(pilot, lambda: state() is State.RUNNING)
        await pilot.press("s")
        await until(pilot, lambda: state() is State.EXITED)
        await pilot.press("u")
        await until(pilot, lambda: state() is State.RUNNING)
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, ConfirmScreen))
        await pilot.press("enter")  # Enter alone never removes
        assert isinstance(app.screen, ConfirmScreen)
        await pilot.press("n")
        await until(pilot, lambda: app.screen is app.desk)
        assert len(await engine.containers()) == 1
        await pilot.press("d", "y")
        await until(pilot, lambda: not app.desk.snapshot.containers and app.desk.snapshot.listed)
        assert await engine.containers() == []


async def test_checkpoint_and_restore(engine: Engine, sleeper: Container) -> None:
    needs_criu()
    app = WharfApp(engine)
    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: app.desk.chosen == sleeper.id)

        def state() -> State | None:
            container = app.desk.container()
            return container.state if container else None

        await pilot.press("C")
        await until(pilot, lambda: isinstance(app.screen, ConfirmScreen) and "are saved, and end" in shown(app))
        await pilot.press("y")
        await until(pilot, lambda: state() is State.EXITED)
        await pilot.press("R")
        await until(pilot, lambda: state() is State.RUNNING)
        assert len(await engine.checkpoints(sleeper.id)) == 1
        await until(pilot, lambda: app.desk.offers(BY_ID["container.restore"]))
        await pilot.press("question_mark")
        await until(pilot, lambda: "newest checkpoint" in shown(app))


async def test_without_criu_checkpoints_are_not_offered(
    engine: Engine, sleeper: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHARF_CRIU", "/nowhere/criu")
    app = WharfApp(engine)
    async with app.run_test(size=(120, 60)) as pilot:
        await until(pilot, lambda: app.desk.chosen == sleeper.id)
        await pilot.pause(1.5)
        await pilot.press("question_mark")
        await until(pilot, lambda: "SIGKILL" in shown(app))
        assert "checkpoint" not in shown(app).lower()
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is app.desk)
        await pilot.press("C")  # who knows the key is told why it does not work
        await until(pilot, lambda: isinstance(app.screen, ConfirmScreen))
        await pilot.press("y", "J")
        await until(pilot, lambda: isinstance(app.screen, JobsScreen) and "failed" in shown(app))


async def test_pull_shows_failures_and_brings_the_image(engine: Engine, archive: Path, tmp_path: Path) -> None:
    app = WharfApp(engine)
    with registry(tmp_path / "registry") as host:
        push(f"oci-archive:{archive}", f"{host}/box:test")
        async with app.run_test(size=(120, 30)) as pilot:
            await until(pilot, lambda: app.desk.snapshot.listed)
            await pilot.press("P")
            await until(pilot, lambda: isinstance(app.screen, PullScreen))
            for source, words in (
                (f"{host}/box:other", "no such image"),
                ("127.0.0.1:9/box", "cannot be reached"),
                (f"{host}/box@sha256:{'0' * 64}", "no such image"),
                (f"{host}/BOX", "invalid"),
            ):
                app.screen.query_one("#source", Input).value = source
                await pilot.press("enter")
                await until(pilot, lambda words=words: words in shown(app))  # type: ignore[misc]
            assert await engine.images() == []
            app.screen.query_one("#source", Input).value = f"{host}/box:test"
            await pilot.press("enter")
            await until(pilot, lambda: app.screen is app.desk and len(app.desk.snapshot.images) == 1)
            await pilot.press("J")
            await until(pilot, lambda: isinstance(app.screen, JobsScreen) and "failed" in shown(app))
            assert f"pull {host}/box:test" in shown(app)


async def test_hidden_pull_is_found_again_and_cancelled(engine: Engine) -> None:
    """A registry that accepts and never answers: the pull hangs until it is cancelled, and leaves nothing."""
    app = WharfApp(engine)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        async with app.run_test(size=(120, 30)) as pilot:
            await until(pilot, lambda: app.desk.snapshot.listed)
            await pilot.press("P")
            await until(pilot, lambda: isinstance(app.screen, PullScreen))
            app.screen.query_one("#source", Input).value = f"{host}/slow"
            await pilot.press("enter", "escape")
            await until(pilot, lambda: app.screen is app.desk and "J jobs" in shown(app))
            await pilot.press("J")
            await until(pilot, lambda: isinstance(app.screen, JobsScreen) and "running" in shown(app))
            await pilot.press("x")
            await until(pilot, lambda: "cancelled" in shown(app))
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is app.desk and "J jobs" not in shown(app))
    assert await engine.images() == []


async def test_change_by_another_engine_shows_at_once(engine: Engine, sleeper: Container) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: app.desk.chosen == sleeper.id)
        await engine.kill(sleeper.id)
        await until(pilot, lambda: "exit 137" in shown(app))


async def test_run_form_runs(engine: Engine, busybox_image: str) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: bool(app.desk.snapshot.images))
        await pilot.press("2", "n")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        for field, value in (("name", "made"), ("command", "sleep 60"), ("memory", "lots")):
            app.screen.query_one(f"#field-{field}", Input).value = value
        await pilot.press("enter")
        await until(pilot, lambda: "invalid size" in shown(app))
        app.screen.query_one("#field-memory", Input).value = "32m"
        await until(pilot, lambda: "--memory 32m" in shown(app))
        await pilot.press("enter")
        await until(pilot, lambda: any(c.state is State.RUNNING for c in app.desk.snapshot.containers))
        (made,) = await engine.containers()
        assert (made.name, made.spec.resources.memory) == ("made", 32 << 20)
        await until(pilot, lambda: app.desk.chosen == made.id)


async def test_name_taken_is_told_with_its_fix(engine: Engine, sleeper: Container, busybox_image: str) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(120, 30), notifications=True) as pilot:
        await until(pilot, lambda: bool(app.desk.snapshot.images))
        await pilot.press("n")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        app.screen.query_one("#field-image", Input).value = busybox_image
        app.screen.query_one("#field-name", Input).value = "sleeper"
        await pilot.press("enter")
        await until(pilot, lambda: "is taken" in shown(app) and "choose another name" in shown(app))
        assert "Traceback" not in shown(app)
        assert len(await engine.containers()) == 1


async def test_filter_marks_and_bulk(engine: Engine, busybox_image: str) -> None:
    for name in ("aa", "ab", "bb"):
        await engine.create(ContainerSpec(image=busybox_image, name=name, command=("true",), network="none"))
    app = WharfApp(engine)
    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: app.desk.containers.table.row_count == 3)
        await pilot.press("slash", *"name", "equals_sign", "a", "enter")
        await until(pilot, lambda: app.desk.containers.table.row_count == 2)
        await pilot.press("asterisk", "d", "y")
        await until(pilot, lambda: [c.name for c in app.desk.snapshot.containers] == ["bb"])
        await pilot.press("escape")
        await until(pilot, lambda: app.desk.containers.table.row_count == 1)


async def test_inspect_theme_and_help(engine: Engine, sleeper: Container, tmp_path: Path) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: app.desk.chosen == sleeper.id)
        await pilot.press("i")
        await until(pilot, lambda: isinstance(app.screen, InspectScreen))
        await pilot.press("escape", "T")
        await until(pilot, lambda: isinstance(app.screen, ThemeScreen))
        before = app.theme
        await pilot.press("down", "enter")
        await until(pilot, lambda: app.screen is app.desk)
        assert app.theme != before
        assert app.theme in (tmp_path / "state/wharf/state.toml").read_text()


async def test_inspect_wraps_no_id_on_80_columns(engine: Engine, sleeper: Container) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.desk.chosen == sleeper.id)
        await pilot.press("i")
        await until(pilot, lambda: f'"Id": "{sleeper.id}",' in shown(app))


async def test_missing_shell_of_a_stopped_container_is_said(engine: Engine, sleeper: Container) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(120, 30), notifications=True) as pilot:
        await until(pilot, lambda: app.desk.chosen == sleeper.id)
        await pilot.press("s")
        await until(pilot, lambda: "exit" in shown(app))
        await pilot.press("e")
        await until(pilot, lambda: "start it first" in shown(app))


async def test_still_screen_writes_nothing(engine: Engine, busybox_image: str) -> None:
    """Nothing changes: no line of a list is painted again."""
    await engine.create(ContainerSpec(image=busybox_image, name="idle", command=("true",), network="none"))
    app = WharfApp(engine)
    async with app.run_test(size=(200, 50)) as pilot:
        await until(pilot, lambda: app.desk.containers.table.row_count == 1)
        panes = (app.desk.containers, app.desk.images, app.desk.networks)
        await quiet(pilot, lambda: [pane.table.repaints for pane in panes], 2.5)
