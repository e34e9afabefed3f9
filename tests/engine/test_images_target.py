"""Where exports and saves go, and what becomes of their source meanwhile: never an archive that looks whole and is
not, never a wait without an end."""

from __future__ import annotations

import asyncio
import os
import stat
import tarfile
import threading
from pathlib import Path

import pytest

from core.engine import Engine
from core.errors import Conflict
from core.images import save as saving
from core.images import target
from core.model import Container
from core.store.paths import Instance
from tests import images as make
from tests.engine.test_images_commit import made, upper
from tests.engine.test_images_save import ONE, TWO, loaded, members
from tests.images_lab import finish, open_store
from tests.patience import patience

pytestmark = pytest.mark.real
BIG = make.tar(make.member("big", data=bytes(range(256)) * (16 << 10)))


class Enough(Exception):
    pass


def test_whoever_lends_a_large_file_looks_after_each_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit is cancelled in the middle of a file, and not after it."""
    monkeypatch.setattr(target, "_PIECE", 4096)  # five of them fit into a pipe that nobody reads
    (tmp_path / "large").write_bytes(b"x" * 5 * 4096)
    seen: list[int] = []

    def watch(done: int) -> None:
        seen.append(done)
        if done == 2 * 4096:
            raise Enough

    read_end, write_end = os.pipe()
    source = os.open(tmp_path / "large", os.O_RDONLY)
    try:
        with pytest.raises(Enough):
            target.lend(write_end, source, 0, 5 * 4096, watch)
        os.close(write_end)
        write_end = -1
        assert len(os.read(read_end, 1 << 20)) == 2 * 4096
    finally:
        for fd in (read_end, write_end, source):
            if fd >= 0:
                os.close(fd)
    assert seen == [4096, 2 * 4096]


class Stalled:
    """A fifo whose reader has taken a little, so that the writer has begun, and takes no more for now."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self.fd = -1
        self.got = b""

    async def begin(self, count: int = 1) -> None:
        """Take ``count`` bytes."""
        self.fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        while len(self.got) < count:
            try:
                self.got += os.read(self.fd, count - len(self.got))
            except BlockingIOError:
                pass
            await asyncio.sleep(0 if self.got else 0.01)

    async def rest(self) -> bytes:
        os.set_blocking(self.fd, True)
        return await asyncio.to_thread(self._read)

    def _read(self) -> bytes:
        pieces = [self.got]
        while piece := os.read(self.fd, 1 << 20):
            pieces.append(piece)
        os.close(self.fd)
        return b"".join(pieces)


async def big(engine: Engine, inst: Instance, image: str) -> Container:
    """A container whose first file is more than a pipe takes."""
    box = await made(engine, image)
    (upper(inst, box) / "0big").write_bytes(bytes(4 << 20))
    return box


async def test_a_container_that_is_removed_while_it_is_exported(
    engine: Engine, busybox_image: str, inst: Instance, tmp_path: Path
) -> None:
    box = await big(engine, inst, busybox_image)
    reader = Stalled(tmp_path / "fifo")
    task = asyncio.create_task(engine.export(box.id, reader.path))
    await reader.begin()
    await engine.remove(box.id)
    await reader.rest()
    with pytest.raises(Conflict, match="removed meanwhile"):
        await task


async def test_a_container_that_is_started_while_it_is_exported(
    engine: Engine, busybox_image: str, inst: Instance, tmp_path: Path
) -> None:
    """A file turns into a device: its driver must not notice. Nobody has this one: to open it would fail."""
    box = await big(engine, inst, busybox_image)
    (upper(inst, box) / "swapped").write_bytes(b"x")
    (upper(inst, box) / "turned").write_bytes(b"x")
    reader = Stalled(tmp_path / "fifo")
    task = asyncio.create_task(engine.export(box.id, reader.path))
    await reader.begin()
    for name in ("swapped", "turned"):
        (upper(inst, box) / name).unlink()
    os.mknod(upper(inst, box) / "swapped", stat.S_IFCHR | 0o600, os.makedev(250, 250))
    (upper(inst, box) / "turned").symlink_to("/etc/passwd")
    (tmp_path / "got.tar").write_bytes(await reader.rest())
    await task
    with tarfile.open(tmp_path / "got.tar") as archive:
        assert archive.getmember("swapped").ischr()
        assert archive.getmember("turned").issym()


