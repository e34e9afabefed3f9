"""Archives that have two tables of contents, Docker's and OCI's: what both say is loaded, and refused
where they differ."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.engine import Engine
from core.errors import Corrupt
from core.images.manifest import INDEXES, MANIFESTS
from tests import images as make
from tests.engine.test_images_engines import Other, docker, podman
from tests.engine.test_images_save import ONE, THREE, TWO
from tests.images_lab import finish, leftovers, open_store
from tests.registry import need

__all__ = ["docker", "podman"]
NAME = "docker.io/library/app:1"
GOOD = make.image([ONE, TWO], compress=bytes, suffix="")
EVIL = make.image([ONE, TWO], compress=bytes, suffix="", config={"Cmd": ["/bin/evil"]})
OTHER = make.image([ONE, THREE], compress=bytes, suffix="")
# The same configuration, other layers: what Docker finds by their digests is not what others unpack.
SWAPPED = make.image([ONE, THREE], compress=bytes, suffix="", diffids=GOOD.diffids)
ARM = make.image([THREE], compress=bytes, suffix="", architecture="s390x")


def path(digest: str) -> str:
    return "blobs/sha256/" + digest.removeprefix("sha256:")


def entry(made: make.Made, name: str, **more: Any) -> dict[str, Any]:
    names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    notes = {"annotations": names} if name else {}
    return make.describe(made.blobs[made.manifest], MANIFESTS[0], **notes, **more)


def archive(
    folder: Path,
    docker: list[tuple[make.Made, list[str]]],
    index: list[dict[str, Any]],
    *more: make.Made,
    lacking: tuple[str, ...] = (),
) -> Path:
    """Both tables, and the blobs of all images."""
    for made in (*(made for made, _ in docker), *more):
        make.layout(folder, made)
    for digest in lacking:
        (folder / path(digest)).unlink()
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "mediaType": INDEXES[0], "manifests": index}))
    entries = [
        {"Config": path(made.config), "RepoTags": tags or None, "Layers": [path(layer) for layer in made.layers]}
        for made, tags in docker
    ]
    (folder / "manifest.json").write_text(json.dumps(entries))
    return make.tar_of(folder, folder.with_suffix(".tar"))


def nested(folder: Path, *choices: tuple[make.Made, str]) -> dict[str, Any]:
    """An entry that leads to an index of several platforms, as Docker with containerd's store writes it."""
    manifests = [
        make.describe(made.blobs[made.manifest], MANIFESTS[0], platform={"os": "linux", "architecture": machine})
        for made, machine in choices
    ]
    data = json.dumps({"schemaVersion": 2, "mediaType": INDEXES[0], "manifests": manifests}).encode()
    (folder / "blobs" / "sha256").mkdir(parents=True)
    (folder / path(make.sha(data))).write_bytes(data)
    return make.describe(data, INDEXES[0], annotations={"io.containerd.image.name": NAME})


