"""Layers written as tars and compressed: nothing is lost, the same tree gives the same bytes, others can read them."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import resource
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from backports import zstd

from core.errors import Conflict, Corrupt, InvalidArgument
from core.images import compress, diff, handles, tarwrite
from core.images.outgoing import layer_blob
from tests import images as make
from tests.images_lab import describe, finish, open_store, snapshot
from tests.registry import need
from tests.trees import rich

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")]


def whole(pieces: Iterator[bytes]) -> bytes:
    return b"".join(pieces)


def listed(pieces: Iterator[bytes]) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(whole(pieces))) as archive:
        return archive.getmembers()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return rich(tmp_path / "tree")


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("least", [1 << 16, 1 << 40])
def test_gnu_tar_makes_the_same_tree_of_it(
    tree: Path, tmp_path: Path, live: bool, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("tar")
    monkeypatch.setattr(tarwrite, "_LEAST_HOLE", least)
    (tmp_path / "out").mkdir()
    arguments = ["tar", "--xattrs", "--xattrs-include=*", "-xp", "-C", str(tmp_path / "out")]
    data = whole(tarwrite.layer(tree, live=live))
    subprocess.run(arguments, input=data, check=True, capture_output=True)
    assert snapshot(tmp_path / "out") == snapshot(tree)
    assert (len(data) < 5 << 20) == (least == 1 << 16)  # the holes are in it or not


@pytest.mark.parametrize("least", [1 << 16, 1 << 40])
async def test_our_unpacker_makes_the_same_tree_of_it(
    tree: Path, tmp_path: Path, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tarwrite, "_LEAST_HOLE", least)
    made = make.image([whole(tarwrite.layer(tree))])
    async with open_store(tmp_path) as images:
        image = await finish(images.load(make.layout(tmp_path / "layout", made, "x:1")))
        (folder,) = images.layer_dirs(image)
        assert snapshot(folder) == snapshot(tree)
        assert describe(folder)[:5] == describe(tree)[:5]
        # Holes stay holes, also where the archive has zeroes for them.
        assert (folder / "sparse").stat().st_blocks * 512 < 6 << 20
        assert (folder / "hole").stat().st_blocks * 512 < 1 << 20


def test_umoci_makes_the_same_tree_of_it(tree: Path, tmp_path: Path) -> None:
    need("umoci")
    folder = make.layout(tmp_path / "layout", make.image([whole(tarwrite.layer(tree))]), "x")
    subprocess.run(["umoci", "raw", "unpack", "--image", f"{folder}:x", str(tmp_path / "out")], check=True)
    assert snapshot(tmp_path / "out") == snapshot(tree)


def test_the_same_tree_gives_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    one = whole(tarwrite.layer(tree))
    subprocess.run(["cp", "-a", "--sparse=always", tree, tmp_path / "copy"], check=True)
    assert whole(tarwrite.layer(tmp_path / "copy")) == one
    names = [member.name for member in listed(iter([one]))]
    assert names == sorted(names, key=lambda name: os.fsencode(name).split(b"/"))


def test_marks_of_overlayfs_become_whiteouts(tmp_path: Path) -> None:
    top = tmp_path / "upper"
    (top / "kept").mkdir(parents=True)
    os.mknod(top / "kept/gone", stat.S_IFCHR, 0)
    os.setxattr(top / "kept", "trusted.overlay.opaque", b"y")
    os.setxattr(top / "kept", "trusted.overlay.origin", b"whatever")
    os.mknod(top / ("n" * 200), stat.S_IFCHR, 0)
    members = listed(tarwrite.layer(top))
    names = [member.name for member in members]
    assert names == [".", "kept", "kept/.wh..wh..opq", "kept/.wh.gone", ".wh." + "n" * 200]
    assert not any("overlay" in key for member in members for key in member.pax_headers)
    assert all(member.isreg() and not member.size for member in members[2:])


@pytest.mark.parametrize("name", [".wh.x", "d/.wh..wh..opq"])
def test_a_file_that_would_be_taken_for_a_mark_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / name).touch()
    with pytest.raises(Conflict, match="mark"):
        whole(tarwrite.layer(tmp_path))


def test_content_that_is_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    os.setxattr(tmp_path / "d", "trusted.overlay.redirect", b"/etc")
    with pytest.raises(Conflict, match="another layer"):
        whole(tarwrite.layer(tmp_path))


def test_what_only_an_ordinary_user_s_overlayfs_understands_means_nothing(tmp_path: Path) -> None:
    """On the host every container's root can set user.overlay.*, an engine inside does: it hides nothing."""
    top, low = tmp_path / "top", tmp_path / "low"
    (top / "d").mkdir(parents=True)
    (low / "d").mkdir(parents=True)
    (low / "d/kept").touch()
    os.setxattr(top, "user.overlay.opaque", b"y")
    os.setxattr(top / "d", "user.overlay.opaque", b"y")
    os.setxattr(top / "d", "user.overlay.redirect", b"/etc")
    assert [member.name for member in listed(tarwrite.layer(top))] == [".", "d"]
    assert [member.name for member in listed(tarwrite.stack([top, low]))] == [".", "d", "d/kept"]
    assert all(change.kind == diff.CHANGED for change in diff.compare(top, [low]).changes)


