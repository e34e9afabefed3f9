"""Archives that can be read in two ways are read as Go's archive/tar reads them: otherwise an image is not the same for
us and for whoever has checked it. What is expected here was measured with podman 5.4 (`podman import`)."""

from __future__ import annotations

import tarfile

import pytest

from core.errors import Corrupt
from core.images import tar
from tests import images as make
from tests.engine.test_images_refused import END, pax, raw

Found = list[tuple[bytes, int, bytes]]


def long(name: bytes, kind: bytes = b"L") -> bytes:
    return raw(b"L", kind=kind, size=b"%011o" % len(name)) + name.ljust(-(-len(name) // 512) * 512, b"\0")


GLOBAL = raw(b"g", kind=b"g", size=b"%011o" % 9) + b"9 a=bcde\n".ljust(512, b"\0")
MAP = ((b"GNU.sparse.name", b"sparse"), (b"GNU.sparse.size", b"100"), (b"GNU.sparse.map", b"10,5"))
FIVE = raw(b"own", size=b"%011o" % 5) + b"12345".ljust(512, b"\0")
OWN: Found = [(b"own", 0, b"")]
CASES: dict[str, tuple[bytes, Found]] = {
    "GNU's name counts for more than pax's": (
        long(b"gnu") + pax((b"path", b"pax")) + raw(b"own"), [(b"gnu", 0, b"")],
    ),
    "of two pax headers the last counts alone": (
        pax((b"path", b"first")) + pax((b"mtime", b"5")) + raw(b"own"), OWN,
    ),
    "a global header ends pax's": (pax((b"path", b"pax")) + GLOBAL + raw(b"own"), OWN),
    "a global header ends GNU's": (long(b"gnu") + GLOBAL + raw(b"own"), OWN),
    "the name of a sparse file that is none": (pax((b"GNU.sparse.name", b"sparse")) + raw(b"own"), OWN),
    "a sparse format that nobody knows": (
        pax((b"GNU.sparse.major", b"2"), (b"GNU.sparse.minor", b"0"), *MAP) + FIVE, [(b"own", 5, b"")],
    ),
    "half the version of a sparse format": (pax((b"GNU.sparse.major", b"0"), *MAP) + FIVE, [(b"own", 5, b"")]),
    "a sparse file": (pax(*MAP) + FIVE, [(b"sparse", 5, b"")]),
    "zeroes before a number": (
        raw(b"own", size=b"\0\0\0\0\0\0\0\x00001\0") + b"x".ljust(512, b"\0") + raw(b"second"),
        [(b"own", 1, b""), (b"second", 0, b"")],
    ),
    "an empty long name is none, nor for what follows": (
        long(b"", b"K") + raw(b"own") + raw(b"second", kind=b"2", link=b"own"),
        [(b"own", 0, b""), (b"second", 0, b"own")],
    ),
    "an empty record leaves the header's": (
        pax((b"linkpath", b""), (b"uid", b""), (b"size", b""), (b"mtime", b"")) + raw(b"own", kind=b"2", link=b"there"),
        [(b"own", 0, b"there")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_ambiguous_is_read_as_go_reads_it(name: str) -> None:
    data, expected = CASES[name]
    chunks = iter([data + END, b""])
    stream = tar.Stream(lambda: next(chunks))
    found: Found = []
    for entry in tar.Reader(stream):
        found.append((entry.name, entry.size, entry.link))
        stream.skip(entry.size)
    assert found == expected


def test_a_sparse_file_without_a_map_is_refused() -> None:
    version = ((b"GNU.sparse.major", b"0"), (b"GNU.sparse.minor", b"1"), (b"GNU.sparse.size", b"1"))
    chunks = iter([pax(*version) + raw(b"own") + END, b""])
    with pytest.raises(Corrupt, match="map is missing"):
        list(tar.Reader(tar.Stream(lambda: next(chunks))))


def _everything(data: bytes) -> list[tuple[object, ...]]:
    """All that the reader says about each entry; the error, where there is one."""
    chunks = iter([data, b""])
    stream = tar.Stream(lambda: next(chunks))
    found: list[tuple[object, ...]] = []
    try:
        for entry in tar.Reader(stream):
            found.append(tuple(getattr(entry, name) for name in tar.Entry.__slots__))
            stream.skip(entry.size)
    except Corrupt as error:
        found.append((error.why,))
    return found


def test_ordinary_entries_are_read_as_the_long_way_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("f", "d/f", "d/.wh.f", "./f", ".f", "d//f", "../f", "/f", "d/", "n" * 100, "d/" * 60 + "f", "é", "m" * 101)
    kinds = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)
    owners = ({}, {"uid": 1000, "gid": 7, "mode": 0o4755}, {"uid": 2**32 - 2}, {"uid": 2**32 - 1}, {"gid": 2**33})
    times = (0, 1_700_000_000, 1_700_000_000.25, -1.5, 4e9, 5e9, 8e9, 9e9 + 0.5)
    archives = []
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        for name in names:
            archives += [make.tar(make.member(name, kind, linkname="to"), form=form) for kind in kinds]
        archives += [make.tar(make.member("f", data=b"x" * size), form=form) for size in (1, 511, 512, 513)]
        archives += [make.tar(make.member("f", **fields), form=form) for fields in owners]
        archives += [make.tar(make.member("f", mtime=time), form=form) for time in times]
    sizes = (b"00000000008\0", b"000000000009", b"00000000001 ", b"     000001 ", b"0000000_001\0", b"+0000000001\0")
    archives += [raw(b"f", size=size) + bytes(512 + 1024) for size in sizes]
    texts = (b"1700000000.5", b"1700000000", b"", b"abc", b"1\n0.5", b"5000000000.5", b"+1", b"-1.25", b"1.0000000001")
    archives += [pax((b"mtime", text)) + raw(b"f") + END for text in texts]
    found = [_everything(archive) for archive in archives]
    assert sum(len(entries) == 1 and len(entries[0]) > 1 for entries in found) > len(archives) / 2
    monkeypatch.setattr(tar.Reader, "_ordinary", lambda *_: None)
    assert found == [_everything(archive) for archive in archives]
