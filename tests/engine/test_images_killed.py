"""Killed at every stage of a pull, a load, a removal, and opened again: a layer is there whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from aiohttp import web

from core.errors import Unavailable
from core.images.store import ImageStore
from tests import images as make
from tests.images import directory, hardlink, member
from tests.images_lab import Node, finish, leftovers, open_store, snapshot
from tests.liar import Liar, liar
from tests.patience import patience
from tests.victims import victims

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root")]
# Of the moments at which a process can be killed, each so-many-th is tried; WHARF_EVERY=1 tries all of them.
EVERY = int(os.environ.get("WHARF_EVERY", "5"))


def layered() -> make.Made:
    """The second leaves out the folder it writes into, so that it is another layer on another base."""
    files = [member(f"d/{n}", data=os.urandom(3000)) for n in range(3)]
    lowest = make.tar(directory("d"), *files, hardlink("h", "d/1"))
    return make.image([lowest, make.tar(member("d/over", data=b"o")), make.tar(directory("e"), member("e/x"))])


async def trees(images: ImageStore) -> dict[str, dict[bytes, Node]]:
    keys = [row["id"] for row in images.store.disk.read("SELECT id FROM layer")]
    return {key: snapshot(images.layers.diff(key)) for key in keys}


async def settled(images: ImageStore) -> None:
    """The dead process's workers hold their flock until the kernel has ended them too."""
    end = time.monotonic() + patience(20)
    while True:
        await images.recover()
        await images.close()
        if not (left := leftovers(images)):
            return
        assert time.monotonic() < end, left
        await asyncio.sleep(0.02)


def check_rows(images: ImageStore) -> None:
    """Whatever the database says is on the disk."""
    read = images.store.disk.read
    for row in read("SELECT id FROM layer"):
        assert images.layers.diff(row["id"]).is_dir()
    for row in read("SELECT layer FROM image_layer WHERE layer NOT IN (SELECT id FROM layer)"):
        raise AssertionError(row["layer"])
    for row in read("SELECT digest FROM blob"):
        assert images.content.read(row["digest"]) is not None


async def moments(folder: Path, verb: str, word: str) -> AsyncIterator[Path]:
    """A store for each moment, in which a process was just killed at it; a copy of ``folder/seed``, if there is one."""
    number = 1
    with victims("tests.images_victim") as forked:
        while True:
            place = folder / str(number)
            if (folder / "seed").exists():
                subprocess.run(["cp", "-a", str(folder / "seed"), str(place)], check=True)
            code = await asyncio.to_thread(forked.run, place, number, verb, word)
            assert code in (0, -signal.SIGKILL)
            if code == 0:
                return
            yield place
            number += EVERY


@pytest.fixture
async def server() -> AsyncIterator[Liar]:
    async with liar() as found:
        yield found


@pytest.mark.slow
async def test_a_pull(tmp_path: Path, server: Liar) -> None:
    made = layered()
    server.put(made)
    ref = f"{server.address}/app"
    async with open_store(tmp_path / "good") as images:
        await finish(images.pull(ref))
        good = await trees(images)
    async for place in moments(tmp_path, "pull", ref):
        async with open_store(place) as images:
            await settled(images)
            check_rows(images)
            there = await trees(images)
            assert all(good[key] == tree for key, tree in there.items())
            server.seen.clear()
            image = await finish(images.pull(ref))
            assert image.id == made.config
            assert await trees(images) == good
            # What was there whole is not fetched again.
            fetched = sum(server.count(digest) > 0 for digest in made.layers)
            assert fetched <= 3 - len(there)
            assert not leftovers(images)
            assert not list(images.content.parts.iterdir())
            check_rows(images)


@pytest.mark.slow
async def test_a_load(tmp_path: Path) -> None:
    made = layered()
    archive = make.tar_of(make.layout(tmp_path / "layout", made, "app:1"), tmp_path / "archive")
    async with open_store(tmp_path / "good") as images:
        await finish(images.load(archive))
        good = await trees(images)
    async for place in moments(tmp_path, "load", str(archive)):
        async with open_store(place) as images:
            await settled(images)
            check_rows(images)
            assert all(good[key] == tree for key, tree in (await trees(images)).items())
            assert (await finish(images.load(archive))).tags == ("docker.io/library/app:1",)
            assert await trees(images) == good
            assert not leftovers(images)
            assert not list(images.content.parts.iterdir())


@pytest.mark.slow
async def test_a_removal(tmp_path: Path) -> None:
    """Until the last name is gone the image is whole; afterwards nothing of it is."""
    made = layered()
    layout = make.layout(tmp_path / "layout", made, "app:1")
    async with open_store(tmp_path / "seed") as images:
        await finish(images.load(layout))
        good = await trees(images)
    async for place in moments(tmp_path, "remove", "app:1"):
        async with open_store(place) as images:
            await settled(images)
            check_rows(images)
            if await images.list():
                assert await trees(images) == good
                await images.remove("app:1", False, lambda _: [])
            await images.close()
            assert not await trees(images)
            assert not leftovers(images)
            assert not list(images.layers.root.iterdir())
            await finish(images.load(layout))
            assert await trees(images) == good


# -- the unpack server --------------------------------------------------------------------------------------------
async def stalled(images: ImageStore, server: Liar, made: make.Made) -> asyncio.Task[object]:
    """A pull whose lowest layer never comes to its end."""
    data = made.blobs[made.layers[0]]
    begun = asyncio.Event()

    async def bend(request: web.Request) -> web.StreamResponse | None:
        if made.layers[0] not in request.path:
            return None
        response = web.StreamResponse()
        response.content_length = len(data)
        await response.prepare(request)
        await response.write(data[:-10])
        begun.set()
        await asyncio.sleep(3600)
        return response

    server.put(made)
    server.bend = bend
    pull: asyncio.Task[object] = asyncio.create_task(finish(images.pull(f"{server.address}/app")))
    await asyncio.wait_for(begun.wait(), patience(20))
    return pull


def unpackers() -> list[psutil.Process]:
    """The server, then its workers; not those of a store that has been closed, which are on their way out."""
    found: list[psutil.Process] = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name() == "wharf-unpack" and (workers := child.children()):
                found += [child, *workers]
    return found


@pytest.mark.parametrize("which", ["server", "worker"])
async def test_an_unpacker(tmp_path: Path, server: Liar, which: str) -> None:
    """The kernel kills it where memory is short: the pull ends with an error, and the next one goes on."""
    made = layered()
    async with open_store(tmp_path) as images:
        pull = await stalled(images, server, made)
        end = time.monotonic() + patience(20)
        while len(found := unpackers()) < 2:
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
        found[0 if which == "server" else 1].kill()
        with pytest.raises(Unavailable, match=r"unpack (server|worker)"):
            await asyncio.wait_for(pull, patience(20))
        await settled(images)
        assert not await images.list()
        server.bend = None
        assert await finish(images.pull(f"{server.address}/app"))
        assert "Range" in {key for path, headers in server.seen for key in headers if made.layers[0] in path}
        assert not leftovers(images)
        check_rows(images)
