"""Bytes on their way: a download into its file, a layer's files into a pipe."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from core.images import fields, headers, making, tar, tarwrite
from core.images.partwriter import PartWriter


async def test_pieces_of_every_size_lie_in_the_file_as_they_came(tmp_path: Path) -> None:
    pieces = [os.urandom(size) for size in (1, 70_000, 3, 300_000, 1_500_000, 200_000, 9, 1_000_000) * 3]
    sizes: list[int] = []
    fd = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"from an earlier try")
    before = os.fstat(fd).st_size
    async with PartWriter(fd, before, lambda size: sizes.append(os.fstat(fd).st_size - size)) as part:
        for number, piece in enumerate(pieces):
            await part.add(piece)
            if number % 5 == 0:
                await asyncio.sleep(0.001)
        await part.flush()
        assert part.size == before + sum(map(len, pieces))
    os.close(fd)
    assert (tmp_path / "part").read_bytes() == b"from an earlier try" + b"".join(pieces)
    assert set(sizes) == {0}  # nobody is told of bytes that are not there


async def test_a_disk_that_fails_is_told(tmp_path: Path) -> None:
    (tmp_path / "part").touch()
    fd = os.open(tmp_path / "part", os.O_RDONLY)
    async with PartWriter(fd, 0, lambda size: None) as part:
        await part.add(bytes(100_000))
        with pytest.raises(OSError, match="Bad file descriptor"):
            await part.flush()
        assert part.size == 0
    os.close(fd)


def test_a_layer_in_a_pipe_is_the_layer(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "folder").mkdir(parents=True)
    for number, size in enumerate((0, 1, 511, 512, 8191, 8192, 31_250, 2_500_000)):
        (tree / "folder" / str(number)).write_bytes(os.urandom(size))
    with (tree / "hole").open("wb") as file:
        file.truncate(3_000_000)
        file.seek(1_000_000)
        file.write(b"data")
    (tree / "link").symlink_to("folder/7")
    os.link(tree / "folder" / "6", tree / "other")
    for live in (False, True):
        read, write = os.pipe()
        found: list[bytes] = []

        def drain(read: int = read, found: list[bytes] = found) -> None:
            while data := os.read(read, 100_000):
                found.append(data)

        reader = threading.Thread(target=drain)
        reader.start()
        told: list[int] = []
        making.pour_layer(tree, write, told.append, live=live)
        os.close(write)
        reader.join()
        os.close(read)
        expected = b"".join(tarwrite.layer(tree, live=live))
        assert b"".join(found) == expected
        assert told == sorted(told)
        assert told[-1] == len(expected)


def test_the_header_of_an_ordinary_file_is_what_any_file_has(tmp_path: Path) -> None:
    file = tmp_path / "file"
    second = 10**9
    short = 0
    for size in (0, 1, 0o77777777777, 0o77777777777 + 1):
        with file.open("wb") as made:
            made.truncate(size)
        for time in (0, 1, 1_500 * second, 1_700_000_000_123_456_789, 1_700_000_000 * second + 10, -second, -1):
            for name in (b"f", b"d/f", b"n" * 100, b"d/" + b"n" * 98, b"n" * 101, "é".encode(), b"\xff"):
                file.chmod(0o4751 if size else 0o600)
                os.utime(file, ns=(time, time))
                status = file.stat()
                found = headers.ordinary(name, status)
                short += found is not None
                assert found in (None, headers.header(name, tar.FILE, status, size, {}))
    assert short == 3 * 5 * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"1700000000.123456789", 1700000000_123456789),
        (b"1700000000.1234567", 1700000000_123456700),
        (b"1700000000.1", 1700000000_100000000),
        (b"1700000000.", 1700000000_000000000),
        (b"1700000000", 1700000000_000000000),
        (b"1700000000.1234567891", 1700000000_123456789),
        (b"17000000000.12345678", 17000000000_123456780),
        (b"-1.5", -1_500000000),
        (b"0.000000001", 1),
    ],
)
def test_times_are_exact(text: bytes, expected: int) -> None:
    assert fields.nanoseconds(text) == expected
