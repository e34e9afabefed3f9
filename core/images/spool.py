"""An archive file as something that can be read by position: decompressed if need be, and indexed."""

from __future__ import annotations

import bz2
import lzma
import os
import posixpath
import select
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import Corrupt
from core.images import tar
from core.images.inflate import DECODING, GZIP, ZSTD, gunzip, refuse_bomb, unzstd

_READ = 1024 * 1024
_PACKED = (GZIP, ZSTD, b"BZh", b"\xfd7zXZ\0")
_PATIENCE = 200  # milliseconds between two looks whether anybody still waits
_MOST_MEMBERS = 100_000
_XZ_MEMORY = 512 * 1024 * 1024  # bytes; xz -9 takes 65 MiB, and a header may ask for 4 GiB


@dataclass(frozen=True)
class Member:
    """A regular file of the archive, or a link to one."""

    offset: int
    size: int
    link: str = ""


def plain_file(fd: int, folder: Path, watch: Callable[[int], None]) -> int:
    """``fd`` itself where it is a plain seekable file, else a nameless one in ``folder`` with its decompressed content.

    :param watch: told how many bytes of ``fd`` were read; what it raises ends the work
    :raises Corrupt: damaged, or something else than an archive
    """

    pieces = _Pieces(fd, lambda: watch(pieces.taken))
    first = next(pieces, b"")
    if first.startswith(GZIP):
        chunks = gunzip(first, pieces)
    elif first.startswith(ZSTD):
        chunks = unzstd(first, pieces)
    elif (other := unusual(first)) is not None:
        chunks = _other(other, first, pieces)
    elif stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    else:
        chunks = _chain(first, pieces)
    out = os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    size = 0
    try:
        for chunk in chunks:
            size += len(chunk)
            refuse_bomb("the archive", pieces.taken, size)
            view = memoryview(chunk)
            while view:
                view = view[os.write(out, view) :]
            watch(pieces.taken)
    except BaseException as error:
        os.close(out)
        # bz2 reports damaged data as an OSError that has no number.
        damaged = isinstance(error, OSError) and error.errno is None
        if damaged or isinstance(error, (*DECODING, lzma.LZMAError)):
            raise _undecodable(error) from error
        raise
    return out


def is_tar(first: bytes) -> bool:
    """Whether a file that begins like this can be a tar; an empty one has no members."""
    return not first or first.startswith(_PACKED) or tar.begins(first)


def no_tar(name: str) -> Corrupt:
    return Corrupt(f"{name} is no tar archive", "it does not begin like one", "Check which file you named")


class _Pieces:
    """The bytes of a file or pipe; ``taken`` of them so far.

    :param look: called while nothing comes; raises if nobody waits any more
    """

    def __init__(self, fd: int, look: Callable[[], None]) -> None:
        self._fd = fd
        self._look = look
        self._poll: select.poll | None = None
        self.taken = 0
        if not stat.S_ISREG(os.fstat(fd).st_mode):  # the other end of a pipe may be silent for ever
            self._poll = select.poll()
            self._poll.register(fd, select.POLLIN)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        while self._poll is not None and not self._poll.poll(_PATIENCE):
            self._look()
        data = os.read(self._fd, _READ)
        if not data:
            raise StopIteration
        self.taken += len(data)
        return data


Decompressor = bz2.BZ2Decompressor | lzma.LZMADecompressor


def unusual(first: bytes) -> Callable[[], Decompressor] | None:
    """What decompresses a file that begins like this, where registries do not know the format: bzip2 and xz."""
    if first.startswith(b"BZh"):
        return bz2.BZ2Decompressor
    if first.startswith(b"\xfd7zXZ\0"):
        return lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
    return None


def for_layer(fd: int, look: Callable[[], None], name: str = "the file") -> Iterator[bytes]:
    """A tar in a form that a layer may have: plain, gzip and zstd as they are, others decompressed.

    :param name: of the file, for errors
    :param look: called while nothing comes; raises if nobody waits any more
    :raises Corrupt: it cannot be decompressed, or is a bomb
    """
    pieces = _Pieces(fd, look)
    first = next(pieces, b"")
    while first and len(first) < 8 and (more := next(pieces, b"")):
        first += more  # a pipe may give it in drops
    other, size = unusual(first), 0
    while first and not first.startswith(_PACKED) and len(first) < tar.BLOCK and (more := next(pieces, b"")):
        first += more
    if not is_tar(first):
        raise no_tar(name)
    try:
        for piece in _chain(first, pieces) if other is None else _other(other, first, pieces):
            size += len(piece)
            refuse_bomb("the archive", pieces.taken, size)
            yield piece
    except (OSError, EOFError, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _undecodable(error) from error


def _undecodable(error: BaseException) -> Corrupt:
    return Corrupt("the archive cannot be decompressed", str(error), "Make or copy it again")


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _other(kind: Callable[[], Decompressor], first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
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
            raise tar.broken("the archive ends too early, in the middle of an entry")

    def drain(self) -> None:
        """What follows the archive does not matter."""


def index(fd: int) -> dict[str, Member]:
    """The archive's regular files and links by normalised name; of several with one name the last.

    :raises Corrupt: not a tar
    """
    stream = _File(fd)
    try:
        return _index(stream)
    except Corrupt as error:
        found = tar.located(error, stream.entry)
        raise Corrupt("the archive is damaged", found.why, "Copy it again, or make it anew") from error


def _index(stream: _File) -> dict[str, Member]:
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
