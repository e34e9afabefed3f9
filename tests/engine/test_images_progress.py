"""How far saves, exports, commits, loads and imports are, and what a cancelled one leaves: nothing."""

from __future__ import annotations

import asyncio
import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.engine import Engine
from core.images import save as saving
from core.model import ContainerSpec, PullProgress, State
from core.store.paths import Instance
from tests import images as make
from tests.engine.test_cli import Terminal, Wharf
from tests.engine.test_images_commit import made, upper
from tests.engine.test_images_save import ONE, TWO, loaded
from tests.engine.test_images_target import BIG, Stalled, big
from tests.images_lab import finish, leftovers, open_store
from tests.patience import patience
from tests.world import assert_world

pytestmark = pytest.mark.real
TAKEN = 3 << 20  # bytes: more than is written, and counted, at a time
MANY = 64 << 20  # bytes: more than is done between two looks


@pytest.fixture
def wharf(instance_env: dict[str, str], busybox_image: str) -> Wharf:
    return Wharf(instance_env, busybox_image)


def begun(state: PullProgress) -> bool:
    return any(layer.done for layer in state.layers)


class Told:
    """Takes what an engine call tells."""

    def __init__(self) -> None:
        self.states: list[PullProgress] = []
        self._task: asyncio.Task[Any] | None = None
        self._wanted: Callable[[PullProgress], bool] = begun

    def __call__(self, state: PullProgress) -> None:
        self.states.append(state)
        if self._task is not None and state.layers and self._wanted(state):
            self._task.cancel()  # here, and not by who waits: it might come when all is done
            self._task = None

    def cancels(self, task: asyncio.Task[Any], wanted: Callable[[PullProgress], bool]) -> None:
        """Once it is told that."""
        self._task, self._wanted = task, wanted

    async def until(self, wanted: Callable[[PullProgress], bool]) -> PullProgress:
        async with asyncio.timeout(patience(30)):
            while not (found := [state for state in self.states if state.layers and wanted(state)]):
                await asyncio.sleep(0.01)
        return found[0]


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(task), patience(30))


def store_of(inst: Instance) -> set[str]:
    """All that an unfinished layer could leave; what is thrown away goes in the background."""
    folders = (inst.images / "layers", inst.images / "blobs", inst.trash)
    return {str(path) for folder in folders for path in folder.rglob("*") if "diff" not in path.parts}


async def unchanged(inst: Instance, before: set[str]) -> None:
    async with asyncio.timeout(patience(30)):
        while store_of(inst) - before:
            await asyncio.sleep(0.05)


async def test_export_tells_bytes_of_about_how_many(
    engine: Engine, busybox_image: str, inst: Instance, tmp_path: Path
) -> None:
    box = await big(engine, inst, busybox_image)
    told, reader = Told(), Stalled(tmp_path / "fifo")
    task = asyncio.create_task(engine.export(box.id, reader.path, watch=told))
    await reader.begin(TAKEN)
    state = await told.until(lambda state: begun(state) and state.layers[0].total > 0)
    assert state.layers[0].done < state.layers[0].total
    await cancelled(task)
    os.close(reader.fd)
    await engine.export(box.id, tmp_path / "file", watch=told)
    size = (tmp_path / "file").stat().st_size
    last = told.states[-1].layers[0]
    assert last.done == pytest.approx(size, rel=0.01)
    assert last.total == pytest.approx(size, rel=0.05)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


async def test_save_tells_each_layer_and_a_cancelled_one_leaves_no_file(tmp_path: Path) -> None:
    async with open_store(tmp_path / "a") as images:
        await loaded(images, tmp_path / "layout", BIG, ONE, TWO, name="app:1")
        told, reader = Told(), Stalled(tmp_path / "fifo")
        task = asyncio.create_task(saving.save(images, ["app:1"], reader.path, watch=told))
        await reader.begin()
        state = await told.until(lambda state: state.layers[0].phase == "writing")
        # What stands behind an archive's end is not counted.
        assert [layer.total for layer in state.layers] == pytest.approx([len(BIG), len(ONE), len(TWO)], abs=20480)
        assert state.layers[0].done == len(BIG)
        await cancelled(task)
        os.close(reader.fd)
        out = tmp_path / "out"
        out.mkdir()
        for form, compression in ((saving.DOCKER, "none"), (saving.OCI, "zstd"), (saving.FOLDER, "gzip")):
            told.states.clear()
            await saving.save(images, ["app:1"], out / form, form, compression, told)
            assert [layer.phase for layer in told.states[-1].layers] == ["done"] * 3
            for wait in (0.01, 0.002, 0):
                task = asyncio.create_task(saving.save(images, ["app:1"], out / "no", form, compression, told))
                await asyncio.sleep(wait)
                if not task.done():
                    break
                removed(out / "no")  # it was faster
            await cancelled(task)
            assert sorted(path.name for path in out.iterdir()) == sorted([form])
            removed(out / form)