def test_a_tree_deeper_than_a_layer_may_be_is_refused(tmp_path: Path) -> None:
    path = tmp_path
    for _ in range(250):
        path = path / "d"
    path.mkdir(parents=True)
    before = os.listdir("/proc/self/fd")
    for work in (
        lambda: whole(tarwrite.layer(tmp_path)),
        lambda: whole(tarwrite.stack([tmp_path, tmp_path])),
        lambda: diff.compare(tmp_path, []),
    ):
        with pytest.raises(Conflict, match="more than 200 directories"):
            work()
    assert os.listdir("/proc/self/fd") == before


@contextlib.contextmanager
def few_descriptors(count: int) -> Iterator[None]:
    """No more than ``count`` can be opened inside; those that are open already may have any number."""
    opened = sorted(map(int, os.listdir("/proc/self/fd")))[:-1]  # the last was the folder itself
    limit = count
    while limit - sum(fd < limit for fd in opened) < count:
        limit += 1
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("more", range(2, 14))
def test_no_descriptors_are_left_where_there_are_too_few(tmp_path: Path, more: int) -> None:
    layers = [tmp_path / name for name in ("top", "middle", "low")]
    for path in layers:
        path.joinpath(*"d" * 100).mkdir(parents=True)
    before = os.listdir("/proc/self/fd")
    with few_descriptors(more):
        for work in (lambda: whole(tarwrite.stack(layers)), lambda: diff.compare(layers[0], layers[1:])):
            with pytest.raises(OSError, match="Too many open files"):
                work()
    assert os.listdir("/proc/self/fd") == before


def test_many_deep_layers_take_a_bounded_number_of_descriptors(tmp_path: Path) -> None:
    layers = [tmp_path / str(number) for number in range(12)]
    for number, layer in enumerate(layers):
        layer.joinpath(*"d" * 150).mkdir(parents=True)
        for depth in (3, 149):
            layer.joinpath(*"d" * depth, f"file{number}").write_bytes(b"%d" % number)
    with few_descriptors(handles.MOST + len(layers) + 8):
        shown = listed(tarwrite.stack(layers))
        found = diff.compare(layers[0], layers[1:]).changes
    deep = "/".join("d" * 149)
    assert {member.name for member in shown if member.isreg()} == {
        f"{folder}/file{number}" for folder in ("d/d/d", deep) for number in range(12)
    }
    assert {change.path for change in found if change.kind == diff.ADDED} == {"/d/d/d/file0", f"/{deep}/file0"}


def test_what_is_opened_again_is_the_same_folder_or_gone(tmp_path: Path) -> None:
    """A living container may move its folders about: neither a link nor another folder is taken for the old one."""
    top, outside = tmp_path / "top", tmp_path / "outside"
    (top / "a" / "b").mkdir(parents=True)
    (outside / "b").mkdir(parents=True)
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    with contextlib.closing(handles.Handles([fd], most=1)) as opened:
        assert opened.enter(0, b"", b"a") is not None
        assert opened.enter(0, b"a", b"b") is not None
        first = opened.get(0, b"a/b")
        assert first is not None
        known = os.fstat(first).st_ino
        opened.get(0, b"a")  # closes the other
        (top / "a").rename(top / "moved")
        (top / "a").symlink_to(outside)
        assert opened.get(0, b"a/b") is None
        (top / "a").unlink()
        (top / "a" / "b").mkdir(parents=True)
        assert opened.get(0, b"a/b") is None
        (top / "a" / "b").rmdir()
        (top / "a").rmdir()
        (top / "moved").rename(top / "a")
        again = opened.get(0, b"a/b")
        assert again is not None
        assert os.fstat(again).st_ino == known
    os.close(fd)


def test_sockets_are_left_out(tmp_path: Path) -> None:
    os.mknod(tmp_path / "s", stat.S_IFSOCK | 0o600)
    assert [member.name for member in listed(tarwrite.layer(tmp_path))] == ["."]


