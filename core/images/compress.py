"""Compress a layer on all processors while it is read and hashed.

gzip as pigz makes it: blocks of a fixed size, compressed side by side, in one stream; zstd's own workers. Neither the
number of processors nor the sizes of the pieces show in the result, so that the same layer is the same blob wherever it
is made. Measured for 250 MB on two processors: isal 1.1 s, zstd 0.9 s, zlib 6 s.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO

from backports import zstd
from isal import igzip_threaded

from core.errors import InvalidArgument, WharfError

GZIP, ZSTD, PLAIN = "gzip", "zstd", "none"
METHODS = (GZIP, ZSTD, PLAIN)
_SUFFIXES = {GZIP: "+gzip", ZSTD: "+zstd", PLAIN: ""}
_BLOCK = 1024 * 1024  # bytes of gzip's blocks
_GZIP_LEVEL, _ZSTD_LEVEL = 2, 3
_MOST_THREADS = 8
_QUEUE = 8  # pieces that wait to be hashed


class Stopped(WharfError):
    """The caller has lost interest."""


@dataclass(frozen=True)
class Packed:
    """Digest and size in bytes of what was written, and of the plain content."""

    digest: str
    size: int
    plain_digest: str
    plain_size: int


def check_method(method: str) -> None:
    """:raises InvalidArgument:"""
    if method not in METHODS:
        raise InvalidArgument(f"unknown compression {method!r}", f"it is one of {', '.join(METHODS)}", "Name one")


def media_type(method: str) -> str:
    """Of a layer (image-spec, layer.md)."""
    return f"application/vnd.oci.image.layer.v1.tar{_SUFFIXES[method]}"


class Hasher(threading.Thread):
    """SHA-256 beside what makes the data: hashlib lets go of the interpreter's lock."""

    def __init__(self) -> None:
        super().__init__(name="hash", daemon=True)
        self.size = 0
        self._hash = hashlib.sha256()
        self._queue: queue.Queue[bytes] = queue.Queue(_QUEUE)
        self.start()

    def put(self, data: bytes) -> None:
        if data:
            self.size += len(data)
            self._queue.put(data)

    def end(self) -> str:
        """``sha256:…`` of all that was put; call it always: it ends the thread."""
        if self.is_alive():
            self._queue.put(b"")
            self.join()
        return f"sha256:{self._hash.hexdigest()}"

    def run(self) -> None:
        while data := self._queue.get():
            self._hash.update(data)


class _Out:
    """The blob: a descriptor, hashed as it is written. Has what the compressors ask of a file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data)
        self._hash.update(view)
        self.size += len(view)
        while view:
            view = view[os.write(self._fd, view) :]
        return len(data)

    def read(self, size: int = -1) -> bytes:
        raise OSError("it is for writing")

    def flush(self) -> None:
        """Nothing is held back."""

    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


def pack(pieces: Iterable[bytes], method: str, fd: int, watch: Callable[[int], None] | None = None) -> Packed:
    """Write ``pieces`` to ``fd``, compressed.

    :param watch: told how many plain bytes have been read; what it raises ends the work
    :raises OSError:
    """
    plain, out = Hasher(), _Out(fd)
    try:
        _METHODS[method](_watched(pieces, plain, watch), out)
    finally:
        digest = plain.end()
    return Packed(out.digest(), out.size, digest, plain.size)


def _watched(pieces: Iterable[bytes], plain: Hasher, watch: Callable[[int], None] | None) -> Iterator[bytes]:
    for piece in pieces:
        plain.put(piece)
        yield piece
        if watch is not None:
            watch(plain.size)


def _blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in blocks of one size: where they are cut decides what comes out."""
    rest = bytearray()
    for piece in pieces:
        rest += piece
        at = 0
        while len(rest) - at >= _BLOCK:
            yield bytes(rest[at : at + _BLOCK])
            at += _BLOCK
        del rest[:at]
    if rest:
        yield bytes(rest)


def _threads() -> int:
    return min(_MOST_THREADS, len(os.sched_getaffinity(0)))


def _gzip(pieces: Iterable[bytes], out: _Out) -> None:
    opened: IO[bytes] = igzip_threaded.open(  # type: ignore[no-untyped-call]
        out, "wb", _GZIP_LEVEL, threads=_threads(), block_size=_BLOCK
    )
    with opened as file:
        for block in _blocks(pieces):
            file.write(block)


def _zstd(pieces: Iterable[bytes], out: _Out) -> None:
    # Always with workers: without any the frame is cut otherwise.
    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: _ZSTD_LEVEL,
        zstd.CompressionParameter.nb_workers: _threads(),
        zstd.CompressionParameter.checksum_flag: 1,
    }
    compressor = zstd.ZstdCompressor(options=options)
    for block in _blocks(pieces):
        out.write(compressor.compress(block))
    out.write(compressor.flush())


def _plain(pieces: Iterable[bytes], out: _Out) -> None:
    for piece in pieces:
        out.write(piece)


_METHODS: dict[str, Callable[[Iterable[bytes], _Out], None]] = {GZIP: _gzip, ZSTD: _zstd, PLAIN: _plain}
