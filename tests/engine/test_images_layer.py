"""Layers: what is unpacked equals its source; what means harm is refused and touches nothing outside."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from core.images.store import ImageStore
from core.model import Image
from tests import images as make
from tests.images import directory, hardlink, member, symlink
from tests.images_lab import describe, finish, leftovers, open_store, snapshot
from tests.registry import need

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="owners and device nodes need root")]


async def load(images: ImageStore, folder: Path, *layers: bytes, **options: object) -> Image:
    made = make.image(layers, **options)  # type: ignore[arg-type]
    return await finish(images.load(make.layout(folder / "layout", made)))


def fill(root: Path) -> None:
    """A tree with everything that a layer can hold."""
    odd = os.fsencode(root)
    (root / "plain").write_text("hello")
    os.chown(root / "plain", 3_000_000, 7)
    os.utime(root / "plain", ns=(5, 1_234_567_890_123_456_789))
    (root / "setuid").write_bytes(b"x" * 100_000)
    (root / "setuid").chmod(0o6755)
    os.setxattr(root / "setuid", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    os.setxattr(root / "plain", "user.colour", b"\x00\xffblue")
    os.setxattr(root / "plain", "trusted.note", b"x")
    (root / "old").write_text("")
    os.utime(root / "old", ns=(-5, -86_400_000_000_001))
    sub = root / "dir" / "deeper"
    sub.mkdir(parents=True)
    (root / "dir").chmod(0o2775)
    os.chown(root / "dir", 0, 33)
    (sub / "child").write_text("c")
    (sub / "link").symlink_to("../../plain")
    os.link(sub / "child", root / "hard")
    os.link(root / "setuid", sub / "setuid-too")
    os.mkfifo(root / "fifo", 0o620)
    os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(root / "disk", 0o660 | stat.S_IFBLK, os.makedev(259, 70_000))
    (root / "sticky").mkdir()
    (root / "sticky").chmod(0o1777)
    with open(odd + b"/not-utf8-\xff\xfe", "wb"), open(odd + b"/new\nline", "wb"):
        pass
    long = root.joinpath(*["n" * 200] * 3)
    long.mkdir(parents=True)
    (long / "end").write_text("deep")
    with open(root / "sparse", "wb") as file:
        file.seek(10_000_000)
        file.write(b"middle")
        file.seek(20_000_000)
        file.write(b"end")
        file.truncate(30_000_000)
    for folder in (sub, root / "dir", root / "sticky"):
        os.utime(folder, ns=(1, 1_111_111_111_222_222_222))


GNU_TAR = ["tar", "--numeric-owner", "-S", "-C"]
XATTRS = ["--xattrs", "--xattrs-include=*"]


@pytest.mark.parametrize("form", ["--format=pax", "--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1"])
async def test_tree_equals_source(tmp_path: Path, form: str) -> None:
    need("tar")
    source = tmp_path / "source"
    source.mkdir()
    fill(source)
    if form == "--format=gnu":  # holds neither attributes nor fractions of a second
        for path in source.rglob("*"):
            for key in os.listxattr(path, follow_symlinks=False):
                os.removexattr(path, key, follow_symlinks=False)
            os.utime(path, (1, 1_000_000_000), follow_symlinks=False)
        os.utime(source, (1, 1_000_000_000))
    options = {"--format=gnu": [form], "--format=pax": [form, *XATTRS]}.get(form, ["--format=pax", form, *XATTRS])
    layer = subprocess.run([*GNU_TAR, str(source), *options, "-c", "."], check=True, capture_output=True).stdout
    async with open_store(tmp_path) as images:
        image = await load(images, tmp_path, layer)
        [diff] = images.layer_dirs(image)
        assert snapshot(diff) == snapshot(source)
        assert os.stat(diff / "sparse").st_blocks < 1000
        assert describe(diff)[:5] == describe(source)[:5]
        assert not leftovers(images)


async def test_umoci_agrees(tmp_path: Path) -> None:
    need("umoci", "tar")
    source = tmp_path / "source"
    source.mkdir()
    fill(source)
    layer = subprocess.run(
        [*GNU_TAR, str(source), "--format=pax", *XATTRS, "-c", "."], check=True, capture_output=True
    ).stdout
    made = make.image([layer])
    folder = make.layout(tmp_path / "layout", made, "x")
    subprocess.run(["umoci", "raw", "unpack", "--image", f"{folder}:x", str(tmp_path / "umoci")], check=True)
    async with open_store(tmp_path) as images:
        image = await finish(images.load(folder))
        assert snapshot(images.layer_dirs(image)[0]) == snapshot(tmp_path / "umoci")


@pytest.mark.parametrize(
    ("compress", "suffix"),
    [
        (make.gz, "+gzip"),
        (zstd.compress, "+zstd"),
        (lambda data: data, ""),
        (lambda data: make.gz(data[:700]) + make.gz(data[700:]), "+gzip"),
        (lambda data: make.gz(data) + bytes(512), "+gzip"),
        (
            lambda data: zstd.compress(data[:700]) + b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc" + zstd.compress(data[700:]),
            "",
        ),
    ],
    ids=["gzip", "zstd", "plain", "two gzip members", "padded gzip", "zstd frames with a skippable one"],
)
async def test_compressions(tmp_path: Path, compress: Callable[[bytes], bytes], suffix: str) -> None:
    async with open_store(tmp_path) as images:
        image = await load(
            images, tmp_path, make.tar(member("f", data=b"z" * 5_000_000)), compress=compress, suffix=suffix
        )
        assert (images.layer_dirs(image)[0] / "f").read_bytes() == b"z" * 5_000_000
        assert image.size == 5_000_000


async def test_whiteouts_become_overlayfs(tmp_path: Path) -> None:
    lower = make.tar(directory("d"), member("d/a"), member("d/b"), directory("o"), member("o/x"), directory("swap"))
    upper = make.tar(
        directory("d"),
        member("d/.wh.a"),
        directory("o"),
        member("o/.wh..wh..opq"),
        member("o/new", data=b"n"),
        member(".wh.swap"),
        directory("swap"),
        member("swap/fresh"),
        directory("again"),
        member(".wh.again"),
        directory(".wh..wh.plnk"),
        member(".wh..wh.plnk/1.2"),
    )
    async with open_store(tmp_path) as images:
        image = await load(images, tmp_path, lower, upper)
        diff = images.layer_dirs(image)[0]
        status = os.lstat(diff / "d" / "a")
        assert (stat.S_ISCHR(status.st_mode), status.st_rdev) == (True, 0)
        for name in ("o", "swap", "again"):
            assert os.getxattr(diff / name, "trusted.overlay.opaque") == b"y"
        assert sorted(os.listdir(diff)) == ["again", "d", "o", "swap"]
        mount = tmp_path / "mount"
        mount.mkdir()
        stack = ":".join(str(path) for path in images.layer_dirs(image))
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={stack}", str(mount)], check=True)
        try:
            assert sorted(str(path.relative_to(mount)) for path in mount.rglob("*")) == [
                *("again", "d", "d/b", "o", "o/new", "swap", "swap/fresh"),
            ]
        finally:
            subprocess.run(["umount", str(mount)], check=True)


async def test_an_opaque_root_hides_all_below(tmp_path: Path) -> None:
    async with open_store(tmp_path) as images:
        layers = make.tar(member("old")), make.tar(member(".wh..wh..opq"), member("new"))
        image = await load(images, tmp_path, *layers)
        assert [os.listdir(path) for path in images.layer_dirs(image)] == [["new"]]


async def test_left_out_parents_look_as_below(tmp_path: Path) -> None:
    """A layer without its parent directories takes their attributes from below, and is not shared with other stacks."""
    base = make.tar(directory("tmp", mode=0o1777, gid=9), directory("tmp/in", uid=4, pax_headers={"mtime": "12.5"}))
    other = make.tar(directory("tmp", mode=0o700))
    top = make.tar(member("tmp/in/file", data=b"x"))
    async with open_store(tmp_path) as images:
        for number, (lower, mode) in enumerate(((base, 0o1777), (other, 0o700))):
            image = await finish(images.load(make.layout(tmp_path / f"l{number}", make.image([lower, top]))))
            diff = images.layer_dirs(image)[0]
            assert stat.S_IMODE(os.stat(diff / "tmp").st_mode) == mode
        alone = await finish(images.load(make.layout(tmp_path / "l2", make.image([top]))))
        assert stat.S_IMODE(os.stat(images.layer_dirs(alone)[0] / "tmp").st_mode) == 0o755
        assert len(images.store.disk.read("SELECT id FROM layer")) == 5
        assert not leftovers(images)


async def test_the_last_entry_of_a_name_counts(tmp_path: Path) -> None:
    layer = make.tar(
        *(directory("d"), member("d/gone"), member("d", data=b"file")),
        *(member("f"), directory("f"), member("f/in")),
        *(symlink("s", "f"), member("s", data=b"no longer a link")),
        *(member("h"), member("g", data=b"1"), hardlink("h", "g")),
        *(directory("m", mode=0o700), member("m/stays"), directory("m", mode=0o711)),
    )
    async with open_store(tmp_path) as images:
        diff = images.layer_dirs(await load(images, tmp_path, layer))[0]
        assert (diff / "d").read_bytes() == b"file"
        assert (diff / "f" / "in").is_file()
        assert (diff / "s").read_bytes() == b"no longer a link"
        assert not (diff / "s").is_symlink()
        assert os.stat(diff / "h").st_ino == os.stat(diff / "g").st_ino
        assert (diff / "m" / "stays").is_file()
        assert stat.S_IMODE(os.stat(diff / "m").st_mode) == 0o711