def test_a_stack_is_what_overlayfs_shows(tmp_path: Path) -> None:
    layers = [tmp_path / name for name in ("top", "middle", "low")]
    top, middle, low = layers
    rich(low)
    for folder in (top, middle):
        folder.mkdir()
    (middle / "d").mkdir()
    (middle / "d/added").write_bytes(b"new")
    os.mknod(middle / "suid", stat.S_IFCHR, 0)  # gone
    (middle / "sticky").write_bytes(b"a file where a folder was")
    (middle / "link").mkdir()  # a folder where a link was
    (middle / "link/in").write_bytes(b"x")
    (top / "sticky").mkdir()  # and a folder again: what lies two below must not shine through
    (top / "d").mkdir(mode=0o711)
    os.chmod(top / "d", 0o711)
    (top / "d/deep").mkdir()
    os.setxattr(top / "d/deep", "trusted.overlay.opaque", b"y")
    (top / "d/deep/two").write_bytes(b"2")
    os.mknod(top / "fifo", stat.S_IFCHR, 0)
    mounted, out = tmp_path / "mounted", tmp_path / "out"
    mounted.mkdir()
    out.mkdir()
    below = ":".join(str(layer) for layer in layers)
    subprocess.run(["mount", "-t", "overlay", "-o", f"ro,lowerdir={below}", "overlay", mounted], check=True)
    try:
        arguments = ["tar", "--xattrs", "--xattrs-include=*", "-xp", "-C", str(out)]
        subprocess.run(arguments, input=whole(tarwrite.stack(layers)), check=True, capture_output=True)
        shown = snapshot(mounted)
        assert snapshot(out) == shown
        assert describe(out)[:5] == describe(mounted)[:5]
        assert b"suid" not in shown
        assert b"sticky/in" not in shown
    finally:
        subprocess.run(["umount", mounted], check=True)


# -- compression ------------------------------------------------------------------------------------------------
DATA = os.urandom(1 << 20) + b"text " * 700_000
_UNPACK = {"gzip": gzip.decompress, "zstd": zstd.decompress, "none": lambda data: data}


def pieces(size: int) -> Iterator[bytes]:
    yield from (DATA[at : at + size] for at in range(0, len(DATA), size))


@pytest.mark.parametrize("method", compress.METHODS)
def test_compressed_alike_on_any_number_of_processors(tmp_path: Path, method: str) -> None:
    results = []
    before = os.sched_getaffinity(0)
    for cpus, size in ((before, 1_000_003), ({min(before)}, 4096)):
        with open(tmp_path / f"{size}", "w+b") as file:
            os.sched_setaffinity(0, cpus)
            try:
                packed = compress.pack(pieces(size), method, file.fileno())
            finally:
                os.sched_setaffinity(0, before)
            file.seek(0)
            data = file.read()
        results.append(data)
        assert packed.size == len(data)
        assert packed.digest == make.sha(data)
        assert (packed.plain_digest, packed.plain_size) == (make.sha(DATA), len(DATA))
    assert results[0] == results[1]
    assert _UNPACK[method](results[0]) == DATA


@pytest.mark.parametrize("method", compress.METHODS)
def test_what_fails_while_it_is_read_fails(tmp_path: Path, method: str) -> None:
    def broken() -> Iterator[bytes]:
        yield DATA
        raise Corrupt("no more")

    with open(tmp_path / "out", "w+b") as file, pytest.raises(Corrupt, match="no more"):
        compress.pack(broken(), method, file.fileno())


@pytest.mark.parametrize("method", compress.METHODS)
def test_a_full_disk_is_told(method: str) -> None:
    with open("/dev/full", "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        compress.pack(pieces(1 << 20), method, file.fileno())


async def test_the_blob_of_a_layer(tree: Path, tmp_path: Path) -> None:
    layers = [whole(tarwrite.layer(tree)), make.tar(make.directory("d"), make.member("d/x"))]
    layers[1] = whole(tarwrite.layer(_unpacked(tmp_path / "second", layers[1])))
    made = make.image(layers)
    async with open_store(tmp_path) as images:
        image = await finish(images.load(make.layout(tmp_path / "layout", made, "x:1")))
        for position, method in ((0, "gzip"), (1, "zstd"), (0, "none")):
            with await layer_blob(images, image, position, compression=method) as blob:
                data = blob.path.read_bytes()
                assert hashlib.sha256(data).hexdigest() == blob.digest.removeprefix("sha256:")
                assert blob.size == len(data)
                assert blob.diffid == image.layers[position]
                assert _UNPACK[method](data) == layers[position]
        with pytest.raises(InvalidArgument, match="rar"):
            await layer_blob(images, image, 0, compression="rar")


def _unpacked(folder: Path, data: bytes) -> Path:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(folder, filter="tar")
    return folder


async def test_a_layer_that_somebody_has_changed_is_not_given_out(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/x").write_bytes(b"one")
    made = make.image([whole(tarwrite.layer(tmp_path / "tree"))])
    async with open_store(tmp_path) as images:
        image = await finish(images.load(make.layout(tmp_path / "layout", made, "x:1")))
        (images.layer_dirs(image)[0] / "x").write_bytes(b"two")
        with pytest.raises(Corrupt, match="layer 1 of"):
            await layer_blob(images, image, 0)
