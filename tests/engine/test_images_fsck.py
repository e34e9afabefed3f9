"""Every kind of damage is found and named; it is mended, or removed with the images that cannot be without it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from core.engine import Engine
from core.images import index, split
from core.model import Checked, ContainerSpec, Damage, Image
from core.store.paths import Instance
from tests import images as make
from tests.engine.test_cli import Wharf
from tests.engine.test_images_layer import GNU_TAR, XATTRS, fill
from tests.engine.test_images_split import ODD
from tests.engine.test_images_usage import add, names
from tests.images import directory, hardlink, member, symlink
from tests.images_lab import finish, snapshot
from tests.liar import Liar, liar
from tests.registry import need

BASE = make.tar(
    directory("etc"), member("etc/one", data=b"1" * 5000), hardlink("etc/two", "etc/one"), symlink("etc/link", "one"),
    member("etc/rights", data=b"r", mode=0o4755), directory("var"), member("var/log", data=b"l" * 100),
)  # fmt: skip
TOP = make.tar(directory("etc"), member("etc/.wh.link"), member("etc/top", data=b"t" * 3000))


async def check(engine: Engine, *, repair: bool = False, remove: bool = False) -> Checked:
    return [step async for step in engine.check_store(repair=repair, remove=remove)][-1]


async def damages(engine: Engine, *, repair: bool = False, remove: bool = False) -> list[Damage]:
    return list((await check(engine, repair=repair, remove=remove)).damages)


def folder(inst: Instance, key: str) -> Path:
    return inst.images / "layers" / key.removeprefix("sha256:")


async def pulled(engine: Engine, server: Liar, *layers: bytes, tag: str = "latest") -> Image:
    server.put(make.image(layers, config={"Cmd": ["/bin/true"], "Env": [f"T={tag}"]}), tag)
    return await finish(engine.pull(f"{server.address}/app:{tag}"))


# -- nothing is wrong -----------------------------------------------------------------------------------------------
async def test_all_is_well(engine: Engine, inst: Instance, busybox_image: str, tmp_path: Path) -> None:
    """Also with everything that an archive can hold, and in a store that containers use."""
    need("tar")
    source = tmp_path / "source"
    source.mkdir()
    fill(source)
    odd = [subprocess.run([*GNU_TAR, str(source), *XATTRS, form, "-c", "."], check=True, capture_output=True).stdout
           for form in ("--format=pax", "--sparse-version=0.1")]  # fmt: skip
    await add(engine, tmp_path, "odd:1", *odd, *(layer for name, layer in ODD.items() if name != "empty"))
    box = await engine.create(ContainerSpec(image=busybox_image, command=("sh", "-c", "echo x > /etc/new; rm /bin/ls")))
    await engine.start(box.id)
    await engine.wait(box.id)
    done = await check(engine)
    assert list(done.damages) == []
    assert done.done == done.total
    assert done.size > sum(map(len, odd)) + sum(map(len, ODD.values()))
    assert not [path for path in (inst.images / "layers").iterdir() if path.name.startswith("tmp-")]
    await engine.remove(box.id)


# -- attributes and index: from the layer's own archive ----------------------------------------------------------------
MINOR: dict[str, tuple[Callable[[Path], object], str]] = {
    "mode": (lambda diff: (diff / "etc" / "rights").chmod(0o755), "'etc/rights' has another mode"),
    "owner": (lambda diff: os.chown(diff / "etc" / "one", 7, 7), "'etc/one' has another owner"),
    "time": (lambda diff: os.utime(diff / "var", (1, 1)), "'var' has another modification time"),
    "link": (lambda diff: _relink(diff / "etc" / "link"), "'etc/link' has another target"),
    "attribute": (lambda diff: os.setxattr(diff / "etc" / "one", "user.x", b"y"), "'etc/one' has another set of ext"),
    "opaque": (lambda diff: os.setxattr(diff / "var", "trusted.overlay.opaque", b"y"), "'var' has another set of ext"),
    "more": (lambda diff: (diff / "etc" / "more").write_text("?"), "'etc/more' does not belong to it"),
    "less": (lambda diff: (diff / "etc" / "link").unlink(), "'etc/link' is missing"),
    "parted": (lambda diff: _part(diff / "etc" / "two"), "'etc/one' has another set of hard links"),
    "longer": (lambda diff: os.truncate(diff / "var" / "log", 101), "'var/log' has another length"),
    "index": (lambda diff: (diff.parent / index.INDEX).write_bytes(b"rubbish"), "its index is missing or wrong"),
    "no index": (lambda diff: (diff.parent / index.INDEX).unlink(), "its index is missing or wrong"),
}


def _relink(path: Path) -> None:
    status = path.lstat()
    path.unlink()
    path.symlink_to("/etc/passwd")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def _part(path: Path) -> None:
    beside = path.with_name("beside")
    shutil.copy2(path, beside)
    beside.rename(path)


@pytest.mark.parametrize("name", MINOR)
async def test_a_layer_is_made_again_from_its_own_archive(
    engine: Engine, inst: Instance, tmp_path: Path, name: str
) -> None:
    image = await add(engine, tmp_path, "app:1", BASE, TOP)
    layer = folder(inst, image.layers[0])
    before = snapshot(layer / "diff")
    spoil, text = MINOR[name]
    spoil(layer / "diff")
    [found] = await damages(engine)
    assert (found.kind, found.id, found.images, found.mended) == ("layer", image.layers[0], ("app:1",), False)
    assert text in found.why
    [mended] = await damages(engine, repair=True)
    assert (mended.mended, mended.done) == (True, "made again from its archive")
    assert snapshot(layer / "diff") == before
    assert await damages(engine) == []
    assert names(await engine.images()) == {"app:1"}


async def test_a_layer_with_borrowed_directories_is_made_again(engine: Engine, inst: Instance, tmp_path: Path) -> None:
    below = make.tar(directory("opt", mode=0o750, uid=5), directory("opt/deep", mode=0o711))
    above = make.tar(member("opt/deep/file", data=b"f"))
    image = await add(engine, tmp_path, "app:1", below, above)
    assert await damages(engine) == []
    [key] = [row["layer"] for row in _rows(engine, "SELECT layer FROM image_layer WHERE position = 1")]
    assert key != image.layers[1]
    (folder(inst, key) / "diff" / "opt" / "deep" / "file").chmod(0o777)
    [mended] = await damages(engine, repair=True)
    assert mended.mended, mended
    deep = os.stat(folder(inst, key) / "diff" / "opt" / "deep")
    assert deep.st_mode & 0o777 == 0o711
    assert await damages(engine) == []


def _rows(engine: Engine, sql: str) -> list[dict[str, str]]:
    return [dict(row) for row in engine._ctx.store.disk.read(sql)]  # type: ignore[attr-defined]


# -- content: fetched again ------------------------------------------------------------------------------------------
MAJOR: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (lambda layer: _flip(layer / "diff" / "etc" / "one"), "the content of 'etc/one' has changed"),
    "cut": (lambda layer: os.truncate(layer / "diff" / "etc" / "one", 17), "'diff/etc/one' is shorter than it was"),
    "gone": (lambda layer: (layer / "diff" / "var" / "log").unlink(), "'diff/var/log' cannot be read"),
    "replaced": (lambda layer: _relink(layer / "diff" / "var" / "log"), "'diff/var/log' cannot be read"),
    "no files": (lambda layer: shutil.rmtree(layer / "diff"), "cannot be read"),
    "no folder": (lambda layer: shutil.rmtree(layer), "its folder is missing"),
    "split": (lambda layer: _flip(layer / split.SPLIT), ""),
    "old": (lambda layer: (layer / split.SPLIT).unlink(), "an older wharf unpacked it"),
}


def _flip(path: Path) -> None:
    status = path.stat()
    with open(path, "r+b") as file:
        file.seek(status.st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("name", MAJOR)
async def test_a_damaged_layer_is_fetched_again(engine: Engine, inst: Instance, name: str) -> None:
    async with liar() as server:
        image = await pulled(engine, server, BASE, TOP)
        layer = folder(inst, image.layers[0])
        before = snapshot(layer / "diff")
        spoil, text = MAJOR[name]
        spoil(layer)
        [found] = await damages(engine)
        assert (found.kind, found.id, found.mended) == ("layer", image.layers[0], False)
        assert text in found.why
        # The tag means another image by now: it must not move, and the old layer comes by its digest.
        server.put(make.image([ODD["a file twice"]]))
        server.seen.clear()
        [mended] = await damages(engine, repair=True)
        assert mended.mended, mended
        assert mended.done.startswith(f"fetched again from {server.address}/app@sha256:")
        assert snapshot(layer / "diff") == before
        again = await engine.image(f"{server.address}/app")
        assert (again.id, again.tags, again.repo_digests) == (image.id, image.tags, image.repo_digests)
        blobs = [path for path, _ in server.seen if "/blobs/" in path]
        assert len(blobs) == 1, "only what is damaged is fetched"
        assert await damages(engine) == []


async def test_what_cannot_be_mended_is_removed_only_when_told_to(
    engine: Engine, inst: Instance, busybox_image: str, tmp_path: Path
) -> None:
    one = await add(engine, tmp_path, "app:1", BASE, TOP)
    await add(engine, tmp_path, "app:2", BASE, ODD["a file twice"])
    await add(engine, tmp_path, "sound:1", TOP)
    _flip(folder(inst, one.layers[0]) / "diff" / "etc" / "one")
    box = await engine.create(ContainerSpec(image="app:1", command=("/x",), name="user"))
    [kept] = await damages(engine, repair=True, remove=True)
    assert (kept.mended, set(kept.images)) == (False, {"app:1", "app:2"})
    assert "user need it" in kept.done
    assert len(await engine.images()) == 4
    await engine.remove(box.id)
    [kept] = await damages(engine, repair=True)
    assert not kept.mended, "nobody has asked for that"
    assert kept.done == (
        f"it came from no registry; kept, with {', '.join(kept.images)}: `wharf fsck --repair --remove` takes it away"
    )
    assert len(await engine.images()) == 4
    [gone] = await damages(engine, repair=True, remove=True)
    assert gone.mended
    assert gone.done == f"it came from no registry; removed, with {', '.join(gone.images)}"
    assert names(await engine.images()) == {"sound:1", "busybox:test"}
    assert await damages(engine) == []
    await engine._ctx.images.close()  # type: ignore[attr-defined]
    assert not folder(inst, one.layers[0]).exists()


async def test_a_registry_that_lies_mends_nothing(engine: Engine, inst: Instance) -> None:
    async with liar() as server:
        image = await pulled(engine, server, BASE)
        _flip(folder(inst, image.layers[0]) / "diff" / "etc" / "one")
        box = await engine.create(ContainerSpec(image=image.id, command=("/x",), name="user"))
        for digest, data in list(server.blobs.items()):
            if digest not in (image.id, image.repo_digests[0].partition("@")[2]):
                server.blobs[digest] = data[:-1] + b"?"
        [found] = await damages(engine, repair=True, remove=True)
        assert not found.mended
        assert "not fetched again" in found.done
        assert len(await engine.images()) == 1
        assert not list((inst.images / "parts").iterdir()), "what is wrong is not kept"
        await engine.remove(box.id)


async def test_what_nobody_can_verify_is_not_removed(engine: Engine, inst: Instance, tmp_path: Path) -> None:
    image = await add(engine, tmp_path, "app:1", BASE)
    (folder(inst, image.layers[0]) / split.SPLIT).unlink()
    [found] = await damages(engine, repair=True, remove=True)
    assert not found.mended
    assert names(await engine.images()) == {"app:1"}


async def test_a_layer_under_a_running_container_is_not_replaced(
    engine: Engine, inst: Instance, busybox_image: str
) -> None:
    image = await engine.image(busybox_image)
    box = await engine.create(ContainerSpec(image=busybox_image, command=("sleep", "1000"), name="runner"))
    await engine.start(box.id)
    program = folder(inst, image.layers[0]) / "diff" / "etc" / "group"
    program.chmod(0o600)
    inode = program.stat().st_ino
    [found] = await damages(engine, repair=True)
    assert not found.mended
    assert "runner" in found.done
    assert program.stat().st_ino == inode
    await engine.remove(box.id, force=True)
    [found] = await damages(engine, repair=True)
    assert found.mended


# -- documents and rows -----------------------------------------------------------------------------------------------
async def test_documents(engine: Engine, inst: Instance, tmp_path: Path) -> None:
    async with liar() as server:
        image = await pulled(engine, server, BASE)
        blobs = inst.images / "blobs" / "sha256"
        manifest = image.repo_digests[0].partition("@sha256:")[2]
        kept = {path.name: path.read_bytes() for path in blobs.iterdir()}
        for spoil in (lambda path: path.unlink(), lambda path: path.write_bytes(b"{}")):
            for name in kept:
                spoil(blobs / name)
            found = await damages(engine)
            assert {damage.id for damage in found} == {f"sha256:{name}" for name in kept}
            assert {damage.images for damage in found} == {(f"{server.address}/app:latest",)}
            mended = await damages(engine, repair=True)
            assert all(damage.mended for damage in mended), mended
            assert {path.name: path.read_bytes() for path in blobs.iterdir()} == kept
        server.bend = _nothing
        (blobs / manifest).write_bytes(b"{}")
        [kept] = await damages(engine, repair=True)
        assert not kept.mended
        assert "not fetched again" in kept.done
        [forgotten] = await damages(engine, repair=True, remove=True)
        assert forgotten.mended
        assert "forgotten" in forgotten.done
        assert await damages(engine) == []
        assert len(await engine.images()) == 1


async def _nothing(_: object) -> object:
    from aiohttp import web

    return web.Response(status=404)


async def test_rows(engine: Engine, tmp_path: Path) -> None:
    first = await add(engine, tmp_path, "app:1", BASE, TOP)
    second = await add(engine, tmp_path, "app:2", TOP)
    with engine._ctx.store.disk.write() as con:  # type: ignore[attr-defined]
        con.execute("DELETE FROM image_layer WHERE image = ? AND position = 1", (first.id,))
        con.execute("UPDATE image SET config = replace(config, 'linux', 'Linux') WHERE id = ?", (second.id,))
    found = {damage.id: damage for damage in await damages(engine)}
    assert "1 layers and should have 2" in found[first.id].why
    assert "does not match its id" in found[second.id].why
    assert not any(damage.mended for damage in await damages(engine, repair=True))
    assert len(await engine.images()) == 2
    assert all(damage.mended for damage in await damages(engine, repair=True, remove=True))
    assert await engine.images() == []
    assert await damages(engine) == []


async def test_a_registry_that_is_away_costs_no_image(
    engine: Engine, inst: Instance, instance_env: dict[str, str]
) -> None:
    wharf = Wharf(instance_env, "")
    async with liar() as server:
        image = await pulled(engine, server, BASE)
        name = f"{server.address}/app:latest"
    _flip(folder(inst, image.layers[0]) / "diff" / "etc" / "one")
    done = await wharf("fsck", "--repair")
    assert done.code == 1
    assert f"not fetched again from {server.address}/app@{image.repo_digests[0].partition('@')[2]}: " in done.out
    assert f"kept, with {name}: `wharf fsck --repair --remove` takes it away" in done.out
    assert names(await engine.images()) == {"app:latest"}
    assert (await wharf("fsck", "--remove")).code != 0
    out = await wharf.ok("fsck", "--repair", "--remove")
    assert f"removed, with {name}" in out
    assert await engine.images() == []