def removed(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


async def test_import_tells_what_of_the_file_is_read(
    engine: Engine, busybox_image: str, inst: Instance, tmp_path: Path
) -> None:
    before, told = store_of(inst), Told()
    read_end, write_end = os.pipe()
    task = asyncio.create_task(engine.import_image(read_end, "half:1", watch=told))
    await asyncio.to_thread(os.write, write_end, BIG[: 64 << 10])
    await asyncio.to_thread(os.write, write_end, BIG[64 << 10 : 128 << 10])
    state = await told.until(begun)
    assert (state.layers[0].phase, state.layers[0].total) == ("unpacking", 0)
    await cancelled(task)
    os.close(read_end)
    os.close(write_end)
    assert len(await engine.images()) == 1
    await unchanged(inst, before)
    (tmp_path / "big.tar.gz").write_bytes(packed := gzip.compress(BIG, 1))
    await engine.import_image(tmp_path / "big.tar.gz", "whole:1", watch=told)
    assert (told.states[-1].layers[0].done, told.states[-1].layers[0].total) == (len(packed), len(packed))


async def test_commit_tells_how_far_and_a_cancelled_one_lets_the_container_go_on(
    engine: Engine, busybox_image: str, inst: Instance
) -> None:
    box = await engine.create(ContainerSpec(busybox_image, command=("sleep", "600"), network="none"))
    await engine.start(box.id)
    (upper(inst, box) / "big").write_bytes(bytes(MANY))
    before, told = store_of(inst), Told()
    task = asyncio.create_task(engine.commit(box.id, "half:1", watch=told))
    told.cancels(task, begun)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(task), patience(30))
    assert (await told.until(begun)).layers[0].phase == "reading"
    assert (await engine.container(box.id)).state is State.RUNNING
    assert len(await engine.images()) == 1
    await unchanged(inst, before)
    await engine.commit(box.id, "whole:1", watch=told)
    last = told.states[-1].layers[0]
    assert last.done == pytest.approx(MANY, rel=0.01)
    assert last.total == pytest.approx(MANY, rel=0.01)
    await engine.kill(box.id)
    await engine.wait(box.id)
    await asyncio.to_thread(assert_world, inst)


async def test_load_tells_what_it_reads_before_it_knows_the_layers(tmp_path: Path) -> None:
    layout = make.layout(tmp_path / "layout", make.image([BIG, ONE]), "app:1")
    packed = gzip.compress(make.tar_of(layout, tmp_path / "tar").read_bytes(), 1)
    (tmp_path / "tar.gz").write_bytes(packed)
    async with open_store(tmp_path / "a") as images:
        states = [state async for state in images.load(tmp_path / "tar.gz")]
        reading = [layer for state in states for layer in state.layers if layer.phase == "reading"]
        assert reading
        assert {layer.total for layer in reading} == {len(packed)}
        assert max(layer.done for layer in reading) <= len(packed)
        await images.remove("app:1", False, lambda _: [])
        read_end, write_end = os.pipe()
        steps = images.load(read_end)
        await asyncio.to_thread(os.write, write_end, packed[: 32 << 10])
        async for state in steps:
            if begun(state):
                assert state.layers[0].total == 0
                break
        await asyncio.wait_for(steps.aclose(), patience(30))
        os.close(read_end)
        os.close(write_end)
        await images.close()
        assert leftovers(images) == []
        assert list(images.content.parts.iterdir()) == []
        assert (await finish(images.load(tmp_path / "tar"))).tags


@pytest.mark.parametrize("verb", ["Exporting", "Saving", "Importing", "Committing"])
async def test_the_line_on_a_terminal_and_ctrl_c(
    wharf: Wharf, engine: Engine, busybox_image: str, inst: Instance, tmp_path: Path, verb: str
) -> None:
    box = await made(engine, busybox_image)
    (upper(inst, box) / "big").write_bytes(bytes(4 * MANY if verb == "Committing" else MANY))
    (tmp_path / "big.tar").write_bytes(BIG)
    await engine.import_image(tmp_path / "big.tar", "big:1")
    before, fifo = store_of(inst), tmp_path / "fifo"
    words = {
        "Exporting": ["export", "-o", str(fifo), box.id],
        "Saving": ["save", "-o", str(fifo), "big:1"],
        "Importing": ["import", str(fifo), "made:1"],
        "Committing": ["commit", box.id, "made:1"],
    }[verb]
    reader = Stalled(fifo)
    terminal = Terminal(wharf, *words)
    if verb in ("Exporting", "Saving"):
        await reader.begin(TAKEN if verb == "Exporting" else 1)
    elif verb == "Importing":
        reader.fd = await asyncio.to_thread(os.open, fifo, os.O_WRONLY)
        await asyncio.to_thread(os.write, reader.fd, BIG[: 64 << 10])
        await asyncio.to_thread(os.write, reader.fd, BIG[64 << 10 : 128 << 10])
    await terminal.until(f"\x1b[2K{verb} ".encode())
    await terminal.until(b"MB" if verb != "Importing" else b"kB")
    terminal.type(b"\x03")
    assert await terminal.end() == 130
    if reader.fd >= 0:
        os.close(reader.fd)
    assert len(await engine.images()) == 2
    await unchanged(inst, before)


async def test_the_line_goes_with_its_end(wharf: Wharf, busybox_image: str, inst: Instance, tmp_path: Path) -> None:
    (tmp_path / "big.tar").write_bytes(BIG * 8)
    terminal = Terminal(wharf, "import", str(tmp_path / "big.tar"), "made:1")
    await terminal.until(b"sha256:")
    assert await terminal.end() == 0
    assert await wharf.ok("import", str(tmp_path / "big.tar"), "made:2")  # where there is no terminal, nothing is told
