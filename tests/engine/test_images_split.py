"""The archive of every layer can be rebuilt to the byte, and the index says what the layer holds."""

from __future__ import annotations

import hashlib
import os
import random
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from backports import zstd

from core.errors import Corrupt, NotFound
from core.images import index, split, tar
from core.images.layer import Unpacker
from core.images.owners import Owners
from core.images.store import ImageStore
from tests import images as make
from tests.engine.test_images_layer import GNU_TAR, XATTRS, fill, load
from tests.images import directory, hardlink, member, symlink
from tests.images_lab import open_store
from tests.registry import need

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="owners and device nodes need root")]
BIG = random.Random(1).randbytes(3_000_000)

# One of each way in which an archive may be more than its files.
ODD: dict[str, bytes] = {
    "empty": b"",
    "no end marker": make.tar(member("f", data=b"x"))[:1024],
    "something after the end": make.tar(member("f", data=b"x" * 700)) + b"tail" * 999,
    "a file twice": make.tar(member("f", data=b"first"), member("f", data=BIG), member("f", data=b"third")),
    "a file twice with a link to the first": make.tar(
        member("f", data=BIG), hardlink("l", "f"), member("f", data=b"new"), member("l", data=b"newer")
    ),
    "a directory that becomes a file": make.tar(
        directory("d"), member("d/a", data=b"aa"), directory("d/e"), member("d/e/b", data=BIG),
        member("d", data=b"file"), member("after", data=b"z"),
    ),
    "a directory that becomes a file and a directory again": make.tar(
        directory("d"), member("d/a", data=b"1"), member("d", data=b"22"), directory("d"), member("d/a", data=b"333"),
        member("d/a", data=b"4444"), symlink("d", "/etc"), directory("d", mode=0o700), member("d/a", data=b"55555"),
    ),
    "a directory twice": make.tar(directory("d"), member("d/a", data=b"1"), directory("d", mode=0o700)),
    "the root twice": make.tar(directory("."), member("a"), directory("./", mode=0o711)),
    "whiteouts with content": make.tar(
        directory("d"), member("d/.wh.gone", data=b"why" * 999), member("d/.wh..wh..opq", data=b"q"),
        member("d/.wh..wh.aufs", data=BIG), member(".wh.f"), member("f", data=b"again"), member("g"), member(".wh.g"),
        directory("h"), member(".wh.h"), member(".wh.i"), directory("i"),
    ),
    "directories left out": make.tar(member("a/b/c", data=b"c"), member("a/x", data=b"y"), directory("a")),
    "old gnu names": make.tar(
        member("n" * 180 + "/" + "n" * 180, data=b"1"), member("m/" * 90 + "n", data=BIG), form=tarfile.GNU_FORMAT
    ),
}  # fmt: skip


def folder_of(images: ImageStore, position: int = 0) -> Path:
    rows = images.store.disk.read("SELECT layer FROM image_layer ORDER BY position")
    return images.layers.folder(rows[position]["layer"])


def digest(folder: Path) -> str:
    whole = hashlib.sha256()
    for piece in split.rebuild(folder):
        whole.update(piece)
    return f"sha256:{whole.hexdigest()}"


def check_index(folder: Path) -> index.Index:
    """Index and files agree, both ways."""
    found = index.read(folder)
    base = os.fsencode(folder / "diff")
    there = {
        os.path.relpath(os.path.join(top, name), base)
        for top, folders, files in os.walk(base)
        for name in folders + files
    }
    listed = [row.path for row in found if row.kind != index.OPAQUE]
    assert len(listed) == len(set(listed))
    assert set(listed) | set(found.implied) | {b""} == there | {b""}
    kinds = {
        tar.FILE: stat.S_IFREG, tar.DIRECTORY: stat.S_IFDIR, tar.SYMLINK: stat.S_IFLNK, tar.FIFO: stat.S_IFIFO,
        tar.CHAR: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK, index.WHITEOUT: stat.S_IFCHR,
    }  # fmt: skip
    for row in found:
        path = os.path.join(base, row.path) if row.path else base
        status = os.lstat(path)
        if row.kind == index.OPAQUE:
            assert os.getxattr(path, "trusted.overlay.opaque") == b"y"
            continue
        if row.kind == tar.LINK:
            assert status.st_ino == os.lstat(os.path.join(base, row.link)).st_ino
            continue
        assert stat.S_IFMT(status.st_mode) == kinds[row.kind]
        if row.kind != index.WHITEOUT and row.path not in found.implied:
            assert (status.st_uid, status.st_gid, status.st_mtime_ns) == (row.uid, row.gid, row.mtime)
            assert row.has_xattrs == bool(os.listxattr(path, follow_symlinks=False)) or row.kind == tar.DIRECTORY
        if row.kind == tar.SYMLINK:
            assert os.readlink(path) == row.link
        else:
            assert row.kind == index.WHITEOUT or stat.S_IMODE(status.st_mode) == row.mode
        if row.kind == tar.FILE:
            assert status.st_size == row.size
        if row.kind in (tar.CHAR, tar.BLOCK_DEVICE):
            assert row.device == (os.major(status.st_rdev), os.minor(status.st_rdev))
        assert found.find(row.path) is not None
    return found


