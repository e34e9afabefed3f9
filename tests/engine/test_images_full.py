"""A disk that is full in the middle: the pull stops, says how much is missing, and goes on from there later."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import NoSpace
from tests import images as make
from tests.images import directory, member
from tests.images_lab import finish, leftovers, open_store, snapshot
from tests.liar import liar
from tests.patience import patience
from tests.registry import need

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")]
MB = 1_000_000
LAYERS = 5
UNITS = {"B": 1, "kB": 1000, "MB": MB}


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of 120 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", str(place)]
    else:
        need("mkfs.ext4")
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(120 * 1024 * 1024)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        command = ["mount", "-o", "loop", str(image), str(place)]
    subprocess.run(command, check=True)
    try:
        yield place
    finally:
        end = time.monotonic() + patience(60)
        gc.collect()  # an error that a test has caught holds the frames, and what is open in them, in a cycle
        # What makes the layers durable runs on for a moment after the engine is closed.
        while (left := subprocess.run(["umount", str(place)], check=False, capture_output=True)).returncode:
            if time.monotonic() > end:
                raise RuntimeError(left.stderr.decode())
            time.sleep(0.1)


def fill(disk: Path, leave: int) -> Path:
    """Take all but ``leave`` bytes of the disk."""
    ballast = disk / "ballast"
    status = os.statvfs(disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - leave)
    return ballast


def sample() -> make.Made:
    """Incompressible layers of 6 MB."""
    return make.image([make.tar(directory(f"d{n}"), member(f"d{n}/f", data=os.urandom(6 * MB))) for n in range(LAYERS)])


def missing(error: NoSpace) -> float:
    match = re.search(r"some ([0-9.]+)([kM]?B) are missing", error.why)
    assert match, error.why
    return float(match[1]) * UNITS[match[2]]


@pytest.mark.parametrize("room", [4 * MB, 14 * MB, 26 * MB])
async def test_a_pull(disk: Path, room: int) -> None:
    made = sample()
    async with liar() as server, open_store(disk) as images:
        server.put(made)
        ref = f"{server.address}/app"
        ballast = fill(disk, room)
        with pytest.raises(NoSpace) as caught:
            await finish(images.pull(ref))
        assert str(disk) in caught.value.what
        there = {row["diffid"] for row in images.store.disk.read("SELECT diffid FROM layer")}
        rest = [layer for layer, diffid in zip(made.layers, made.diffids, strict=True) if diffid not in there]
        parts = {digest: images.content.part(digest) for digest in rest if images.content.part(digest).exists()}
        have = sum(path.stat().st_size for path in parts.values())
        assert parts
        # What it says is about what the rest takes: 6 MB to download and as much to unpack, of each layer.
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        need_at_least = len(rest) * 12 * MB - have - free
        assert need_at_least * 0.95 <= missing(caught.value) <= need_at_least + len(rest) * 10 * MB
        assert not await images.list()
        assert not leftovers(images)
        # What came is not fetched again once there is room.
        ballast.unlink()
        server.seen.clear()
        before = {digest: path.stat().st_size for digest, path in parts.items()}
        image = await finish(images.pull(ref))
        for digest in set(made.layers) - set(rest):
            assert not server.count(digest)
        for digest, size in before.items():
            asked = [headers.get("Range", "bytes=0-") for path, headers in server.seen if digest in path]
            assert asked == ([f"bytes={size}-"] if size < len(made.blobs[digest]) and size else [] if size else asked)
        for number, path in enumerate(reversed(images.layer_dirs(image))):
            assert len(snapshot(path)[f"d{number}/f".encode()][5]) == 6 * MB  # type: ignore[arg-type]
        assert not list(images.content.parts.iterdir())


async def test_a_load(disk: Path, tmp_path: Path) -> None:
    made = sample()
    layout = make.layout(tmp_path / "layout", made, "app:1")
    async with open_store(disk) as images:
        ballast = fill(disk, 10 * MB)
        with pytest.raises(NoSpace) as caught:
            await finish(images.load(layout))
        assert "downloaded" not in str(caught.value)
        assert missing(caught.value) >= 10 * MB
        assert not await images.list()
        assert not leftovers(images)
        ballast.unlink()
        assert await finish(images.load(layout))


async def test_no_room_for_an_archive_that_must_be_unpacked_first(disk: Path, tmp_path: Path) -> None:
    made = sample()
    make.tar_of(make.layout(tmp_path / "layout", made, "app:1"), tmp_path / "saved", "w:gz")
    async with open_store(disk) as images:
        fill(disk, 10 * MB)
        with pytest.raises(NoSpace):
            await finish(images.load(tmp_path / "saved"))
        assert not await images.list()
        assert os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize > 8 * MB
