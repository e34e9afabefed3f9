"""Layers: what is unpacked equals its source; what means harm is refused and touches nothing outside."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from core.errors import Corrupt, WharfError
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
        member("o/.wh..wh.opq"),
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
        layers = make.tar(member("old")), make.tar(member(".wh..wh.opq"), member("new"))
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


def raw(
    name: bytes, *, kind: bytes = b"0", size: bytes = b"00000000000", extra: bytes = b"", link: bytes = b""
) -> bytes:
    """One header made by hand, for what tarfile refuses to write."""
    head = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size.ljust(12, b"\0") + b"00000000000\0"
    head += b" " * 8 + kind + link.ljust(100, b"\0") + b"ustar\x0000"
    head = head.ljust(512, b"\0")
    total = b"%06o\0 " % sum(head)
    return head[:148] + total + head[156:] + extra


def pax(*records: tuple[bytes, bytes]) -> bytes:
    data = b""
    for key, value in records:
        size = len(key) + len(value) + 3
        size += len(str(size + len(str(size))))
        data += b"%d %s=%s\n" % (size, key, value)
    return raw(b"pax", kind=b"x", size=b"%011o" % len(data)) + data.ljust(-(-len(data) // 512) * 512, b"\0")


END = bytes(1024)
CANARY = "/tmp/wharf-canary"

EVIL: dict[str, Callable[[str], bytes]] = {
    "dotdot": lambda c: make.tar(member("../../../../../.." + c + "/evil")),
    "dotdot inside": lambda c: make.tar(directory("a"), member("a/../../evil")),
    "absolute": lambda c: make.tar(member(c + "/evil")),
    "absolute through pax": lambda c: pax((b"path", c.encode() + b"/evil")) + raw(b"x") + END,
    "dotdot through pax": lambda c: pax((b"path", b"../evil")) + raw(b"x") + END,
    "dotdot through a GNU long name": lambda c: (
        raw(b"L", kind=b"L", size=b"00000000010") + b"../evil\0".ljust(512, b"\0") + raw(b"x") + END
    ),
    "dotdot through the prefix": lambda c: make.tar(member("../" + "p" * 120 + "/evil"), form=tarfile.USTAR_FORMAT),
    "write through a symlink": lambda c: make.tar(symlink("s", c), member("s/evil")),
    "write through a relative symlink": lambda c: make.tar(symlink("s", "../../../../../../.." + c), member("s/evil")),
    "write through a chain of symlinks": lambda c: make.tar(
        symlink("a", "b"), symlink("b", c), directory("d"), member("a/evil")
    ),
    "mkdir through a symlink": lambda c: make.tar(symlink("s", c), directory("s/evil")),
    "implied directory through a symlink": lambda c: make.tar(symlink("s", c), member("s/x/y/evil")),
    "symlink through a symlink": lambda c: make.tar(symlink("s", c), symlink("s/evil", "x")),
    "device through a symlink": lambda c: make.tar(
        symlink("s", c), member("s/evil", tarfile.CHRTYPE, devmajor=1, devminor=3)
    ),
    "whiteout through a symlink": lambda c: make.tar(symlink("s", c), member("s/.wh.precious")),
    "opaque through a symlink": lambda c: make.tar(symlink("s", c), member("s/.wh..wh.opq")),
    "hard link to the host": lambda c: make.tar(hardlink("h", c + "/precious")),
    "hard link upwards": lambda c: make.tar(hardlink("h", "../../../../../.." + c + "/precious")),
    "hard link through a symlink": lambda c: make.tar(symlink("s", c), hardlink("h", "s/precious")),
    "hard link to nothing": lambda c: make.tar(hardlink("h", "nowhere")),
    "hard link to itself": lambda c: make.tar(member("h"), hardlink("h", "h")),
    "hard link to a directory": lambda c: make.tar(directory("d"), hardlink("h", "d")),
    "hard link to the root": lambda c: make.tar(hardlink("h", ".")),
    "hard link to a whiteout": lambda c: make.tar(member(".wh.w"), hardlink("h", "w")),
    "whiteout of nothing": lambda c: make.tar(member(".wh.")),
    "whiteout of .": lambda c: make.tar(directory("d"), member("d/.wh..")),
    "whiteout of ..": lambda c: make.tar(directory("d"), member("d/.wh...")),
    "file below a whiteout": lambda c: make.tar(directory(".wh.d"), member(".wh.d/x")),
    "whiteout as a device": lambda c: make.tar(member("dev", tarfile.CHRTYPE, devmajor=0, devminor=0)),
    "device number out of range": lambda c: make.tar(member("dev", tarfile.BLKTYPE, devmajor=4096, devminor=0)),
    "overlay redirect": lambda c: make.tar(
        directory("d", pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/etc"})
    ),
    "overlay opaque attribute": lambda c: make.tar(
        directory("d", pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"})
    ),
    "overlay metacopy for users": lambda c: make.tar(
        member("f", pax_headers={"SCHILY.xattr.user.overlay.metacopy": ""})
    ),
    "overlay attribute on the root": lambda c: make.tar(
        directory("./", pax_headers={"SCHILY.xattr.trusted.overlay.origin": "x"})
    ),
    "root as a file": lambda c: make.tar(member("./")),
    "root as a symlink": lambda c: make.tar(symlink(".", c)),
    "empty symlink": lambda c: raw(b"s", kind=b"2") + END,
    "NUL in a pax path": lambda c: pax((b"path", b"a\0b")) + raw(b"x") + END,
    "unknown type": lambda c: raw(b"x", kind=b"Z") + END,
    "GNU multi-volume": lambda c: raw(b"x", kind=b"M") + END,
    "bad checksum": lambda c: raw(b"x").replace(b"0000644", b"0000777") + END,
    "negative size": lambda c: raw(b"x", size=b"\xff" * 12) + END,
    "huge size": lambda c: raw(b"x", size=b"\x80" + b"\x7f" * 11) + END,
    "size with an underscore": lambda c: raw(b"x", size=b"1_000") + END,
    "cut in an entry": lambda c: raw(b"x", size=b"00000010000") + b"short",
    "huge pax header": lambda c: raw(b"pax", kind=b"x", size=b"%011o" % (2**21)) + bytes(2**21) + END,
    "huge GNU long name": lambda c: raw(b"L", kind=b"L", size=b"%011o" % (2**21)) + bytes(2**21) + END,
    "pax length too long": lambda c: raw(b"pax", kind=b"x", size=b"%011o" % 12) + b"99 path=abc\n".ljust(512, b"\0"),
    "pax length zero": lambda c: raw(b"pax", kind=b"x", size=b"%011o" % 12) + b"0 path=abcd\n".ljust(512, b"\0"),
    "owner out of range": lambda c: pax((b"uid", b"4294967295")) + raw(b"x") + END,
    "time out of range": lambda c: pax((b"mtime", b"9" * 19)) + raw(b"x") + END,
    "path too deep": lambda c: make.tar(member("/".join("d" * 300) + "/f")),
    "path too long": lambda c: make.tar(member("/".join(["n" * 250] * 17))),
    "component too long": lambda c: make.tar(member("n" * 256)),
    "sparse extents overlap": lambda c: (
        pax((b"GNU.sparse.major", b"0"), (b"GNU.sparse.size", b"100"), (b"GNU.sparse.map", b"10,5,12,5"))
        + raw(b"x", size=b"00000000012")
        + bytes(512)
        + END
    ),
    "sparse beyond its size": lambda c: (
        pax((b"GNU.sparse.size", b"10"), (b"GNU.sparse.map", b"100,1"))
        + raw(b"x", size=b"00000000001")
        + bytes(512)
        + END
    ),
    "parent is a file": lambda c: make.tar(member("f"), member("f/below")),
}


def canary(root: Path) -> str:
    """A folder outside of everything that must never change."""
    folder = root / "canary"
    folder.mkdir()
    (folder / "precious").write_text("untouched")
    os.utime(folder / "precious", (1, 1))
    os.utime(folder, (1, 1))
    return str(folder)


@pytest.mark.parametrize("name", EVIL)
async def test_evil_archives_are_refused(tmp_path: Path, name: str) -> None:
    place = canary(tmp_path)
    before = snapshot(Path(place)), describe(place)
    async with open_store(tmp_path) as images:
        with pytest.raises(Corrupt) as caught:
            await load(images, tmp_path, EVIL[name](place))
        assert caught.value.why
        assert caught.value.fix
        assert (snapshot(Path(place)), describe(place)) == before
        assert not leftovers(images)
        assert not await images.list()


HARMLESS: dict[str, Callable[[str], bytes]] = {
    "symlink out of the root": lambda c: make.tar(symlink("s", c), symlink("t", "../../.." + c)),
    "directory replaced by a symlink before its times are set": lambda c: make.tar(directory("d"), symlink("d", c)),
    "symlink replaced by a directory": lambda c: make.tar(symlink("d", c), directory("d"), member("d/evil")),
    "symlink replaced by a file": lambda c: make.tar(symlink("d", c + "/precious"), member("d", data=b"evil")),
    "hard link to a symlink": lambda c: make.tar(symlink("s", c + "/precious"), hardlink("h", "s")),
    "attributes on a symlink's name": lambda c: make.tar(
        symlink("s", c + "/precious", uid=5, mtime=5, pax_headers={"SCHILY.xattr.trusted.x": "y"})
    ),
    "whiteout of a symlink's name": lambda c: make.tar(symlink("precious", c), member(".wh.precious")),
    "path in a global header": lambda c: (
        raw(b"g", kind=b"g", size=b"%011o" % 22) + b"22 path=../../../evil\n".ljust(512, b"\0") + raw(b"fine") + END
    ),
}


@pytest.mark.parametrize("name", HARMLESS)
async def test_tricks_that_come_to_nothing(tmp_path: Path, name: str) -> None:
    place = canary(tmp_path)
    before = snapshot(Path(place)), describe(place)
    async with open_store(tmp_path) as images:
        image = await load(images, tmp_path, HARMLESS[name](place))
        assert (snapshot(Path(place)), describe(place)) == before
        assert images.layer_dirs(image)
        assert not leftovers(images)


async def test_bombs_are_stopped_early(tmp_path: Path) -> None:
    """30 GiB of zeroes in a megabyte of zstd, as one file: refused after the first gigabyte."""
    packer = zstd.ZstdCompressor(level=3)
    total = 30 * 1024**3
    head = make.tar(member("zeroes"))[:512]
    info = tarfile.TarInfo("zeroes")
    info.size = total
    head = info.tobuf(tarfile.GNU_FORMAT)
    piece = bytes(64 * 1024**2)
    blob = packer.compress(head)
    blob += b"".join(packer.compress(piece) for _ in range(32))  # the rest is never looked at
    blob += packer.flush()
    made = make.image([b"x"], compress=lambda _: blob, suffix="+zstd")
    began = time.monotonic()
    async with open_store(tmp_path) as images:
        with pytest.raises(Corrupt, match="bomb"):
            await finish(images.load(make.layout(tmp_path / "layout", made)))
        assert not leftovers(images)
    assert time.monotonic() - began < 60


async def test_a_layer_with_another_diffid_is_refused(tmp_path: Path) -> None:
    made = make.image([make.tar(member("x"))], diffids=["sha256:" + "0" * 64])
    async with open_store(tmp_path) as images:
        with pytest.raises(Corrupt, match="wrong digest"):
            await finish(images.load(make.layout(tmp_path / "layout", made)))
        assert not leftovers(images)


async def test_fuzzed_archives_never_break_the_store(tmp_path: Path) -> None:
    """Flip bytes all over a good archive: either it loads or there is a typed error; never anything else."""
    good = make.tar(directory("d"), member("d/f", data=b"x" * 600), symlink("s", "d"), hardlink("h", "d/f"))
    out = io.BytesIO(good)
    size = len(out.getvalue())
    async with open_store(tmp_path) as images:
        for number in range(40):
            bad = bytearray(good)
            for turn in range(3):
                bad[(number * 7919 + turn * 104_729) % min(size, 4096)] ^= 1 << (number % 8)
            made = make.image([bytes(bad)])
            try:
                await finish(images.load(make.layout(tmp_path / f"l{number}", made)))
            except WharfError:
                pass
        assert not leftovers(images)
