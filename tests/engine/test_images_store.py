"""Loading archives of every kind, removing as `docker rmi` does, and surviving whatever dies in between."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import platform
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from core.errors import Corrupt, InUse, InvalidArgument, NotFound
from core.images.manifest import INDEXES, MANIFESTS
from core.images.store import ImageStore
from core.model import Image
from tests import images as make
from tests.images import directory, member, symlink
from tests.images_lab import finish, leftovers, open_store, snapshot
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
        kept = f"Kept: {large.short_id}: containers use it: web, db"
        assert await images.remove("large", True, used) == ["Untagged: large:latest", kept]
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


@pytest.mark.registry
@pytest.mark.slow
async def test_packages_of_debian(tmp_path: Path) -> None:
    """The unpacked tree of a real distribution's packages equals the one that mmdebstrap made: set-user-ID, devices,
    links of both kinds, and names of every sort are among them."""
    need("mmdebstrap", "skopeo", "tar")
    rootfs = tmp_path / "rootfs.tar"
    suite = platform.freedesktop_os_release().get("VERSION_CODENAME", "stable")
    packages = "--include=base-files,passwd,perl-base,tzdata"
    command = ["mmdebstrap", "--variant=extract", packages, "--format=tar", suite, str(rootfs)]
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
