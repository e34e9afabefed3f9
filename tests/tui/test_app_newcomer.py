"""What somebody new runs into: the workstation says why nothing is seen, what is wanted, and what has happened."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from core.cli import network_reach
from core.engine import Engine
from core.model import Container, ContainerSpec, NetworkSpec, PortMapping, State
from tests.registry import htpasswd, registry
from tests.tui.test_app_images import ask_of
from tests.tui.test_app_live import own_folders, shown, sleeper, until
from tests.tui.test_app_networks import on
from tests.tui.typing import burst
from tui.app import WharfApp
from tui.filters import unknown
from tui.screens.confirm import ConfirmScreen
from tui.screens.connections import ConnectionsScreen
from tui.screens.history import ChecksScreen
from tui.screens.names import LoginScreen
from tui.screens.network_form import NewNetworkScreen
from tui.screens.network_map import MapScreen
from tui.screens.pull import PullScreen
from tui.screens.reach import ReachScreen
from tui.screens.registry import SearchScreen
from tui.screens.usage import UsageScreen

__all__ = ["own_folders", "sleeper"]
pytestmark = pytest.mark.real


async def test_a_filtered_log_says_what_hides_its_lines(engine: Engine, sleeper: Container) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await until(pilot, lambda: app.desk.chosen == sleeper.id)
        burst(app, "l")
        await until(pilot, lambda: "[bold]hello" in shown(app))
        burst(app, "l")
        await until(pilot, lambda: "level ≥ debug" in shown(app))
        assert "[bold]hello" in shown(app), "a line that names no level passes at the mildest"
        burst(app, "l")
        heading = "5 Resources   level ≥ info  sleep"  # first, as it is cut
        for words in ("its only line is hidden by level ≥ info", "l the next level", heading):
            await until(pilot, lambda words=words: words in shown(app))  # type: ignore[misc]
        burst(app, "/HeLLo\r")
        await until(
            pilot, lambda: "“HeLLo” is not among the lines shown (level ≥ info)" in " ".join(shown(app).split())
        )
        await pilot.press("escape", "escape")  # the words, the search
        await until(pilot, lambda: "/HeLLo" not in shown(app))
        await pilot.press("escape")
        await until(pilot, lambda: "[bold]hello" in shown(app))


def test_a_state_that_there_is_not() -> None:
    states = [state.value for state in State]
    assert unknown("web state=runing", "state", states) == "runing"
    assert unknown("state=run !state=exited", "state", states) == ""


async def test_a_filter_for_no_state_names_the_states(engine: Engine, sleeper: Container) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "sleeper" in shown(app))
        burst(app, "/state=runing")
        await until(pilot, lambda: "there is no state 'runing'" in shown(app) and "paused" in shown(app))
        burst(app, "\x15state=exited")
        await until(pilot, lambda: "nothing matches the filter" in shown(app))


async def test_search_and_newer_offer_the_login(
    own_settings: Path, engine: Engine, busybox_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = WharfApp(engine)
    with registry(tmp_path / "registry", htpasswd=htpasswd(tmp_path / "htpasswd", "ann", "secret")) as host:
        await engine.tag(busybox_image, f"{host}/team/box:1")
        await engine.login(host, "ann", "secret")
        async for _ in engine.push(f"{host}/team/box:1"):
            pass
        await engine.logout(host)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await until(pilot, lambda: app.desk.snapshot.listed)
            burst(app, f"2R{host}/team\r")
            await ask_of(pilot, SearchScreen, "ctrl+l logs in")
            asked: list[object] = []
            with monkeypatch.context() as patch:
                patch.setattr(SearchScreen, "again", asked.append)
                burst(app, "\x0c")
                await ask_of(pilot, LoginScreen, host)
                await pilot.press("escape")  # nothing was kept
                await ask_of(pilot, SearchScreen, "ctrl+l logs in")
                assert not asked
            burst(app, "\x0cann\tsecret\r")
            await ask_of(pilot, SearchScreen, "1 found", f"{host}/team/box")
            await pilot.press("escape")
            await engine.logout(host)
            await until(pilot, lambda: app.screen is app.desk)
            burst(app, "v")
            await ask_of(pilot, ChecksScreen, "want a login: ctrl+l")
            while app.screen._table.cursor_key is None or host not in app.screen._table.cursor_key:  # type: ignore[attr-defined]
                await pilot.press("down")
            burst(app, "\x0cann\tsecret\r")
            await ask_of(pilot, ChecksScreen, "current")


async def test_what_is_typed_while_it_works_goes_into_no_field(own_settings: Path, engine: Engine) -> None:
    """The registry answers late, and then wants a login."""
    late = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await late.wait()
        writer.write(b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n')
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    app = WharfApp(engine)
    async with server, app.run_test(size=(80, 24), notifications=True) as pilot:
        await until(pilot, lambda: app.desk.snapshot.listed)
        burst(app, f"P{host}/team/box:1\r")
        await ask_of(pilot, PullScreen, "ctrl+x cancel")
        burst(app, "\x0cann\tsec")
        await ask_of(pilot, PullScreen, "nothing to log in to yet")
        late.set()
        await ask_of(pilot, PullScreen, "ctrl+l logs in", "Tab goes back")
        burst(app, "ret")
        await pilot.pause(0.2)
        screen = app.screen
        assert isinstance(screen, PullScreen)
        assert (screen.typed("source"), screen.typed("platform")) == (f"{host}/team/box:1", "")
        burst(app, "\x0c")
        await ask_of(pilot, LoginScreen, host)
        late.set()


async def test_a_question_says_which_keys_it_wants(engine: Engine, sleeper: Container) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await until(pilot, lambda: app.desk.chosen == sleeper.id)
        burst(app, "d")
        await ask_of(pilot, ConfirmScreen, "Remove sleeper?")
        assert "press y" not in shown(app)
        burst(app, "\r")
        await ask_of(pilot, ConfirmScreen, "press y to remove, n to leave it")
        burst(app, "n")
        await until(pilot, lambda: app.screen is app.desk)
        burst(app, "s")
        await until(pilot, lambda: "stopping sleeper; u starts again" in " ".join(shown(app).split()))
        assert [box.name for box in await engine.containers()] == ["sleeper"]


async def test_an_error_goes_when_the_field_changes(engine: Engine) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.desk.snapshot.listed)
        burst(app, "3nbad/name\r")
        await ask_of(pilot, NewNetworkScreen, "bad/name")
        await until(pilot, lambda: app.screen._error.display)  # type: ignore[attr-defined]
        burst(app, "\x7f")
        await until(pilot, lambda: not app.screen._error.display)  # type: ignore[attr-defined]


async def test_reach_has_the_addresses_on_80_columns(engine: Engine, busybox_image: str) -> None:
    await engine.create_network(NetworkSpec("front"))
    made = await engine.create(
        ContainerSpec(
            busybox_image,
            name="web",
            command=("sleep", "600"),
            network="front",
            ports=(PortMapping(8080, 0, "tcp", "127.0.0.1"), PortMapping(8081, 0, "tcp")),
            stop_signal="SIGKILL",
        )
    )
    await engine.start(made.id)
    app = WharfApp(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.desk.chosen == made.id)
        burst(app, "3")
        await until(pilot, lambda: app.desk.active == "networks")
        on(app, "front")
        burst(app, "w")
        await ask_of(pilot, ReachScreen, "REACHED BY", "CALLED AT", "127.0.0.1")
        found = await engine.reach()
        local = next(one for one in found if one.port.host_ip == "127.0.0.1")
        await until(pilot, lambda: local.addresses[0] in shown(app) and local.rule.split()[0] in shown(app))
        row = next(line for line in shown(app).splitlines() if "this host" in line)
        assert local.addresses[0].partition(" ")[0] in row
        wide = next(one for one in found if one.port.host_ip != "127.0.0.1" and one.port.container_port == 8081)
        burst(app, "gj" if found.index(wide) else "g")
        await until(pilot, lambda: all(one.partition(" ")[0] in shown(app) for one in wide.addresses))


def test_the_same_columns_have_the_same_names() -> None:
    heads = [head for head, _ in network_reach._COLUMNS]
    assert [column.label for column in ReachScreen.COLUMNS] == heads
    assert {"SENT/S", "RCVD/S"} <= {word for column in ConnectionsScreen.COLUMNS for word in column.label.split()}


async def test_the_map_marks_warnings_alone(engine: Engine, busybox_image: str) -> None:
    from core.model import Healthcheck

    made = await engine.create(
        ContainerSpec(
            busybox_image,
            name="ill",
            command=("sleep", "600"),
            network="bridge",
            healthcheck=Healthcheck(("CMD", "false"), interval=0.2, retries=1),
            stop_signal="SIGKILL",
        )
    )
    await engine.start(made.id)
    app = WharfApp(engine)
    async with app.run_test(size=(100, 24)) as pilot:
        await until(pilot, lambda: "unhealthy" in shown(app))
        burst(app, "3m")
        await ask_of(pilot, MapScreen, "ill", "unhealthy")
        assert "! ill" not in shown(app)
        assert "● ill  unhealthy" in shown(app)


async def test_disk_usage_says_nothing_as_well(engine: Engine, busybox_image: str) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.desk.snapshot.listed)
        burst(app, "2U")
        await ask_of(pilot, UsageScreen, "build cache")
        line = next(line for line in shown(app).splitlines() if "build cache" in line)
        assert line.strip("│ ").endswith(" -"), line