Crafted = Callable[[Path], Path]
REFUSED: dict[str, tuple[Crafted, str, str]] = {
    "another configuration": (
        lambda folder: archive(folder, [(GOOD, ["app:1"])], [entry(EVIL, NAME)], EVIL),
        GOOD.config,
        EVIL.config,
    ),
    "another image": (
        lambda folder: archive(folder, [(GOOD, ["x:1", "app:1"])], [entry(OTHER, NAME)], OTHER),
        GOOD.config,
        OTHER.config,
    ),
    "other layers": (
        lambda folder: archive(folder, [(GOOD, ["app:1"])], [entry(SWAPPED, NAME)], SWAPPED),
        GOOD.layers[1],
        SWAPPED.layers[1],
    ),
    "one of several names": (
        lambda folder: archive(
            folder, [(GOOD, ["app:1"]), (OTHER, ["other:1"])], [entry(GOOD, "other:1"), entry(GOOD, NAME)]
        ),
        OTHER.config,
        GOOD.config,
    ),
    "nameless, alone": (
        lambda folder: archive(folder, [(GOOD, ["app:1"])], [entry(EVIL, "")], EVIL),
        GOOD.config,
        EVIL.config,
    ),
    "behind an index": (
        lambda folder: archive(
            folder, [(GOOD, ["app:1"])], [nested(folder, (ARM, "s390x"), (EVIL, "amd64"))], EVIL, ARM
        ),
        GOOD.config,
        EVIL.config,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_two_images_by_one_name(tmp_path: Path, name: str) -> None:
    build, one, two = REFUSED[name]
    saved = build(tmp_path / "saved")
    for source in (saved, tmp_path / "saved"):
        async with open_store(tmp_path / source.suffix.removeprefix(".") / "store") as images:
            with pytest.raises(Corrupt, match="the archive has two images named") as caught:
                await finish(images.load(source))
            assert one in str(caught.value)
            assert two in str(caught.value)
            assert await images.list() == []
            assert not leftovers(images)


TAKEN: dict[str, tuple[Crafted, str]] = {
    "the same": (lambda folder: archive(folder, [(GOOD, ["app:1"])], [entry(GOOD, NAME)]), GOOD.config),
    "two names": (
        lambda folder: archive(folder, [(GOOD, ["app:1", "x:1"])], [entry(GOOD, NAME), entry(GOOD, "x:1")]),
        GOOD.config,
    ),
    "of several platforms, of which one is there": (
        lambda folder: archive(
            folder, [(GOOD, ["app:1"])], [nested(folder, (ARM, "s390x"), (GOOD, "amd64"))], ARM, lacking=(ARM.manifest,)
        ),
        GOOD.config,
    ),
    "for another platform": (
        lambda folder: archive(folder, [(ARM, ["app:1"])], [nested(folder, (ARM, "s390x"), (GOOD, "amd64"))]),
        ARM.config,
    ),
    "by its id": (lambda folder: archive(folder, [(GOOD, [])], [entry(GOOD, "")]), GOOD.config),
    "several by their ids": (
        lambda folder: archive(folder, [(OTHER, []), (GOOD, [])], [entry(GOOD, ""), entry(OTHER, "")]),
        GOOD.config,
    ),
}


@pytest.mark.parametrize("name", TAKEN)
async def test_tables_that_agree(tmp_path: Path, name: str) -> None:
    build, config = TAKEN[name]
    async with open_store(tmp_path / "store") as images:
        assert (await finish(images.load(build(tmp_path / "saved")))).id == config


# -- what others write ----------------------------------------------------------------------------------------------
@pytest.mark.real
@pytest.mark.parametrize("name", ["docker", "podman"])
async def test_what_other_engines_save(
    engine: Engine, busybox_image: str, tmp_path: Path, request: pytest.FixtureRequest, name: str
) -> None:
    """Two images with a name each and one with two, saved by names, then by id."""
    other: Other = request.getfixturevalue(name)
    await engine.save([busybox_image], tmp_path / "ours")
    other("load", "-i", str(tmp_path / "ours"))
    theirs = busybox_image if name == "docker" else "docker.io/library/" + busybox_image
    cid = other("create", "--network", "none", theirs, "true")
    other("commit", "-a", "ann", cid, "two:1")
    other("rm", "-f", cid)
    other("tag", theirs, "three:1")
    prefix = "" if name == "docker" else "localhost/"
    many = [] if name == "docker" else ["--multi-image-archive"]
    other("save", *many, "-o", str(tmp_path / "saved"), theirs, f"{prefix}two:1", f"{prefix}three:1")
    other("save", "-o", str(tmp_path / "by-id"), other("image", "inspect", "-f", "{{.Id}}", f"{prefix}two:1"))
    before = (await engine.image(busybox_image)).id
    await engine.remove_image(busybox_image)
    steps = [step.image async for step in engine.load(tmp_path / "saved") if step.image]
    assert len({image.id for image in steps}) == 2
    assert (await engine.image(busybox_image)).layers == (await engine.image(before)).layers
    assert (await finish(engine.load(tmp_path / "by-id"))).id in {image.id for image in steps}


@pytest.mark.real
async def test_what_skopeo_copies(engine: Engine, archive: Path, tmp_path: Path) -> None:
    need("skopeo")
    for kind in ("docker-archive", "oci-archive"):
        target = f"{kind}:{tmp_path / kind}:box:1"
        subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", f"oci-archive:{archive}", target], check=True)
        assert (await finish(engine.load(tmp_path / kind))).tags
