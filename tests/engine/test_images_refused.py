"""Archives that mean harm: what is refused, what comes to nothing, and nothing outside is touched."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from core.errors import Corrupt, WharfError
from tests import images as make
from tests.engine.test_images_layer import load
from tests.images import directory, hardlink, member, symlink
from tests.images_lab import describe, finish, leftovers, open_store, snapshot

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="owners and device nodes need root")]


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
    "opaque through a symlink": lambda c: make.tar(symlink("s", c), member("s/.wh..wh..opq")),
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
        pax((b"GNU.sparse.size", b"100"), (b"GNU.sparse.map", b"10,5,12,5"))
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


async def check_refused(tmp_path: Path, evil: Callable[[str], bytes]) -> None:
    """The archive is refused with all that an error says; nothing outside is touched, nothing stays.

    :param evil: makes it, with the path of the canary
    """
    place = canary(tmp_path)
    before = snapshot(Path(place)), describe(place)
    async with open_store(tmp_path) as images:
        with pytest.raises(Corrupt) as caught:
            await load(images, tmp_path, evil(place))
        assert caught.value.why
        assert caught.value.fix
        assert (snapshot(Path(place)), describe(place)) == before
        assert not leftovers(images)
        assert not await images.list()


@pytest.mark.parametrize("name", EVIL)
async def test_evil_archives_are_refused(tmp_path: Path, name: str) -> None:
    await check_refused(tmp_path, EVIL[name])


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
    blob += b"".join(packer.compress(piece) for _ in range(17))  # the rest is never looked at
    blob += packer.flush()
    made = make.image([b"x"], compress=lambda _: blob, suffix="+zstd")
    async with open_store(tmp_path) as images:
        with pytest.raises(Corrupt, match="bomb"):
            await finish(images.load(make.layout(tmp_path / "layout", made)))
        assert not leftovers(images)


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
