"""The store survives whatever dies: several pulls at once, kill -9, a power cut, folders that somebody deleted."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiohttp import web

from core.images.store import ImageStore
from core.images.trash import delete_tree
from core.store.db import Store
from tests import images as make
from tests.engine.test_images_store import HOUSE, ONE, TWO, check, filled
from tests.images import directory, member
from tests.images_lab import deep_tree, finish, leftovers, open_store, snapshot
from tests.liar import liar
from tests.patience import patience

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root")]


# -- whatever dies ------------------------------------------------------------------------------------------------
PULL = """
import asyncio, sys
from pathlib import Path
from tests.images_lab import finish, open_store
async def main():
    async with open_store(Path(sys.argv[1])) as images:
        print((await finish(images.pull(sys.argv[2]))).id)
asyncio.run(main())
"""


def start_pull(folder: Path, ref: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PULL, str(folder), ref]
    return subprocess.Popen(command, cwd=HOUSE, stdout=subprocess.PIPE, text=True)


def layered() -> make.Made:
    return make.image(
        [
            make.tar(directory(f"d{n}"), *(member(f"d{n}/{i}", data=os.urandom(3000)) for i in range(100)))
            for n in range(6)
        ]
    )


async def test_three_pulls_at_once_download_each_layer_once(tmp_path: Path) -> None:
    made = layered()
    async with liar() as server:
        server.put(made)

        async def slow(request: web.Request) -> None:
            if "/blobs/" in request.path:
                await asyncio.sleep(0.2)

        server.bend = slow
        pulls = [start_pull(tmp_path, f"{server.address}/app") for _ in range(3)]
        for pull in pulls:
            out, _ = await asyncio.to_thread(pull.communicate)
            assert pull.returncode == 0
            assert out.strip() == made.config
        for digest in made.layers:
            assert server.count(digest) == 1
    async with open_store(tmp_path) as images:
        assert len(images.layer_dirs(await images.get(made.config))) == 6
        assert not leftovers(images)


@pytest.mark.slow
async def test_kill_9_at_any_moment_then_pull_again(tmp_path: Path) -> None:
    """No partial layer is ever visible, nothing stays behind, and the second pull gets what the first could not."""
    made = layered()
    reference = {}
    async with liar() as server:
        server.put(made)
        async with open_store(tmp_path / "good") as images:
            image = await finish(images.pull(f"{server.address}/app"))
            reference = {
                key: snapshot(path) for key, path in zip(image.layers[::-1], images.layer_dirs(image), strict=True)
            }
        for number in range(6):
            server.seen.clear()
            stop_at = number + 1  # requests answered before the pull is killed
            pull = start_pull(tmp_path / str(number), f"{server.address}/app")

            async def bend(
                _: web.Request, limit: int = stop_at, late: int = number % 2, victim: int = pull.pid
            ) -> None:
                if len(server.seen) > limit:
                    await asyncio.sleep(0.05 if late else 0)
                    os.kill(victim, signal.SIGKILL)
                    await asyncio.sleep(3600)

            server.bend = bend
            await asyncio.to_thread(pull.wait)
            server.bend = None
            assert pull.returncode == -signal.SIGKILL
            async with open_store(tmp_path / str(number)) as images:
                await until_gone(images)
                for row in images.store.disk.read("SELECT id FROM layer"):
                    assert snapshot(images.layers.diff(row["id"])) == reference[row["id"]]
                assert not await images.list()
                image = await finish(images.pull(f"{server.address}/app"))
                found = zip(image.layers[::-1], images.layer_dirs(image), strict=True)
                assert {key: snapshot(path) for key, path in found} == reference
                assert not leftovers(images)


async def until_gone(images: ImageStore) -> None:
    """The dead pull's workers hold their flock until the kernel has ended them too."""
    end = time.monotonic() + patience(20)
    while leftovers(images) and time.monotonic() < end:
        await images.recover()
        await images.close()
        await asyncio.sleep(0.02)
    assert not leftovers(images)


async def test_power_loss_throws_unsynced_layers_away(tmp_path: Path) -> None:
    saved = make.docker_save(tmp_path / "saved", make.image([ONE, TWO]), [ONE, TWO], ["app"])
    async with open_store(tmp_path) as images:
        await finish(images.load(saved))
        await synced(images.store)
        with images.store.disk.write() as con:
            con.execute("UPDATE layer SET durable = 0, boot_id = 'another' WHERE diffid = ?", (make.sha(TWO),))
    async with open_store(tmp_path) as images:
        assert not await images.list()
        await images.close()
        assert not leftovers(images)
        assert [row["diffid"] for row in images.store.disk.read("SELECT diffid FROM layer")] == [make.sha(ONE)]
        await check(images, await finish(images.load(saved)))


async def test_layers_become_durable_in_the_background(tmp_path: Path) -> None:
    async with open_store(tmp_path) as images:
        await filled(images, tmp_path)
        await synced(images.store)


async def synced(store: Store) -> None:
    end = time.monotonic() + patience(60)
    while store.disk.read("SELECT 1 FROM layer WHERE durable = 0"):
        assert time.monotonic() < end, "no layer was marked durable"
        await asyncio.sleep(0.05)


async def test_what_nobody_owns_is_swept(tmp_path: Path) -> None:
    async with open_store(tmp_path) as images:
        await filled(images, tmp_path)
        (images.layers.root / "tmp-dead" / "diff").mkdir(parents=True)
        (images.layers.root / ("f" * 64)).mkdir()
        deep = images.inst.trash / "layer-deep"
        deep.mkdir()
        alive = images.layers.stage()
        await images.recover()
        await images.close()
        assert leftovers(images) == [alive.path.name]
        images.layers.discard(alive)
        assert not leftovers(images)
        assert len(await images.list()) == 2


async def test_layers_of_an_unfinished_pull_wait_a_week(tmp_path: Path) -> None:
    async with open_store(tmp_path) as images:
        _, large = await filled(images, tmp_path)
        with images.store.disk.write() as con:
            con.execute("DELETE FROM image")
        await images.recover()
        assert len(images.store.disk.read("SELECT id FROM layer")) == 2
        os.utime(images.layers.folder(large.layers[1]), (1, 1))
        await images.recover()
        await images.close()
        assert [row["id"] for row in images.store.disk.read("SELECT id FROM layer")] == [large.layers[0]]
        assert not leftovers(images)


def test_trees_of_any_depth_are_deleted(tmp_path: Path) -> None:
    """Deeper than a path can be long, than Python can recurse, and than there are descriptors."""
    with deep_tree(tmp_path / "tree"):
        Path("file").touch()
    (tmp_path / "precious").touch()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "precious")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        delete_tree(fd, "tree")
        delete_tree(fd, "never was")
    finally:
        os.close(fd)
    assert os.listdir(tmp_path) == ["precious"]


async def test_a_layer_folder_that_somebody_deleted(tmp_path: Path) -> None:
    saved = make.docker_save(tmp_path / "saved", make.image([ONE, TWO]), [ONE, TWO], ["app"])
    async with open_store(tmp_path) as images:
        image = await finish(images.load(saved))
        images.layers.delete(images.layers.move_away(images.layers.diff(image.layers[0]).parent))
        await check(images, await finish(images.load(saved)))
