"""Archives that can be read in two ways are read as Go's archive/tar reads them: otherwise an image is not the same for
us and for whoever has checked it. What is expected here was measured with podman 5.4 (`podman import`)."""

from __future__ import annotations

import pytest

from core.errors import Corrupt
from core.images import tar
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
