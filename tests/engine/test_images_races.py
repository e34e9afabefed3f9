"""Several processes at one store: what one does between two steps of another costs nothing and breaks nothing."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from pathlib import Path

import pytest
from aiohttp import web

from core.engine import Engine
from core.errors import Corrupt, InvalidArgument
from core.images import index, layers, making, tar
from core.images.prune import Swept, prune_half_made, prune_leftovers
from core.images.remains import remains
from core.images.trash import delete_tree
from core.images.unpackers import Unpackers
from core.images.usage import allocated
from core.model import PruneRule
from core.store.paths import Instance
from tests import images as make
from tests.engine.test_images_fsck import BASE, damages, folder
from tests.engine.test_images_usage import add, du, names
from tests.images import symlink
from tests.images_lab import finish, open_store
from tests.liar import liar

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root")]


async def test_files_that_vanish_while_an_engine_opens(tmp_path: Path) -> None:
    """A pull elsewhere ends between the list of its files and the look at them: links to nothing are just so."""
    async with open_store(tmp_path) as images:
        for place in (images.content.parts, images.content.blobs):
            (place / "gone").symlink_to("nothing")
        await images.recover()


@pytest.mark.parametrize("step", ["unlink", "rmdir", "rename"])
def test_two_processes_delete_one_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Whoever opens an engine also deletes what another one is just deleting, which here is faster at each step."""
    for number in range(5):
        (tmp_path / "tree" / f"{number}" / "below").mkdir(parents=True)
        (tmp_path / "tree" / f"{number}" / "file").touch()
    (tmp_path / "elsewhere").mkdir()
    real = getattr(os, step)

    def twice(name: str, *more: str, **where: int) -> None:
        if more:
            real(name, tmp_path / "elsewhere" / more[0], src_dir_fd=where["src_dir_fd"])
        else:
            real(name, **where)
        real(name, *more, **where)

    monkeypatch.setattr(os, step, twice)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        delete_tree(fd, "tree")
    finally:
        os.close(fd)
    assert os.listdir(tmp_path) == ["elsewhere"]


async def test_a_layer_that_is_pulled_again_while_others_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on the disk then is not what was there when the sync began."""
    saved = make.docker_save(tmp_path / "saved", make.image([BASE]), [BASE], ["app"])
    async with open_store(tmp_path) as images:
        image = await finish(images.load(saved))
        [key] = image.layers
        path, disk = images.layers.folder(key), images.store.disk
        while disk.read("SELECT 1 FROM layer WHERE durable = 1") == []:
            await asyncio.sleep(0.05)  # by the process that unpacked it
        with disk.write() as con:
            con.execute("UPDATE layer SET durable = 0")

        def sync(fd: int) -> None:
            os.rename(path, path.with_name("old"))
            path.mkdir()

        monkeypatch.setattr(layers, "_sync", sync)
        layers.mark_durable(images.inst, disk)
        assert [row["durable"] for row in disk.read("SELECT durable FROM layer")] == [0]
        path.rmdir()
        os.rename(path.with_name("old"), path)
        monkeypatch.setattr(layers, "_sync", lambda fd: None)
        layers.mark_durable(images.inst, disk)
        assert [row["durable"] for row in disk.read("SELECT durable FROM layer")] == [1]


async def test_a_layer_that_another_process_has_locked_is_not_missing(
    engine: Engine, inst: Instance, tmp_path: Path
) -> None:
    """Two repairs at once: what one looks at for a moment is not removed by the other, with its images."""
    image = await add(engine, tmp_path, "app:1", BASE)
    fd = os.open(folder(inst, image.layers[0]), os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        [found] = await damages(engine, repair=True)
    finally:
        os.close(fd)
    assert not found.mended
    assert "missing" not in found.why
    assert names(await engine.images()) == {"app:1"}
    assert await damages(engine) == []


def test_link_targets_count_as_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two million links to 4 KB each would be 8 GB in the worker's memory."""
    monkeypatch.setattr(index, "_LONGEST_NAMES", 10_000)
    links = [symlink(f"l{number}", "t" * 3000) for number in range(4)]
    writer, stream = index.Writer(), tar.Stream(iter([make.tar(*links), b""]).__next__)
    entries = tar.Reader(stream)
    with pytest.raises(Corrupt, match="paths and links"):
        list(map(writer.add, entries))


async def test_what_prune_leaves_of_a_push(tmp_path: Path, own_settings: Path) -> None:
    """Nothing of a push is taken for a download that was broken off."""
    async with liar() as server, open_store(tmp_path) as images:
        saved = make.docker_save(tmp_path / "saved", make.image([BASE]), [BASE], [f"{server.address}/app:1"])
        await finish(images.load(saved))
        began = []

        async def bend(request: web.Request) -> web.StreamResponse:
            if request.method == "HEAD":
                return web.Response(status=404)
            if request.method == "POST":
                prune_leftovers(images, Swept(), dry_run=False)
                return web.Response(status=202, headers={"Location": "/v2/app/blobs/uploads/1"})
            began.append(await request.read())
            status = 202 if request.method == "PATCH" else 201
            return web.Response(status=status, headers={"Location": "/v2/app/blobs/uploads/1"})

        server.bend = bend
        async for _ in images.push(f"{server.address}/app:1"):
            pass
        assert images.config_of((await images.get(f"{server.address}/app:1")).id) in began


