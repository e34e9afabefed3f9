"""An archive file as something that can be read by position: decompressed if need be, and indexed."""

from __future__ import annotations

import bz2
import lzma
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import Corrupt, WharfError
from core.images import tar
from core.images.inflate import DECODING, GZIP, ZSTD, gunzip, unzstd

_READ = 1024 * 1024
_MOST_MEMBERS = 100_000


class _Stopped(WharfError):
    """The caller has lost interest."""


@dataclass(frozen=True)
class Member:
    """A regular file of the archive, or a link to one."""

    offset: int
    size: int
    link: str = ""


def plain_file(fd: int, folder: Path, stopped: Callable[[], bool]) -> int:
    """``fd`` itself where it is a plain seekable file, else a nameless one in ``folder`` with its decompressed content.

    :raises Corrupt: damaged, or something else than an archive
    """
    pieces = _pieces(fd)
    first = next(pieces, b"")
    if first.startswith(GZIP):
        chunks = gunzip(first, pieces)
    elif first.startswith(ZSTD):
        chunks = unzstd(first, pieces)
    elif first.startswith(b"BZh"):
        chunks = _other(bz2.BZ2Decompressor, first, pieces)
    elif first.startswith(b"\xfd7zXZ\0"):
        chunks = _other(lzma.LZMADecompressor, first, pieces)
    elif stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    else:
        chunks = _chain(first, pieces)
    out = os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    try:
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                view = view[os.write(out, view) :]
            if stopped():
                raise _Stopped("stopped")
    except BaseException as error:
        os.close(out)
        # bz2 reports damaged data as an OSError that has no number.
        damaged = isinstance(error, OSError) and error.errno is None
        if damaged or isinstance(error, (*DECODING, lzma.LZMAError)):
            raise Corrupt("the archive cannot be decompressed", str(error), "Make or copy it again") from error
        raise
    return out


def _pieces(fd: int) -> Iterator[bytes]:
    while data := os.read(fd, _READ):
        yield data


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _other(
    kind: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor], first: bytes, rest: Iterator[bytes]
) -> Iterator[bytes]:
    """bzip2 and xz, any number of streams."""
    data, decoder = first, kind()
    while True:
        yield decoder.decompress(data, _READ)
        data = b""
        if decoder.eof:
            data = decoder.unused_data or next(rest, b"")
            if not data:
                return
            decoder = kind()
        elif decoder.needs_input and not (data := next(rest, b"")):
            raise EOFError("the compressed data ends early")


class _File(tar.Stream):
    """A stream over a file that skips by seeking."""

    def __init__(self, fd: int) -> None:
        super().__init__(self._read)
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._next = 0

    def _read(self) -> bytes:
        data = os.pread(self._fd, 64 * 1024, self._next)
        self._next += len(data)
        return data

    @property
    def position(self) -> int:
        return self._next - self.left

    def skip(self, count: int) -> None:
        inside = min(count, self.left)
        super().skip(inside)
        self._next += count - inside
        if self._next > self._size:
            raise tar.broken("the archive ends in the middle of an entry")

    def drain(self) -> None:
        """What follows the archive does not matter."""


def index(fd: int) -> dict[str, Member]:
    """The archive's regular files and links by normalised name; of several with one name the last.

    :raises Corrupt: not a tar
    """
    stream = _File(fd)
    found: dict[str, Member] = {}
    for entry in tar.Reader(stream):
        name = os.fsdecode(entry.name)
        if entry.kind == tar.FILE and entry.extents is None:
            found[name] = Member(stream.position, entry.size)
        elif entry.kind == tar.SYMLINK:
            found[name] = Member(0, 0, posixpath.join(posixpath.dirname(name), os.fsdecode(entry.link)))
        elif entry.kind == tar.LINK:
            found[name] = Member(0, 0, os.fsdecode(entry.link))
        if len(found) > _MOST_MEMBERS:
            raise tar.broken(f"it has more than {_MOST_MEMBERS} members")
        stream.skip(entry.size)
    return found
