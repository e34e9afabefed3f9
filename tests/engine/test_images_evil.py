"""More of what a hostile archive tries (the first corpus: test_images_refused.py), and errors that name the place."""

from __future__ import annotations

import gzip
import lzma
import os
import stat
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from core.errors import Corrupt, WharfError
from core.images import layer, tar
from core.images.inflate import Inflater, Source
from core.images.owners import Owners
from core.images.split import Recorder
from tests import images as make
from tests.engine.test_images_layer import load
from tests.engine.test_images_refused import END, canary, check_refused, pax, raw
from tests.images import directory, hardlink, member, symlink
from tests.images_lab import describe, finish, leftovers, open_store, snapshot

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="owners and device nodes need root")]
ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, 7, 0xFFFFFFFF) for tag in (1, 4, 0x20))


def long_name(kind: bytes, text: bytes) -> bytes:
    return raw(kind, kind=kind, size=b"%011o" % (len(text) + 1)) + text.ljust(-(-len(text) // 512) * 512, b"\0")


def attribute(name: str, value: str) -> dict[str, dict[str, str]]:
    return {"pax_headers": {f"SCHILY.xattr.{name}": value}}


HOLE = ((b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b"9,0"))  # only with a map does the name of a sparse file count
EVIL: dict[str, Callable[[str], bytes]] = {
    "hard link through a pax linkpath": lambda c: pax((b"linkpath", c.encode() + b"/precious")) + raw(b"h", kind=b"1"),
    "hard link through a GNU long link": lambda c: long_name(b"K", c.encode() + b"/precious") + raw(b"h", kind=b"1"),
    "dotdot through a sparse name": lambda c: pax(*HOLE, (b"GNU.sparse.name", b"../evil")) + raw(b"x") + END,
    "absolute sparse name": lambda c: pax(*HOLE, (b"GNU.sparse.name", c.encode() + b"/evil")) + raw(b"x") + END,
    "file in a directory that became a link": lambda c: make.tar(
        directory("d"), member("d/x"), symlink("d", c), member("d/evil")
    ),
    "file below a directory that became a link": lambda c: make.tar(
        directory("a"), directory("a/b"), member("a/b/x"), symlink("a", c), member("a/b/evil")
    ),
    "directory below one that became a link": lambda c: make.tar(
        directory("a"), directory("a/b"), symlink("a", c), directory("a/evil")
    ),
    "hard link out of a directory that became a link": lambda c: make.tar(
        directory("d"), member("d/precious"), symlink("d", c), hardlink("h", "d/precious")
    ),
    "hard link into a directory that became a link": lambda c: make.tar(
        member("x"), directory("d"), symlink("d", c), hardlink("d/evil", "x")
    ),
    "hard link over a directory, then through it": lambda c: make.tar(
        symlink("s", c), directory("d"), hardlink("d", "s"), member("d/evil")
    ),
    "whiteout in a directory that became a link": lambda c: make.tar(
        directory("d"), symlink("d", c), member("d/.wh.precious")
    ),
    "opaque mark in a directory that became a link": lambda c: make.tar(
        directory("d"), symlink("d", c), member("d/.wh..wh..opq")
    ),
    "whiteout name below itself": lambda c: make.tar(member("d/.wh./x")),
    "device over a directory, then in it": lambda c: make.tar(
        directory("d"), member("d", tarfile.CHRTYPE, devmajor=1, devminor=3), member("d/evil")
    ),
    "overlay attribute in capitals of a link": lambda c: make.tar(
        symlink("s", "x", **attribute("trusted.overlay.redirect", "/etc"))
    ),
    "attribute without a name": lambda c: make.tar(member("f", **attribute("", "x"))),
    "attribute with a zero byte": lambda c: pax((b"SCHILY.xattr.user.a\0b", b"x")) + raw(b"x") + END,
    "attribute that no file system holds": lambda c: make.tar(member("f", **attribute("user.a", "x" * 65_000))),
    "attribute longer than attributes can be": lambda c: make.tar(member("f", **attribute("user.a", "x" * 70_000))),
    "attribute of a user on a link": lambda c: make.tar(symlink("s", "x", **attribute("user.a", "x"))),
    "capabilities that are none": lambda c: make.tar(member("f", **attribute("security.capability", "x"))),
    "access list that is none": lambda c: make.tar(member("f", **attribute("system.posix_acl_access", "garbage"))),
    "default access list of a file": lambda c: make.tar(
        member("f", pax_headers={"SCHILY.xattr.system.posix_acl_default": ACL.decode("latin-1")})
    ),
    "pax headers without end": lambda c: pax((b"SCHILY.xattr.user.a", b"x" * 1_000_000)) * 5 + raw(b"x") + END,
    "long names without end": lambda c: long_name(b"L", b"x" * 1_000_000) * 5 + raw(b"x") + END,
    "pax header of a pax header": lambda c: pax((b"size", b"99999999999")) + pax((b"path", b"../evil")) + raw(b"x"),
    "pax size below nothing": lambda c: pax((b"size", b"-1")) + raw(b"x") + END,
    "pax number without end": lambda c: pax((b"uid", b"1" * 5000)) + raw(b"x") + END,
    "sparse map without end": lambda c: (
        pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"10"))
        + raw(b"x", size=b"00000001000")
        + b"9" * 512
        + END
    ),
    "sparse file of four exabytes": lambda c: (
        pax((b"GNU.sparse.size", b"%d" % 2**62), (b"GNU.sparse.map", b"0,1")) + raw(b"x", size=b"1") + bytes(512) + END
    ),
}