@pytest.mark.parametrize("name", ODD)
async def test_odd_archives_are_rebuilt(tmp_path: Path, name: str) -> None:
    async with open_store(tmp_path) as images:
        await load(images, tmp_path, ODD[name])
        folder = folder_of(images)
        assert digest(folder) == make.sha(ODD[name])
        check_index(folder)


@pytest.mark.parametrize("form", ["--format=pax", "--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1"])
async def test_archives_of_gnu_tar_are_rebuilt(tmp_path: Path, form: str) -> None:
    need("tar")
    source = tmp_path / "source"
    source.mkdir()
    fill(source)
    options = [form] if "format" in form else ["--format=pax", form]
    more = [] if form == "--format=gnu" else XATTRS
    command = [*GNU_TAR, str(source), *options, *more, "-c", "."]
    layer = subprocess.run(command, check=True, capture_output=True).stdout
    async with open_store(tmp_path) as images:
        await load(images, tmp_path, layer)
        folder = folder_of(images)
        assert digest(folder) == make.sha(layer)
        if form != "--format=gnu":
            found = check_index(folder)
            number = found.find(b"sparse")
            assert number is not None
            assert found.row(number).size == 30_000_000
        assert (folder / split.SPLIT).stat().st_size < 20_000


async def test_nothing_is_kept_aside_without_need(tmp_path: Path) -> None:
    async with open_store(tmp_path) as images:
        layers = [ODD["a directory twice"], ODD["a file twice"], make.tar(directory("d"), symlink("d", "x"))]
        await load(images, tmp_path, *layers)
        folders = [folder_of(images, position) for position in range(3)]
        assert [sorted(os.listdir(folder)) for folder in folders] == [
            ["diff", "index.zst", "split.zst"],
            ["aside", "diff", "index.zst", "split.zst"],
            ["diff", "index.zst", "split.zst"],
        ]
        assert sorted(os.listdir(folders[1] / "aside")) == ["1", "2"]


async def test_random_archives_are_rebuilt(tmp_path: Path) -> None:
    """Paths that keep changing what they are, a thousand members each."""
    layers = []
    for seed in range(6):
        dice = random.Random(seed)
        members = []
        for _ in range(1000):
            name = "/".join(dice.choice("abc") for _ in range(dice.randint(1, 3)))
            head, _, leaf = name.rpartition("/")
            kinds = [
                member(name, data=dice.randbytes(dice.randint(0, 3000))),
                directory(name),
                symlink(name, "nowhere") if "/" not in name or dice.random() < 0.1 else directory(name),
                member(f"{head}/.wh.{leaf}" if head else f".wh.{leaf}"),
            ]
            members.append(dice.choice(kinds))
        layers.append(members)
    made = [make.tar(*_acceptable(members)) for members in layers]
    async with open_store(tmp_path) as images:
        await load(images, tmp_path, *made)
        for position, layer in enumerate(made):
            folder = folder_of(images, position)
            assert digest(folder) == make.sha(layer)
            check_index(folder)


