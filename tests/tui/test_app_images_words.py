"""What the images pane and its dialogs say: before something goes, when something goes wrong, where room is scarce."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.engine import Engine
from core.errors import NotFound
from core.model import ContainerSpec
from core.store.paths import Instance
from tests.engine.test_images_layers import layered, load
from tests.engine.test_images_target import Stalled
from tests.registry import htpasswd, push, registry
from tests.tui.test_app_images import SIZES, ask_of
from tests.tui.test_app_live import own_folders, shown, until
from tests.tui.typing import burst
from tui import text
from tui.app import WharfApp
from tui.screens.confirm import ConfirmScreen
from tui.screens.help import KeysScreen
from tui.screens.inspect import InspectScreen
from tui.screens.jobs import JobsScreen
from tui.screens.layers import LayersScreen
from tui.screens.names import LoginScreen
from tui.screens.outcome import ExportScreen
from tui.screens.pull import PullScreen

__all__ = ["own_folders"]
pytestmark = pytest.mark.real


@pytest.mark.parametrize("size", SIZES)
async def test_removal_names_all_that_goes_and_takes_it(
    engine: Engine, busybox_image: str, tmp_path: Path, size: tuple[int, int]
) -> None:
    await load(engine, layered(tmp_path))
    for ref, new in ((busybox_image, "box:2"), (busybox_image, "127.0.0.1:9/team/box:3"), ("lab:1", "lab:2")):
        await engine.tag(ref, new)
    app = WharfApp(engine)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: len(app.desk.snapshot.images) == 2)
        burst(app, "2*d")
        await ask_of(pilot, ConfirmScreen, "Goes, with all its 3 names:", "Goes, with all its 2 names: lab:1, lab:2")
        assert all(name in shown(app) for name in ("busybox:test", "box:2", "127.0.0.1:9/team/box:3", "lab:1", "lab:2"))
        burst(app, "y")
        await until(pilot, lambda: not app.desk.snapshot.images)
    assert await engine.images() == []


async def test_removal_of_what_is_used_counts_its_users_and_takes_nothing(engine: Engine, busybox_image: str) -> None:
    await engine.tag(busybox_image, "box:2")
    for number in range(7):
        await engine.create(ContainerSpec(image=busybox_image, name=f"c{number}", command=("true",), network="none"))
    app = WharfApp(engine)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await until(pilot, lambda: len(app.desk.snapshot.containers) == 7)
        burst(app, "2d")
        await ask_of(pilot, ConfirmScreen, "Stays, as", "and 2 more")
        burst(app, "y")
        await until(pilot, lambda: app.troubled and "containers use it" in shown(app))
        burst(app, "/box\r")
        await until(pilot, lambda: app.desk.images.filter == "box")
        assert "containers use it" in shown(app)
        burst(app, "\x1b")  # the error goes, and the filter is kept
        await until(pilot, lambda: "containers use it" not in shown(app))
        assert app.desk.images.filter == "box"
        burst(app, "dy")
        await until(pilot, lambda: "containers use it" in shown(app))
        burst(app, "i")
        await until(pilot, lambda: isinstance(app.screen, InspectScreen) and "containers use it" not in shown(app))
    assert {len(image.tags) for image in await engine.images()} == {2}


async def test_demo_asks_first(engine: Engine) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.desk.snapshot.listed)
        burst(app, "x")
        await ask_of(pilot, ConfirmScreen, "Start the demo?", "8080")
        burst(app, "\r\x1b")
        await until(pilot, lambda: app.screen is app.desk)
        assert not app.desk.jobs.running
    assert await engine.images() == []


async def test_palette_has_the_commands_of_other_panels(engine: Engine, busybox_image: str) -> None:
    app = WharfApp(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: len(app.desk.snapshot.images) == 1)
        burst(app, ":untag")
        await until(pilot, lambda: "Image: Untag" in shown(app) and "in Images" in shown(app))
        burst(app, "\r")
        await ask_of(pilot, ConfirmScreen, "Untag busybox:test?")
        burst(app, "n")
        await until(pilot, lambda: app.screen is app.desk and app.desk.images.table.has_focus)


async def test_image_pulled_by_digest_has_its_repository(engine: Engine, archive: Path, tmp_path: Path) -> None:
    app = WharfApp(engine)
    with registry(tmp_path / "registry") as host:
        push(f"oci-archive:{archive}", f"{host}/team/box:1")
        async for step in engine.pull(f"{host}/team/box:1"):
            last = step
        await engine.remove_image(f"{host}/team/box:1")
        async for _ in engine.pull(f"{host}/team/box@{last.digest}"):
            pass
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await until(pilot, lambda: len(app.desk.snapshot.images) == 1)
            name = f"{host}/team/box@{last.digest.removeprefix('sha256:')[:12]}"
            burst(app, "2/team/box\r")
            await until(pilot, lambda: app.desk.images.filter == "team/box" and name in shown(app))
            burst(app, "u")
            await until(pilot, lambda: "no tag to take away" in shown(app) and f"{host}/team/box@sha256" in shown(app))


async def test_filter_shows_the_tag_that_it_found(engine: Engine, busybox_image: str) -> None:
    for new in ("registry.lan:5000/team/aa:1", "registry.lan:5000/team/bb:1"):
        await engine.tag(busybox_image, new)
    app = WharfApp(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: len(app.desk.snapshot.images) == 1)
        burst(app, "2/team/bb")
        await until(pilot, lambda: app.desk.images.filter == "team/bb" and "team/bb:1 +2" in shown(app))
        burst(app, "\x15team/aa")
        await until(pilot, lambda: app.desk.images.filter == "team/aa" and "team/aa:1 +2" in shown(app))


@pytest.mark.parametrize("size", SIZES)
async def test_a_long_name_keeps_its_tag(engine: Engine, busybox_image: str, size: tuple[int, int]) -> None:
    long = "registry.internal.example.org:5000/platform/images/base/busybox:2024-05-01-musl"
    await engine.tag(busybox_image, long)
    await engine.untag(busybox_image, [busybox_image])
    app = WharfApp(engine)
    async with app.run_test(size=size, notifications=True) as pilot:
        await until(pilot, lambda: len(app.desk.snapshot.images) == 1)
        burst(app, "2")
        await until(pilot, lambda: app.desk.active == "images" and ":2024-05-01-musl" in shown(app))
        burst(app, "f/bin/busybox\r")
        await until(pilot, lambda: "found" in shown(app) and ":2024-05-01-musl" in shown(app))
        burst(app, "\x1b")

        async def fails(job: object) -> None:
            raise NotFound("no such thing", "it is elsewhere")

        await until(pilot, lambda: app.screen is app.desk)
        app.desk.jobs.run(f"pull {long}", fails)
        burst(app, "J")
        await ask_of(pilot, JobsScreen, ":2024-05-01-musl", "failed", "no such thing")


async def test_pull_that_wants_a_login_gets_it_in_place(own_settings: Path, engine: Engine, tmp_path: Path) -> None:
    users = htpasswd(tmp_path / "htpasswd", "ann", "secret")
    app = WharfApp(engine)
    with registry(tmp_path / "registry", htpasswd=users) as host:
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await until(pilot, lambda: app.desk.snapshot.listed)
            burst(app, f"P{host}/team/box:1\r")
            await ask_of(pilot, PullScreen, "ctrl+l logs in")
            burst(app, "\x0cann\tsecret\r")
            await ask_of(pilot, LoginScreen, host)
            await ask_of(pilot, PullScreen, "logged in to")
            burst(app, "\r")
            await ask_of(pilot, PullScreen, "no such image")  # it is let in


async def test_load_of_several_names_them_all(engine: Engine, busybox_image: str, tmp_path: Path) -> None:
    await load(engine, layered(tmp_path))
    await engine.tag(busybox_image, "box:2")
    target = tmp_path / "three.tar"
    await engine.save(["lab:1", busybox_image, "box:2"], target)
    for image in await engine.images():
        await engine.remove_image(image.id, force=True)
    app = WharfApp(engine)
    async with app.run_test(size=(100, 30), notifications=True) as pilot:
        await until(pilot, lambda: app.desk.snapshot.listed)
        burst(app, f"L{target}\r")
        await until(pilot, lambda: "3 names are here:" in shown(app))
        assert all(name in shown(app) for name in ("lab:1", "busybox:test", "box:2"))


async def test_question_mark_in_a_dialog_and_the_name_in_inspect(engine: Engine, tmp_path: Path) -> None:
    await load(engine, layered(tmp_path))
    app = WharfApp(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: len(app.desk.snapshot.images) == 1)
        burst(app, "2l?")
        await ask_of(pilot, KeysScreen, "Keys: Layers of lab:1", "Changes only", "Copy path")
        burst(app, "?")
        await ask_of(pilot, LayersScreen, "wasted")
        burst(app, "qi")
        await ask_of(pilot, InspectScreen, "Inspect lab:1")


async def test_export_shows_how_far_it_is_and_is_cancelled(
    engine: Engine, busybox_image: str, inst: Instance, tmp_path: Path
) -> None:
    """Its file is a fifo that is not read: so it stands half-way."""
    box = await engine.create(ContainerSpec(busybox_image, name="box"))
    (inst.container_dir(box.id) / "upper" / "big").write_bytes(bytes(8 << 20))
    reader = Stalled(tmp_path / "fifo")
    app = WharfApp(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.desk.chosen == box.id)
        burst(app, f"W\x15{reader.path}\t \r")
        await reader.begin(3 << 20)  # about a megabyte is written, and counted, at a time
        await ask_of(pilot, ExportScreen, "files", "writing", "MB", "ctrl+x cancel")
        assert "layers" not in shown(app).partition("Export the files")[2]
        burst(app, "\x1bJ")
        await ask_of(pilot, JobsScreen, "export box", "writing")
        burst(app, "x")
        await until(pilot, lambda: "cancelled" in shown(app))
    os.close(reader.fd)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_references_are_cut_where_they_say_least() -> None:
    name = "registry.internal:5000/team/some/app:1.27"
    assert text.fit_reference(name, 60) == name
    assert text.fit_reference(name, 24) == "…/team/some/app:1.27"
    assert text.fit_reference(f"pull {name}", 20) == "pull …/some/app:1.27"
    assert text.fit_reference(f"{name} +2", 15) == "…/app:1.27 +2"
    assert text.fit_reference("a-rather-long-name:1.27", 12) == "a-rath…:1.27"
    assert text.fit_reference("app:a-rather-long-tag", 10) == "…-long-tag"
    assert text.fit_reference("a b c d e f g", 5) == "a b c d e f g"  # no word to cut: the end goes


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "    0B"), (999, "  999B"), (999.7, " 1.0kB"), (47_840_000, "47.8MB"), (512_400, " 512kB"), (1e18, "  >1EB")],
)
def test_decimal_sizes(count: float, words: str) -> None:
    assert text.decimal(count) == words
