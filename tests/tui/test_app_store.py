"""The image store as the workstation checks it; every tag of a repository at once."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from core.engine import Engine
from core.store.paths import Instance
from tests import images as make
from tests.engine.test_images_fsck import BASE, TOP, folder
from tests.engine.test_images_usage import add
from tests.images import member
from tests.images_lab import finish
from tests.liar import liar
from tests.patience import patience
from tests.registry import push, registry
from tests.tui.test_app_images import SIZES, ask_of
from tests.tui.test_app_live import own_folders, shown, until
from tests.tui.typing import burst
from tui.app import WharfApp
from tui.screens.check import StoreCheckScreen
from tui.screens.confirm import ConfirmScreen
from tui.screens.jobs import JobsScreen
from tui.screens.pull import PullScreen
from tui.snapshot import repository

__all__ = ["own_folders"]
pytestmark = pytest.mark.real


def flip(path: Path) -> None:
    """Another content of the same size and time."""
    status = path.stat()
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("size", SIZES)
async def test_check_repair_and_remove(engine: Engine, inst: Instance, tmp_path: Path, size: tuple[int, int]) -> None:
    app = WharfApp(engine)
    async with liar() as server:
        server.put(make.image([BASE], config={"Cmd": ["x"]}))
        away = await finish(engine.pull(f"{server.address}/app"))
        made = await add(engine, tmp_path, "made:1", TOP, make.tar(member("only", data=b"here")))
        async with app.run_test(size=size, notifications=True) as pilot:
            await until(pilot, lambda: len(app.desk.snapshot.images) == 2)
            burst(app, "V")
            await ask_of(pilot, StoreCheckScreen, "layers and documents verified", "all is well", "nothing is damaged")
            burst(app, "rdq")  # nothing to repair
            await until(pilot, lambda: app.screen is app.desk)
            flip(folder(inst, away.layers[0]) / "diff" / "etc" / "one")
            flip(folder(inst, made.layers[1]) / "diff" / "only")
            burst(app, "V")
            await ask_of(pilot, StoreCheckScreen, "2 damaged", "damaged", "layer", "made:1", "content of", "r repair")
            burst(app, "r")
            await ask_of(pilot, ConfirmScreen, "Repair 2 damaged parts?", "Nothing is removed", "content")
            burst(app, "n")
            await ask_of(pilot, StoreCheckScreen, "2 damaged")
            burst(app, "ry")
            await ask_of(pilot, StoreCheckScreen, "2 damaged, 1 mended", "mended", "made:1")
            assert len(await engine.images()) == 2
            burst(app, "d")
            await ask_of(pilot, ConfirmScreen, "and remove what stays damaged?", "with its images: made:1")
            burst(app, "y")
            await ask_of(pilot, StoreCheckScreen, "1 damaged, 1 mended", "removed")
            burst(app, "q")
            await until(pilot, lambda: len(app.desk.snapshot.images) == 1)
    assert [image.id for image in await engine.images()] == [away.id]
    assert not [step async for step in engine.check_store()][-1].damages


async def test_a_hidden_check_tells_its_end(engine: Engine, inst: Instance, tmp_path: Path) -> None:
    files = make.tar(*(member(f"f{n}", data=bytes([n]) * 3_000_000) for n in range(60)))
    image = await add(engine, tmp_path, "app:1", files)
    flip(folder(inst, image.layers[0]) / "diff" / "f7")
    app = WharfApp(engine)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await until(pilot, lambda: len(app.desk.snapshot.images) == 1)
        burst(app, "V\x1bV")
        await until(pilot, lambda: "it is being checked" in shown(app) or "1 damaged" in shown(app))
        burst(app, "J")
        await ask_of(pilot, JobsScreen, "check the image store")
        burst(app, "q")
        await until(pilot, lambda: "1 damaged" in shown(app) and "check again" in shown(app), 20)
        burst(app, "\x1bV")
        await ask_of(pilot, StoreCheckScreen, "verified")
        burst(app, "\x18")  # ctrl+x
        await until(pilot, lambda: app.screen is app.desk)
    async with asyncio.timeout(patience(20)):  # what it has taken aside goes behind the scenes
        while [*inst.trash.iterdir(), *(inst.images / "layers").glob("tmp-*")]:
            await asyncio.sleep(0.02)


@pytest.mark.registry
@pytest.mark.parametrize("size", SIZES)
async def test_every_tag_of_a_repository(engine: Engine, archive: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    app = WharfApp(engine)
    with registry(tmp_path / "registry") as host:
        for tag in ("1", "2", "latest"):
            push(f"oci-archive:{archive}", f"{host}/team/box:{tag}")
        await finish(engine.pull(f"{host}/team/box:1"))
        async with app.run_test(size=size, notifications=True) as pilot:
            await until(pilot, lambda: len(app.desk.snapshot.images) == 1)
            burst(app, "2a")
            await ask_of(pilot, PullScreen, f"{host}/team/box", "[x] every tag of the repository")
            burst(app, ":1\r")
            await ask_of(pilot, PullScreen, "every tag, or the one in the name?")
            burst(app, "\x7f\x7f\r")
            await until(pilot, lambda: f"3 tags of {host}/team/box are here" in shown(app), 20)
        assert {tag.rpartition(":")[2] for image in await engine.images() for tag in image.tags} == {"1", "2", "latest"}


@pytest.mark.parametrize(
    ("name", "words"),
    [("a:1", "a"), ("h:5000/a", "h:5000/a"), ("h:5000/a:1", "h:5000/a"), ("a@sha256:00", "a"), ("a:1@sha256:0", "a")],
)
def test_repository_of_a_name(name: str, words: str) -> None:
    assert repository(name) == words