def _acceptable(members: list[tuple[tarfile.TarInfo, bytes]]) -> list[tuple[tarfile.TarInfo, bytes]]:
    """Without those whose parent is no directory by then: such an archive is refused."""
    kinds: dict[str, bytes] = {}
    kept = []
    for info, data in members:
        parts = info.name.split("/")
        parents = ["/".join(parts[:count]) for count in range(1, len(parts))]
        if any(kinds.get(parent, tarfile.DIRTYPE) != tarfile.DIRTYPE for parent in parents):
            continue
        kept.append((info, data))
        if parts[-1].startswith(".wh."):
            path = info.name.replace(".wh.", "")
            kinds.setdefault(path, b"whiteout")
        else:
            path = info.name
            if info.type != tarfile.DIRTYPE:
                kinds = {known: kind for known, kind in kinds.items() if not known.startswith(path + "/")}
            kinds[path] = info.type
        for parent in parents:
            kinds.setdefault(parent, tarfile.DIRTYPE)
    return kept


async def test_damage_is_told(tmp_path: Path) -> None:
    layer = make.tar(directory("d"), member("d/file", data=b"x" * 5000), member("other", data=b"y"))
    async with open_store(tmp_path) as images:
        await load(images, tmp_path, layer)
        folder = folder_of(images)
        kept = (folder / split.SPLIT).read_bytes()
        for place in (3, len(kept) // 2, len(kept) - 40, len(kept) - 12):
            (folder / split.SPLIT).write_bytes(kept[:place] + bytes([kept[place] ^ 0x55]) + kept[place + 1 :])
            with pytest.raises(Corrupt):
                digest(folder)
        (folder / split.SPLIT).write_bytes(kept)
        os.truncate(folder / "diff" / "d" / "file", 4000)
        with pytest.raises(Corrupt, match=r"d/file.*shorter"):
            digest(folder)
        # No link is followed, whatever the layer has become.
        (folder / "diff" / "d" / "file").unlink()
        (tmp_path / "secret").write_bytes(b"x" * 5000)
        (folder / "diff" / "d" / "file").symlink_to(tmp_path / "secret")
        with pytest.raises(Corrupt, match="d/file"):
            digest(folder)
        os.rename(folder / "diff" / "d", folder / "diff" / "moved")
        (folder / "diff" / "d").symlink_to(folder / "diff" / "moved")
        with pytest.raises(Corrupt, match="d/file"):
            digest(folder)
        data = (folder / index.INDEX).read_bytes()
        (folder / index.INDEX).write_bytes(zstd.compress(b"something else"))
        with pytest.raises(Corrupt):
            index.read(folder)
        (folder / index.INDEX).write_bytes(data[:-5])
        with pytest.raises(Corrupt):
            index.read(folder)
        for name in (split.SPLIT, index.INDEX):
            (folder / name).unlink()
        assert not split.exists(folder)
        with pytest.raises(NotFound, match="older"):
            digest(folder)
        with pytest.raises(NotFound, match="older"):
            index.read(folder)


@pytest.mark.parametrize("size", [1, 511, 512, 513, 1500, 70_000])
def test_chunks_of_any_size(tmp_path: Path, size: int) -> None:
    """Headers, records, content and padding are cut anywhere, as a decompressor cuts them."""
    few = [name for name in ODD if size > 1 or len(ODD[name]) < 100_000]
    for number, name in enumerate(few):
        folder = tmp_path / str(number)
        for place in (folder, folder / "diff", folder / "aside"):
            place.mkdir()
        fds = [os.open(place, os.O_RDONLY) for place in (folder / "diff", folder / "aside", folder)]
        chunks = iter([ODD[name][at : at + size] for at in range(0, len(ODD[name]), size)] + [b""])
        Unpacker(fds[0], fds[1], split.Recorder(chunks.__next__, fds[2]), Owners()).run()
        for fd in fds:
            os.close(fd)
        assert digest(folder) == f"sha256:{hashlib.sha256(ODD[name]).hexdigest()}", name
        check_index(folder)


@pytest.mark.parametrize("name", ["plain", "gr\xfcn", "\xff" * 90])
def test_sums_of_headers(name: str) -> None:
    """The exact sum counts, also where a header is not ASCII; one that is right modulo 65521 alone is refused."""
    data = make.tar(member(name), form=tarfile.GNU_FORMAT)
    reader = tar.Reader(tar.Stream(iter([data, b""]).__next__))
    assert [entry.name for entry in reader] == [os.fsencode(name) if name.isascii() else name.encode()]
    stored = int(data[148:154], 8)
    for wrong in (stored + 1, stored + 65521, stored - 256):
        bad = data[:148] + b"%06o\0 " % wrong + data[156:]
        with pytest.raises(Corrupt):
            list(tar.Reader(tar.Stream(iter([bad, b""]).__next__)))
