"""A hostile container while images are made of it, and hostile archives on every way into the store."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from core import errors
from core.engine import Engine
from core.model import ContainerSpec, Mount
from core.store.paths import Instance
from tests.engine import test_images_evil, test_images_refused
from tests.engine.test_attacks import attack  # noqa: F401
from tests.engine.test_attacks_image import base, load
from tests.engine.test_lifecycle import until
from tests.images import symlink
from tests.images_lab import describe, snapshot

SECRET = b"the host's own secret"


@pytest.mark.real
async def test_a_container_that_swaps_links_while_it_is_read(
    engine: Engine,
    inst: Instance,
    busybox_image: str,
    attack: Mount,  # noqa: F811
    tmp_path: Path,
) -> None:
    """CVE-2018-15664's kin: a folder turns into a link to the host's while it is exported, compared, committed."""
    canary = tmp_path / "canary"
    (canary / "deep").mkdir(parents=True)
    (canary / "secret").write_bytes(SECRET)
    (canary / "deep/secret").write_bytes(SECRET)
    before = snapshot(canary), describe(canary)
    script = f"mkdir -p /d/deep; echo own > /d/secret; echo own > /d/deep/secret; ln -s {canary} /l; "
    script += "cp /bin/busybox /f; ln -s {0}/secret /k; /x/attack swap /f /k 60 & exec /x/attack swap /d /l 60"
    box = await engine.create(
        ContainerSpec(busybox_image, command=("sh", "-c", script.format(canary)), mounts=(attack,))
    )
    await engine.start(box.id)
    ours = inst.container_dir(box.id) / "upper/d"
    for kind in (True, False, True):  # it is at it

        async def turned(kind: bool = kind) -> bool:
            return ours.is_symlink() is kind and ours.is_dir()

        await until(turned, 20)
    for _ in range(15):
        with tempfile.TemporaryFile() as file:
            try:
                await engine.export(box.id, file.fileno())
            except errors.Conflict:
                pass  # it changes too fast for this one: said so, as tar does
            file.seek(0)
            assert SECRET not in file.read()
        await engine.changes(box.id)
    for _ in range(4):
        try:
            image = await engine.commit(box.id, pause=False)
        except errors.Conflict:
            continue
        diff = inst.images / "layers" / image.layers[-1].removeprefix("sha256:") / "diff"
        for path in diff.rglob("*"):
            assert path.is_symlink() or not path.is_file() or SECRET not in path.read_bytes()
        await engine.remove_image(image.id, force=True)
    assert (snapshot(canary), describe(canary)) == before
    await engine.remove(box.id, force=True)


@pytest.mark.real
async def test_evil_archives_are_refused_by_import(engine: Engine, tmp_path: Path) -> None:
    """Every archive of both corpora once more, without a registry's digests around it."""
    place = test_images_refused.canary(tmp_path)
    before = snapshot(Path(place)), describe(place)
    for name, make in {**test_images_refused.EVIL, **test_images_evil.EVIL}.items():
        (tmp_path / "evil.tar").write_bytes(make(place))
        with pytest.raises(errors.WharfError) as caught:
            await engine.import_image(tmp_path / "evil.tar", "evil:1")
        assert isinstance(caught.value, (errors.Corrupt, errors.InvalidArgument)), f"{name}: {caught.value!r}"
        assert (snapshot(Path(place)), describe(place)) == before, name
    assert await engine.images() == []


PLACES = ["/../../{0}", "{0}/../up", "/..", "/proc", "/proc/self/fd/5", "relative", "", "/l/in"]


@pytest.mark.parametrize("path", PLACES)
async def test_volumes_of_an_image(engine: Engine, tmp_path: Path, path: str) -> None:
    """CVE-2022-23648: ``VOLUME /../../host`` is a place inside, or refused; what the host has there is never seen."""
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "secret").write_bytes(SECRET)
    before = snapshot(canary), describe(canary)
    volumes = {path.format(canary): {}}
    where = f"cat {path.format(canary)}/secret {canary}/secret /l/secret /l/in/secret; mkdir -p {canary}/made"
    try:
        ref = await load(engine, tmp_path, *base(), symlink("l", str(canary)), config={"Volumes": volumes})
        box = await engine.create(ContainerSpec(ref, command=("sh", "-c", where)))
        await engine.start(box.id)
        await engine.wait(box.id)
        assert SECRET.decode() not in [line.text async for line in engine.logs(box.id)]
    except errors.WharfError:
        pass  # refused: as good
    assert (snapshot(canary), describe(canary)) == before
    assert os.listdir(canary) == ["secret"]