@pytest.mark.parametrize("name", EVIL)
async def test_evil_archives_are_refused(tmp_path: Path, name: str) -> None:
    await check_refused(tmp_path, EVIL[name])


HARMLESS: dict[str, Callable[[str], bytes]] = {
    "access list of a directory that became a link": lambda c: make.tar(
        directory("d", pax_headers={"SCHILY.xattr.system.posix_acl_default": ACL.decode("latin-1")}), symlink("d", c)
    ),
    "times below a directory that became a link": lambda c: make.tar(
        directory("a", mtime=5), directory("a/precious", mtime=5), symlink("a", c)
    ),
    "times of a directory that became a hard link to a link": lambda c: make.tar(
        symlink("s", c), directory("d", mtime=5), hardlink("d", "s")
    ),
    "mode and owner of a hard link to a link": lambda c: make.tar(
        symlink("s", c + "/precious"), hardlink("h", "s", mode=0o4777, uid=7, gid=7, mtime=9)
    ),
    "attribute of a name space that Linux has not": lambda c: make.tar(
        member("f", **attribute("com.apple.provenance", "x")), directory("d", **attribute("com.apple.quarantine", "x"))
    ),
    "whiteouts that are links": lambda c: make.tar(
        symlink(".wh.a", c), member("x"), hardlink(".wh.b", "x"), directory(".wh.c")
    ),
}


@pytest.mark.parametrize("name", HARMLESS)
async def test_tricks_that_come_to_nothing(tmp_path: Path, name: str) -> None:
    place = canary(tmp_path)
    before = snapshot(Path(place)), describe(place)
    async with open_store(tmp_path) as images:
        image = await load(images, tmp_path, HARMLESS[name](place))
        assert (snapshot(Path(place)), describe(place)) == before
        if name.startswith("whiteouts"):
            diff = images.layer_dirs(image)[0]
            kinds = {path.name: os.lstat(path) for path in diff.iterdir() if path.name != "x"}
            assert {name: (stat.S_ISCHR(one.st_mode), one.st_rdev) for name, one in kinds.items()} == {
                "a": (True, 0),
                "b": (True, 0),
                "c": (True, 0),
            }
        assert not leftovers(images)


async def test_sizes_that_two_headers_tell_differently(tmp_path: Path) -> None:
    """CVE-2025-62518's kin: what one reader takes for content, another would take for entries."""
    inner = make.tar(member("smuggled", data=b"x"))
    size = len(inner)
    archive = pax((b"size", b"%d" % size)) + raw(b"outer") + inner + raw(b"last") + END
    async with open_store(tmp_path) as images:
        diff = images.layer_dirs(await load(images, tmp_path, archive))[0]
        assert sorted(os.listdir(diff)) == ["last", "outer"]
        assert (diff / "outer").read_bytes() == inner


# -- bombs --------------------------------------------------------------------------------------------------------
def unpack(folder: Path, archive: bytes) -> None:
    """The worker's own loop in this process, where a test can lower its limits."""
    (folder / "blob").write_bytes(archive)
    for name in ("root", "aside", "layer"):
        (folder / name).mkdir()
    fds = [os.open(folder / name, os.O_RDONLY) for name in ("blob", "root", "aside", "layer")]
    try:
        inflater = Inflater(Source(fds[0], 0, len(archive)), lambda _: None)
        inflater.start()
        layer.Unpacker(fds[1], fds[2], Recorder(inflater.next, fds[3]), Owners.here()).run()
    finally:
        for fd in fds:
            os.close(fd)