async def test_a_stalled_reader_can_be_left(engine: Engine, busybox_image: str, inst: Instance, tmp_path: Path) -> None:
    """Ctrl+C at ``wharf export web | less``, for descriptors and fifos, saves and exports."""
    box = await big(engine, inst, busybox_image)
    (tmp_path / "big.tar").write_bytes(BIG)
    await engine.import_image(tmp_path / "big.tar", "big:1")
    for number, work in enumerate((engine.export, lambda ref, target: engine.save(["big:1"], target))):
        reader = Stalled(tmp_path / f"fifo{number}")
        task = asyncio.create_task(work(box.id, reader.path))
        await reader.begin()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(task), patience(30))
        os.close(reader.fd)
        read_end, write_end = os.pipe()
        task = asyncio.create_task(work(box.id, write_end))
        await asyncio.to_thread(os.read, read_end, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(task), patience(30))
        assert os.get_blocking(write_end)  # who else has the pipe is not disturbed
        os.close(read_end)
        os.close(write_end)


async def test_a_fifo_that_nobody_reads_yet(engine: Engine, busybox_image: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    task = asyncio.create_task(engine.save([busybox_image], tmp_path / "fifo"))
    await asyncio.sleep(0)
    with open(os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        os.set_blocking(file.fileno(), True)
        while not (got := await asyncio.to_thread(file.read)):  # no writer yet
            await asyncio.sleep(0.01)
    await task
    await engine.save([busybox_image], tmp_path / "file")
    assert got == (tmp_path / "file").read_bytes()


async def test_an_image_that_is_removed_while_it_is_saved(tmp_path: Path) -> None:
    async with open_store(tmp_path / "a") as images:
        image = await loaded(images, tmp_path / "layout", BIG, ONE, TWO, name="app:1")
        reader = Stalled(tmp_path / "fifo")
        task = asyncio.create_task(saving.save(images, ["app:1"], reader.path))
        await reader.begin()
        await images.remove("app:1", False, lambda _: [])
        (tmp_path / "saved.tar").write_bytes(await reader.rest())
        await task
    async with open_store(tmp_path / "b") as others:
        assert (await finish(others.load(tmp_path / "saved.tar"))).id == image.id


async def test_a_file_that_is_appended_to(tmp_path: Path) -> None:
    """``wharf save app >> file``: sendfile(2) refuses."""
    async with open_store(tmp_path / "a") as images:
        await loaded(images, tmp_path / "layout", BIG, ONE, name="app:1")
        await saving.save(images, ["app:1"], tmp_path / "file")
        fd = os.open(tmp_path / "appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            await saving.save(images, ["app:1"], fd)
        finally:
            os.close(fd)
    assert (tmp_path / "appended").read_bytes() == (tmp_path / "file").read_bytes()


async def test_a_link_stays_a_link(engine: Engine, busybox_image: str, tmp_path: Path) -> None:
    """``-o /dev/stdout`` with the output in a file must not put that file in place of the device's name."""
    box = await made(engine, busybox_image)
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    await engine.save([busybox_image], tmp_path / "link")
    assert "manifest.json" in members(tmp_path / "real")
    await engine.export(box.id, tmp_path / "link")
    with tarfile.open(tmp_path / "real") as archive:
        assert "bin/busybox" in archive.getnames()
    assert os.readlink(tmp_path / "link") == "real"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_pieces_by_the_thousand_into_a_pipe_that_takes_few() -> None:
    """More than one writev(2) takes, a reader slower than the writer, and a descriptor that does not block."""
    pieces = [bytes([number % 251]) * (number % 700) for number in range(5000)]
    read, write = os.pipe()
    os.set_blocking(write, False)
    got: list[bytes] = []

    def slowly() -> None:
        while data := os.read(read, 5000):
            got.append(data)

    reader = threading.Thread(target=slowly)
    reader.start()
    target.write_all(write, pieces, lambda done: None)
    os.close(write)
    reader.join()
    os.close(read)
    assert b"".join(got) == b"".join(pieces)