async def test_an_image_that_comes_with_another_manifest(tmp_path: Path) -> None:
    """The one that it had is no longer kept, where no other image has it."""
    async with liar() as server, open_store(tmp_path) as images:
        for compress, suffix in ((make.gz, "+gzip"), (bytes, "")):
            server.put(made := make.image([BASE], compress=compress, suffix=suffix))
            image = await finish(images.pull(f"{server.address}/app"))
        kept = {row["digest"] for row in images.store.disk.read("SELECT digest FROM blob")}
        assert kept == {image.id, made.manifest}


async def test_a_digest_is_no_tag(tmp_path: Path, own_settings: Path) -> None:
    async with liar() as server, open_store(tmp_path) as images:
        server.put(made := make.image([BASE]))
        name = f"{server.address}/app"
        image = await finish(images.pull(name))
        digest = f"{name}@{made.manifest}"
        for names in ((), (digest,)):
            with pytest.raises(InvalidArgument, match=f"{digest} is a digest and no tag") as caught:
                await images.untag(digest, names)
            assert f"the image's tags are {name}:latest" in caught.value.why
        assert (await images.untag(digest, (), every=True))[1] == [f"{name}:latest"]
        with pytest.raises(InvalidArgument) as caught:
            await images.untag(digest, ())
        assert "wharf rmi" in caught.value.fix
        assert (await images.get(digest)).id == image.id


async def test_a_layer_that_was_just_made_is_held(tmp_path: Path) -> None:
    """Until the image has its row, ``image prune --all`` elsewhere must not take the layer away."""
    async with open_store(tmp_path) as images:
        unpackers = Unpackers(images.inst)
        try:
            layer = await making.add_layer(images, unpackers, lambda fd, watch: making.pour([BASE], fd, watch))
            prune_leftovers(images, Swept(), dry_run=False)
            assert images.layers.find(layer.diffid, layer.key) == layer.key
            assert not await remains(images), "somebody counts on it"
        finally:
            await unpackers.close(wait=True)
        prune_leftovers(images, swept := Swept(), dry_run=False)
        assert swept.lines == [f"Deleted: {layer.key}"]


async def test_a_lease_while_others_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether anybody holds a layer is asked by a lock, for a moment: a pull gets its lease nevertheless."""
    saved = make.docker_save(tmp_path / "saved", make.image([BASE]), [BASE], ["app"])
    async with open_store(tmp_path) as images:
        [key] = (await finish(images.load(saved))).layers
        looker = os.open(images.layers.folder(key), os.O_RDONLY)
        fcntl.flock(looker, fcntl.LOCK_EX)
        assert images.layers.hold(key) is None, "it is being deleted"
        monkeypatch.setattr(layers.time, "sleep", lambda seconds: fcntl.flock(looker, fcntl.LOCK_UN))
        held = images.layers.hold(key)
        os.close(looker)
        assert held is not None
        os.close(held)


async def test_a_folder_that_is_taken_before_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes away what nobody works on may come between the making of a folder and its lock, whatever the
    clock says of its age."""
    async with open_store(tmp_path) as images:
        real, swept = fcntl.flock, Swept()

        def flock(fd: int, operation: int) -> None:
            if operation == fcntl.LOCK_EX and not swept.away:
                os.utime(fd, (0, 0))
                prune_half_made(images, swept, dry_run=False)
            real(fd, operation)

        monkeypatch.setattr(fcntl, "flock", flock)
        staging = images.layers.stage()
        assert len(swept.away) == 1
        assert os.path.samestat(staging.path.stat(), os.fstat(staging.fd))
        prune_half_made(images, swept, dry_run=False)
        assert len(swept.away) == 1, "this one is being worked on"
        images.layers.discard(staging)
        images.delete_later(swept.away)


async def test_a_look_waits_for_nobody(engine: Engine, tmp_path: Path) -> None:
    """What a prune would remove is told while another process writes."""
    await add(engine, tmp_path, "", BASE)
    ctx = engine._ctx  # type: ignore[attr-defined]
    os.close(ctx.images.layers.stage().fd)  # whoever made it has died
    with contextlib.closing(sqlite3.connect(ctx.inst.root / "wharf.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        would = await engine.prune_images(PruneRule(all=True, dry_run=True))
        other.execute("ROLLBACK")
    assert would.reclaimed


@pytest.mark.parametrize("instead", ["nothing", "link", "file"])
def test_what_vanishes_while_it_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instead: str) -> None:
    """Or turns into something else, between two looks at it: the rest is counted."""
    stays, goes = tmp_path / "stays", tmp_path / "goes"
    stays.write_bytes(b"x" * 5000)
    goes.mkdir()
    empty, real = allocated(goes), os.lstat

    def lstat(path: Path) -> os.stat_result:
        status = real(path)
        if path == goes:
            goes.rmdir()
            if instead == "link":
                goes.symlink_to("stays")
            elif instead == "file":
                goes.touch()
        return status

    monkeypatch.setattr(os, "lstat", lstat)
    assert allocated(goes, stays) == empty + du(stays)
