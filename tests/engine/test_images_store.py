"""Loading archives of every kind, removing as `docker rmi` does, and surviving whatever dies in between."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import json
import lzma
import os
import platform
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web
from backports import zstd

from core.errors import Corrupt, InUse, InvalidArgument, NotFound
from core.images.manifest import INDEXES, MANIFESTS
from core.images.store import ImageStore
from core.images.trash import delete_tree
from core.model import Image
from core.store.db import Store
from tests import images as make
from tests.images import directory, member, symlink
from tests.images_lab import finish, leftovers, open_store, snapshot
from tests.liar import liar
from tests.registry import need, push, registry

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root")]
HOUSE = Path(__file__).resolve().parents[2]
ONE = make.tar(directory("d"), member("d/one", data=b"1" * 50_000), symlink("s", "d/one"))
TWO = make.tar(directory("d"), member("d/two", data=b"22"))
NOBODY: Callable[[str], list[str]] = lambda _: []  # noqa: E731


async def check(images: ImageStore, image: Image) -> None:
    upper, lower = images.layer_dirs(image)
    assert (lower / "d" / "one").read_bytes() == b"1" * 50_000
    assert (upper / "d" / "two").read_bytes() == b"22"
    assert not leftovers(images)
    assert await images.get(image.id) == image


# -- load ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
async def test_archives_of_skopeo(tmp_path: Path, kind: str) -> None:
    need("skopeo")
    folder = make.layout(tmp_path / "layout", make.image([ONE, TWO]), "x")
    target = f"{kind}:{tmp_path / 'archive'}:team/app:1"
    subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", f"oci:{folder}:x", target], check=True)
    async with open_store(tmp_path) as images:
        image = await finish(images.load(tmp_path / "archive"))
        assert image.tags == ("docker.io/team/app:1",)
        await check(images, image)


@pytest.mark.parametrize(
    "compress", [lambda data: data, gzip.compress, zstd.compress, bz2.compress, lzma.compress], ids=lambda f: f.__name__
)
async def test_old_docker_save(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    plain = make.docker_save(tmp_path / "plain", make.image([ONE, TWO]), [ONE, TWO], ["app:1", "other.org/app:2"])
    (tmp_path / "saved").write_bytes(compress(plain.read_bytes()))
    async with open_store(tmp_path) as images:
        image = await finish(images.load(tmp_path / "saved"))
        assert image.tags == ("docker.io/library/app:1", "other.org/app:2")
        await check(images, image)


async def test_docker_save_links_equal_layers(tmp_path: Path) -> None:
    made = make.image([ONE, ONE])
    out = io.BytesIO()
    entries = json.dumps([{"Config": "c.json", "RepoTags": None, "Layers": ["a/layer.tar", "b/layer.tar"]}]).encode()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, data in (
            member("a/layer.tar", data=ONE),
            symlink("b/layer.tar", "../a/layer.tar"),
            member("c.json", data=made.blobs[made.config]),
            member("manifest.json", data=entries),
        ):
            archive.addfile(info, io.BytesIO(data))
    (tmp_path / "saved").write_bytes(out.getvalue())
    async with open_store(tmp_path) as images:
        image = await finish(images.load(tmp_path / "saved"))
        assert len(images.layer_dirs(image)) == 2
        assert image.tags == ()


async def test_new_docker_save_is_an_oci_layout_too(tmp_path: Path) -> None:
    made = make.image([ONE, TWO], compress=lambda data: data, suffix="")
    folder = make.layout(tmp_path / "layout", made, "1")

    def blob(digest: str) -> str:
        return "blobs/sha256/" + digest.removeprefix("sha256:")

    entry = {"Config": blob(made.config), "RepoTags": ["app:1"], "Layers": [blob(layer) for layer in made.layers]}
    (folder / "manifest.json").write_text(json.dumps([entry]))
    async with open_store(tmp_path) as images:
        image = await finish(images.load(make.tar_of(folder, tmp_path / "saved.tar")))
        assert image.tags == ("docker.io/library/app:1",)
        await check(images, image)
        (folder / blob(made.layers[0])).write_bytes(TWO)
    async with open_store(tmp_path / "again") as images:
        with pytest.raises(Corrupt):
            await finish(images.load(folder))
        assert not leftovers(images)


async def test_several_images_and_other_platforms_in_one_archive(tmp_path: Path) -> None:
    first, second, foreign = make.image([ONE]), make.image([ONE, TWO]), make.image([TWO], architecture="s390x")
    folder = tmp_path / "layout"
    entries = []
    for number, made in enumerate((first, second, foreign)):
        make.layout(folder, made)
        other = {"os": "linux", "architecture": "s390x"} if made is foreign else None
        name = {"org.opencontainers.image.ref.name": f"app:{number}"}
        more = {"annotations": name} | ({"platform": other} if other else {})
        entries.append(make.describe(made.blobs[made.manifest], MANIFESTS[0], **more))
    index = {"schemaVersion": 2, "mediaType": INDEXES[0], "manifests": entries}
    (folder / "index.json").write_text(json.dumps(index))
    async with open_store(tmp_path) as images:
        found = [step.image async for step in images.load(folder) if step.image]
        assert [image.id for image in found] == [first.config, second.config]
        assert [image.tags for image in found] == [("docker.io/library/app:0",), ("docker.io/library/app:1",)]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", Corrupt),
        (b"no archive at all" * 100, Corrupt),
        (make.tar(member("x")), Corrupt),
        (make.tar(member("manifest.json", data=b"[]")), Corrupt),
        (make.tar(member("manifest.json", data=b'[{"Config": "../../etc/passwd", "Layers": []}]')), Corrupt),
        (make.tar(symlink("c", "/etc/passwd"), member("manifest.json", data=b'[{"Config":"c","Layers":[]}]')), Corrupt),
        (make.tar(symlink("c", "c"), member("manifest.json", data=b'[{"Config":"c","Layers":[]}]')), Corrupt),
        (make.tar(member("c", data=b"{}"), member("manifest.json", data=b'[{"Config":"c","Layers":["x"]}]')), Corrupt),
        (gzip.compress(make.tar(member("x")), mtime=0)[:-20], Corrupt),
        (zstd.compress(b"x" * 1000)[:-5], Corrupt),
        (
            make.tar(
                member("c", data=b"{}"),
                member("manifest.json", data=b'[{"Config":"c","Layers":[],"RepoTags":["-x"]}]'),
            ),
            InvalidArgument,
        ),
    ],
)
async def test_bad_archives(tmp_path: Path, content: bytes, kind: type[Exception]) -> None:
    (tmp_path / "bad").write_bytes(content)
    async with open_store(tmp_path) as images:
        with pytest.raises(kind):
            await finish(images.load(tmp_path / "bad"))
        assert not leftovers(images)
        assert not list(images.content.parts.iterdir())


async def test_a_layout_folder_with_links_out(tmp_path: Path) -> None:
    folder = make.layout(tmp_path / "layout", make.image([ONE]))
    (folder / "index.json").unlink()
    (folder / "index.json").symlink_to("/etc/passwd")
    async with open_store(tmp_path) as images:
        with pytest.raises(Corrupt):
            await finish(images.load(folder))


async def test_no_such_archive(tmp_path: Path) -> None:
    async with open_store(tmp_path) as images:
        with pytest.raises(NotFound):
            await finish(images.load(tmp_path / "missing"))


# -- rmi ----------------------------------------------------------------------------------------------------------
async def filled(images: ImageStore, folder: Path) -> tuple[Image, Image]:
    """Two images that share their lower layer."""
    small = make.docker_save(folder / "small", make.image([ONE]), [ONE], ["small:1", "small:2", "other.org/small:1"])
    large = make.docker_save(folder / "large", make.image([ONE, TWO]), [ONE, TWO], ["large"])
    return await finish(images.load(small)), await finish(images.load(large))


async def test_remove_by_name(tmp_path: Path) -> None:
    async with open_store(tmp_path) as images:
        small, large = await filled(images, tmp_path)
        assert await images.remove("small:1", False, NOBODY) == ["Untagged: small:1"]
        assert (await images.get(small.id)).tags == ("docker.io/library/small:2", "other.org/small:1")
        await images.remove("small:2", False, NOBODY)
        lines = await images.remove("other.org/small:1", False, NOBODY)
        assert lines == ["Untagged: other.org/small:1", f"Deleted: {small.id}"]  # its layer is the other's too
        lines = await images.remove("large", False, NOBODY)
        assert lines[:2] == ["Untagged: large:latest", f"Deleted: {large.id}"]
        assert lines[2:] == [f"Deleted: {layer}" for layer in reversed(large.layers)]
        await images.close()
        assert not await images.list()
        assert not leftovers(images)
        assert not list(images.layers.root.iterdir())
        assert not list(images.content.blobs.iterdir())
        with pytest.raises(NotFound):
            await images.remove("large", False, NOBODY)


async def test_remove_by_id(tmp_path: Path) -> None:
    async with open_store(tmp_path) as images:
        small, large = await filled(images, tmp_path)
        with pytest.raises(InUse, match="several names"):
            await images.remove(small.short_id, False, NOBODY)
        lines = await images.remove(small.short_id, True, NOBODY)
        assert lines[-1] == f"Deleted: {small.id}"
        assert len(lines) == 4
        lines = await images.remove(large.id, False, NOBODY)
        assert lines[0] == "Untagged: large:latest"
        assert not await images.list()


async def test_remove_what_containers_use(tmp_path: Path) -> None:
    async with open_store(tmp_path) as images:
        _, large = await filled(images, tmp_path)
        used: Callable[[str], list[str]] = lambda image: ["web", "db"] if image == large.id else []  # noqa: E731
        for ref in ("large", large.id):
            with pytest.raises(InUse, match="web, db"):
                await images.remove(ref, False, used)
        assert await images.remove("small:1", False, lambda _: ["web"]) == ["Untagged: small:1"]  # not its last name
        assert await images.remove("large", True, used) == ["Untagged: large:latest"]
        kept = await images.get(large.id)
        assert kept.tags == ()
        assert all(path.is_dir() for path in images.layer_dirs(kept))
        with pytest.raises(InUse):
            await images.remove(large.id, True, used)
        assert f"Deleted: {large.id}" in await images.remove(large.id, False, NOBODY)


async def test_a_tag_moves(tmp_path: Path) -> None:
    async with open_store(tmp_path) as images:
        first = await finish(images.load(make.docker_save(tmp_path / "1", make.image([ONE]), [ONE], ["app"])))
        second = await finish(images.load(make.docker_save(tmp_path / "2", make.image([TWO]), [TWO], ["app"])))
        assert (await images.get("app")).id == second.id
        assert (await images.get(first.id)).tags == ()


async def test_ids_and_prefixes(tmp_path: Path) -> None:
    async with open_store(tmp_path) as images:
        small, _ = await filled(images, tmp_path)
        digits = small.id.removeprefix("sha256:")
        for ref in (small.id, digits, digits[:12], f"sha256:{digits[:20]}"):
            assert (await images.get(ref)).id == small.id
        for ref in ("nothing", "0" * 64, "sha256:" + "0" * 64, "UPPER", "", "*", "a*"):
            with pytest.raises(NotFound):
                await images.get(ref)
        made = [make.image([ONE], config={"Env": [f"N={number}"]}) for number in range(20)]
        for number, one in enumerate(made):
            await finish(images.load(make.layout(tmp_path / f"n{number}", one)))
        first = [one.config[7] for one in made]
        twice = next(digit for digit in first if first.count(digit) > 1)
        with pytest.raises(InvalidArgument, match="several"):
            await images.get(twice)


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
            make.tar(directory(f"d{n}"), *(member(f"d{n}/{i}", data=os.urandom(3000)) for i in range(300)))
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
        for number in range(12):
            server.seen.clear()
            stop_at = number // 2 + 1  # requests answered before the pull is killed
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
    end = time.monotonic() + 5
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
    end = time.monotonic() + 30
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
    here = os.getcwd()
    (tmp_path / "tree").mkdir()
    os.chdir(tmp_path / "tree")
    try:
        for _ in range(5000):
            os.mkdir("deeper")
            os.chdir("deeper")
        Path("file").touch()
    finally:
        os.chdir(here)
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


@pytest.mark.registry
@pytest.mark.slow
async def test_a_whole_debian(tmp_path: Path) -> None:
    """The unpacked tree of a real distribution equals the one that mmdebstrap made."""
    need("mmdebstrap", "skopeo", "tar")
    rootfs = tmp_path / "rootfs.tar"
    suite = platform.freedesktop_os_release().get("VERSION_CODENAME", "stable")
    command = ["mmdebstrap", "--variant=essential", "--format=tar", suite, str(rootfs)]
    command.append("http://deb.debian.org/debian")
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"mmdebstrap cannot make a Debian here: {done.stderr.decode(errors='replace')[-200:]}")
    source = tmp_path / "source"
    source.mkdir()
    subprocess.run(["tar", "-C", str(source), "--numeric-owner", "-xpf", str(rootfs)], check=True)
    folder = make.layout(tmp_path / "layout", make.image([rootfs.read_bytes()]), "x")
    with registry(tmp_path / "registry") as address:
        push(f"oci:{folder}:x", f"{address}/debian:test")
        async with open_store(tmp_path) as images:
            image = await finish(images.pull(f"{address}/debian:test"))
            assert snapshot(images.layer_dirs(image)[0]) == snapshot(source)
