"""``fsck`` while others are at work, killed in the middle, by command, and against a real registry."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from core.engine import Engine
from core.model import ContainerSpec
from core.store.paths import Instance
from tests import images as make
from tests.engine.test_cli import Wharf
from tests.engine.test_images_fsck import BASE, TOP, _flip, damages, folder, pulled
from tests.engine.test_images_split import BIG
from tests.engine.test_images_survive import until_gone
from tests.engine.test_images_usage import add, names
from tests.images import directory, member
from tests.images_lab import finish, snapshot
from tests.liar import liar
from tests.patience import patience
from tests.registry import need, push, registry


# -- crashes, several processes, the real registry, the command line ------------------------------------------------
async def test_a_broken_off_check_leaves_nothing(engine: Engine, inst: Instance, tmp_path: Path) -> None:
    await add(engine, tmp_path, "app:1", BASE, make.tar(*(member(f"f{n}", data=BIG[n:]) for n in range(8))))
    steps = engine.check_store()
    async for step in steps:
        if step.what == "layers":
            break
    await steps.aclose()  # type: ignore[attr-defined]
    assert not [path for path in (inst.images / "layers").iterdir() if path.name.startswith("tmp-")]
    assert not list(inst.trash.iterdir())


@pytest.mark.slow
async def test_kill_9_while_it_mends(
    engine: Engine, inst: Instance, instance_env: dict[str, str], tmp_path: Path
) -> None:
    """A layer is always whole, the old one or the new one, and its image never lost."""
    wharf = Wharf(instance_env, "")
    files = make.tar(directory("d"), *(member(f"d/{n}", data=BIG[n : n + 4000]) for n in range(400)))
    async with liar() as server:
        image = await pulled(engine, server, files)
        layer = folder(inst, image.layers[0])
        good = snapshot(layer / "diff")
        for number in range(6):
            _flip(layer / "diff" / "d" / "7")
            bad = snapshot(layer / "diff")
            process = await wharf.start("fsck", "--repair")
            await asyncio.sleep(0.25 + number * 0.1)
            process.kill()
            await process.wait()
            await engine._ctx.images.recover()  # type: ignore[attr-defined]
            await engine._ctx.images.close()  # type: ignore[attr-defined]
            assert snapshot(layer / "diff") in (good, bad)
            assert names(await engine.images()) == {"app:latest"}
            end = time.monotonic() + patience(20)
            # Whoever worked for the dead process has its layer locked until the kernel has ended it too.
            while bad := [damage for damage in await damages(engine, repair=True) if not damage.mended]:
                assert time.monotonic() < end, bad
                await asyncio.sleep(0.05)
            assert snapshot(layer / "diff") == good
    await until_gone(engine._ctx.images)  # type: ignore[attr-defined]


@pytest.mark.registry
async def test_by_command_against_a_real_registry(
    engine: Engine, inst: Instance, instance_env: dict[str, str], tmp_path: Path
) -> None:
    need("skopeo")
    wharf = Wharf(instance_env, "")
    source = make.layout(tmp_path / "layout", make.image([BASE, TOP]), "x")
    with registry(tmp_path / "registry") as address:
        push(f"oci:{source}:x", f"{address}/team/app:1")
        image = await finish(engine.pull(f"{address}/team/app:1"))
        assert "4 layers and documents verified" in await wharf.ok("fsck")
        _flip(folder(inst, image.layers[0]) / "diff" / "etc" / "one")
        done = await wharf("fsck")
        assert done.code == 1
        assert f"layer {image.layers[0][7:19]} (of {address}/team/app:1): the content of 'etc/one' has" in done.out
        assert "Mend them with: wharf fsck --repair" in done.out
        out = await wharf.ok("system", "fsck", "--repair")
        assert f"fetched again from {address}/team/app@sha256:" in out
        assert (await wharf.ok("fsck", "-q")) == ""


# -- others at work -------------------------------------------------------------------------------------------------
async def test_a_container_that_is_started_while_it_mends(engine: Engine, inst: Instance, busybox_image: str) -> None:
    """Nothing that a container runs on is replaced, also where it did not run yet when the repair began."""
    [image] = await engine.images()
    box = await engine.create(ContainerSpec(image=busybox_image, command=("sleep", "100")))
    (folder(inst, image.layers[0]) / "diff" / "etc").chmod(0o700)
    steps, started = [], False
    async for step in engine.check_store(repair=True):
        steps.append(step)
        if step.what.startswith("layer ") and not started:
            started = True
            await engine.start(box.id)
    assert started
    [damage] = steps[-1].damages
    assert not damage.mended
    assert f"{box.name} run on it" in damage.done
    assert (folder(inst, image.layers[0]) / "diff" / "etc").stat().st_mode & 0o777 == 0o700
    await engine.remove(box.id, force=True)
    [damage] = await damages(engine, repair=True)
    assert damage.mended


async def test_two_layers_of_an_image_with_a_container(engine: Engine, inst: Instance) -> None:
    """Both are fetched at once, while the container is kept from being started: once, not once for each."""
    async with liar() as server:
        image = await pulled(engine, server, BASE, TOP)
        box = await engine.create(ContainerSpec(image=image.id))
        _flip(folder(inst, image.layers[0]) / "diff" / "etc" / "one")
        _flip(folder(inst, image.layers[1]) / "diff" / "etc" / "top")
        found = await damages(engine, repair=True)
        assert len(found) == 2
        assert all(damage.mended for damage in found), found
        await engine.remove(box.id)


async def test_a_layer_is_not_replaced_once_somebody_uses_it(engine: Engine, inst: Instance, tmp_path: Path) -> None:
    """Asked where it is replaced, under the write lock: a container may be made while a layer is fetched."""
    image = await add(engine, tmp_path, "app:1", BASE)
    layers = engine._ctx.images.layers  # type: ignore[attr-defined]
    for used in (True, False):
        before = folder(inst, image.layers[0]).stat().st_ino
        layers.broken[image.layers[0]] = lambda used=used: not used
        await add(engine, tmp_path, "app:1", BASE)
        assert (folder(inst, image.layers[0]).stat().st_ino == before) is used
        assert bool(layers.broken) is used
