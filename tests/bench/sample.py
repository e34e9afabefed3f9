"""Image B: eight layers, some 28,000 entries, half a gigabyte.

Layers 1 to 6 are files of this host; 7 removes and replaces some of them; 8 has what image formats are difficult for.
"""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from backports import zstd

from tests.images import Made, directory, hardlink, image, member, symlink

_LARGEST = 12 << 20  # bytes of one file: a few huge programs would be all there is
# Where from, at most how many entries, at most how many bytes.
SOURCES = (
    (("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/bin", "/usr/sbin"), 4500, 230 << 20),
    (("/usr/share/locale", "/usr/share/zoneinfo", "/usr/share/i18n"), 5000, 90 << 20),
    (("/usr/include", "/usr/share/perl", "/usr/lib/gcc"), 6000, 80 << 20),
    (("/usr/lib/python3", "/usr/share/python3", "/usr/lib/python3.11", "/usr/lib/git-core"), 4500, 60 << 20),
    (("/usr/share/doc", "/usr/share/man"), 5000, 50 << 20),
    (("/usr/share",), 5000, 60 << 20),
)
ODD = 600

Writer = Callable[[tarfile.TarFile], None]


def _archive(*writers: Writer) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for write in writers:
            write(tar)
    return raw.getvalue()


def _host(tops: tuple[str, ...], entries: int, limit: int, seen: set[Path]) -> Writer:
    """Files of the host, with the directories above them."""

    def write(tar: tarfile.TarFile) -> None:
        count = size = 0
        here: set[Path] = set()
        for path in _files(tops):
            if path in seen or (size_of := path.lstat().st_size) > _LARGEST:
                continue
            size += 0 if path.is_symlink() else size_of
            if count >= entries or size > limit:
                return
            for parent in reversed(path.parents[:-1]):
                if parent not in here:
                    here.add(parent)
                    tar.add(parent, recursive=False)
                    count += 1
            tar.add(path, recursive=False)
            seen.add(path)
            count += 1

    return write


def _files(tops: tuple[str, ...]) -> Iterator[Path]:
    for top in tops:
        for folder, folders, names in os.walk(top):
            folders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                if path.is_symlink() or path.is_file():
                    yield path


def _changes(seen: set[Path]) -> Writer:
    """Whiteouts, opaque directories, directories that become links and the other way."""

    def write(tar: tarfile.TarFile) -> None:
        docs = sorted({path.parent for path in seen if path.parents[1] == Path("/usr/share/doc")})[:300]
        for number, folder in enumerate(docs):
            inside = str(folder).lstrip("/")
            if number % 3 == 0:
                members = [member(f"{folder.parent}/.wh.{folder.name}".lstrip("/"))]
            elif number % 3 == 1:
                members = [directory(inside), member(f"{inside}/.wh..wh..opq"), member(f"{inside}/new", data=b"new")]
            else:
                members = [symlink(inside, "../locale")]
            for info, data in members:
                tar.addfile(info, io.BytesIO(data))

    return write


def _odd(tar: tarfile.TarFile) -> None:
    capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    tar.addfile(directory("odd")[0])
    for number in range(ODD):
        place = f"odd/{number % 40}"
        if number < 40:
            tar.addfile(directory(place, mode=0o2775 if number % 2 else 0o1777, mtime=1_500_000_000.25)[0])
        name = f"{place}/{number}"
        members = [
            member(name, data=os.urandom(512) * 4, mode=0o4755, uid=3_000_000, gid=7, mtime=-5.5),
            hardlink(f"{name}-hard", name),
            symlink(f"{name}-link", f"../../{name}"),
            member(f"{name}-xattr", data=b"x" * number, pax_headers={"SCHILY.xattr.user.colour": "blue" * 9}),
            member(f"{name}-cap", data=b"c", pax_headers={"SCHILY.xattr.security.capability": capability}),
            member(f"{name}-fifo", tarfile.FIFOTYPE),
            member(f"{name}-null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
            member(f"{name}-new\nline"),
        ]
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    long = "odd"
    for _ in range(3):
        long += "/" + "n" * 190
        tar.addfile(directory(long)[0])
    tar.addfile(*_content(member(f"{long}/end", data=b"deep")))


def _content(pair: tuple[tarfile.TarInfo, bytes]) -> tuple[tarfile.TarInfo, io.BytesIO]:
    return pair[0], io.BytesIO(pair[1])


def layers() -> list[bytes]:
    """B's archives, lowest first."""
    seen: set[Path] = set()
    return [*(_archive(_host(*source, seen)) for source in SOURCES), _archive(_changes(seen)), _archive(_odd)]


def _gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(6, wbits=31)
    return packer.compress(data) + packer.flush()


def made(archives: list[bytes], kind: str) -> Made:
    """An image of these layers; ``kind`` is ``gzip`` or ``zstd``."""
    pack: Callable[[bytes], bytes] = _gzip if kind == "gzip" else lambda data: zstd.compress(data, 3)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        packed = iter(list(pool.map(pack, archives)))
    return image(archives, compress=lambda _: next(packed), suffix=f"+{kind}")