def test_too_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "MOST_ENTRIES", 50)
    with pytest.raises(Corrupt, match="more than 50 entries"):
        unpack(tmp_path, make.tar(*(member(f"f{number}") for number in range(51))))
    assert len(os.listdir(tmp_path / "root")) == 50


def test_too_many_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker has to remember of each entry is bounded too."""
    monkeypatch.setattr(tar, "_MOST_NAMES", 10_000)
    with pytest.raises(Corrupt, match="names"):
        unpack(tmp_path, make.tar(*(directory("n" * 200 + str(number)) for number in range(60))))


async def test_a_window_that_takes_all_memory(tmp_path: Path) -> None:
    """zstd frames say how much memory unpacking them takes; up to two gigabytes."""
    options = {zstd.CompressionParameter.window_log: 30, zstd.CompressionParameter.content_size_flag: 0}
    packer = zstd.ZstdCompressor(options=options)
    blob = packer.compress(make.tar(member("x", data=bytes(5000)))) + packer.flush()
    made = make.image([b"x"], compress=lambda _: blob, suffix="+zstd")
    async with open_store(tmp_path) as images:
        with pytest.raises(Corrupt, match="decompressed"):
            await finish(images.load(make.layout(tmp_path / "layout", made)))
        assert not leftovers(images)


async def test_an_xz_archive_that_takes_all_memory(tmp_path: Path) -> None:
    """Its header asks for a dictionary of 4 GiB."""
    packed = bytearray(lzma.compress(make.tar(member("x"))))
    size = (packed[12] + 1) * 4
    place = packed.index(b"\x21\x01", 12) + 2  # LZMA2, one byte of properties
    packed[place] = 40
    packed[12 + size - 4 : 12 + size] = struct.pack("<I", zlib.crc32(packed[12 : 12 + size - 4]))
    (tmp_path / "saved").write_bytes(packed)
    async with open_store(tmp_path) as images:
        with pytest.raises(Corrupt, match=r"[Mm]emory"):
            await finish(images.load(tmp_path / "saved"))
        assert not list(images.content.parts.iterdir())


async def test_an_archive_that_is_a_bomb(tmp_path: Path) -> None:
    """The outer compression, of `docker save | gzip`, is no way around either."""
    packer = zstd.ZstdCompressor(level=3)
    piece = bytes(64 * 1024**2)
    (tmp_path / "saved").write_bytes(b"".join(packer.compress(piece) for _ in range(17)) + packer.flush())
    async with open_store(tmp_path) as images:
        with pytest.raises(Corrupt, match="bomb"):
            await finish(images.load(tmp_path / "saved"))
        assert not list(images.content.parts.iterdir())


# -- where it went wrong ------------------------------------------------------------------------------------------
GOOD = make.tar(directory("etc"), member("etc/first", data=b"1" * 3000), member("etc/second", data=b"2" * 3000))


async def said(folder: Path, *layers: bytes, compress: Callable[[bytes], bytes] = make.gz) -> str:
    made = make.image(layers, compress=compress)
    async with open_store(folder) as images:
        with pytest.raises(WharfError) as caught:
            await finish(images.load(make.layout(folder / "layout", made)))
        assert not leftovers(images)
    return str(caught.value)


async def test_a_damaged_layer_names_itself_and_the_entry(tmp_path: Path) -> None:
    second = GOOD.index(b"etc/second")
    cut, flipped = GOOD[: second + 1000], bytearray(GOOD)
    flipped[second] ^= 1
    for number, bad in enumerate((cut, bytes(flipped))):
        words = await said(tmp_path / str(number), GOOD, bad)
        assert "layer 2 of 2 is damaged" in words
        assert ("'etc/second'" if bad is cut else "'etc/first'") in words


async def test_damaged_compression_names_the_entry(tmp_path: Path) -> None:
    noise = make.tar(directory("etc"), member("etc/first", data=os.urandom(3_000_000)), member("etc/second"))
    for number, pack in enumerate((gzip.compress, zstd.compress)):
        words = await said(tmp_path / str(number), noise, compress=lambda data, pack=pack: pack(data)[:1_500_000])  # type: ignore[misc]
        assert "layer 1 of 1 cannot be decompressed" in words
        assert "'etc/first'" in words


async def test_a_damaged_archive_names_the_member(tmp_path: Path) -> None:
    made = make.image([GOOD])
    whole = make.docker_save(tmp_path / "whole", made, [GOOD], ["app:1"]).read_bytes()
    (tmp_path / "cut").write_bytes(whole[:4000])
    async with open_store(tmp_path) as images:
        with pytest.raises(Corrupt, match=r"layer\.tar"):
            await finish(images.load(tmp_path / "cut"))
