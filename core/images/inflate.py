"""From a blob, perhaps still growing, to the bytes of a tar archive: inflate and hash, in a thread of its own.

isal, zstd and hashlib let go of the interpreter's lock while they work, so this runs beside the code that makes files.
"""

# No dataclasses and no typing in what the unpack server loads: they take as long to import as all else together.

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterator

from backports import zstd
from isal import isal_zlib

from core.errors import Corrupt, Unsupported, WharfError

_READ = 256 * 1024  # bytes of the blob at a time
_CHUNK = 512 * 1024  # bytes of the archive at a time: what is inflated is hashed while the cache still has it
_QUEUE = 4  # chunks between the two threads
_MOST_BYTES = 256 * 1024**3  # of one unpacked layer
# Zeroes deflate 1000:1, so a high ratio alone proves nothing: it is refused where much has come of it already.
_MOST_RATIO, _RATIO_FROM = 200, 1024**3
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ISAL: type[Exception] = isal_zlib.error  # type: ignore[assignment] # its stub says that it is an instance
DECODING = (_ISAL, zstd.ZstdError, EOFError)
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}


class Source:
    """``size`` bytes from ``offset`` of ``fd``. ``wake`` is a pipe's read end while the file still grows, else -1:
    a byte in it says that there is more, its end that there never will be. ``size`` -1: ``fd`` is a pipe, to be read to
    its end."""

    def __init__(self, fd: int, offset: int, size: int, wake: int = -1) -> None:
        self.fd = fd
        self.offset = offset
        self.size = size
        self.wake = wake

    def pieces(self) -> Iterator[bytes]:
        """The content as it arrives.

        :raises Corrupt: it ends early
        """
        done, ended = 0, self.wake < 0
        if self.size < 0:
            while data := os.read(self.fd, _READ):
                yield data
        while done < self.size:
            data = os.pread(self.fd, min(_READ, self.size - done), self.offset + done)
            done += len(data)
            if data:
                yield data
            elif ended:
                raise Corrupt("the layer is incomplete", f"{done} of {self.size} bytes are there", "Try again")
            else:
                ended = not os.read(self.wake, 65536)


class Digests:
    """What was read: both digests as ``sha256:…``, and how much."""

    def __init__(self) -> None:
        self.blob = ""
        self.archive = ""
        self.blob_size = 0
        self.archive_size = 0


class Inflater(threading.Thread):
    """Feeds :meth:`next`; :attr:`digests` is complete once that has given ``b""``."""

    def __init__(self, source: Source, progress: Callable[[int], None]) -> None:
        super().__init__(name="inflate", daemon=True)
        self.digests = Digests()
        self._source = source
        self._progress = progress
        self._queue: queue.Queue[bytes | WharfError | OSError] = queue.Queue(_QUEUE)

    def next(self) -> bytes:
        """The next chunk, ``b""`` at the end.

        :raises Corrupt: the blob is damaged, cut short, or a bomb
        """
        item = self._queue.get()
        if isinstance(item, bytes):
            return item
        raise item

    def run(self) -> None:
        try:
            self._work()
        except DECODING as error:
            self._queue.put(Corrupt("the layer cannot be decompressed", str(error), "Pull the image again"))
        except (WharfError, OSError) as error:
            self._queue.put(error)
        else:
            self._queue.put(b"")

    def _work(self) -> None:
        blob = hashlib.sha256()
        pieces = self._hashed(blob)
        first = next(pieces, b"")
        decoder = _decoder(first)
        archive = blob if decoder is _plain else hashlib.sha256()
        for chunk in decoder(first, pieces):
            if archive is not blob:
                archive.update(chunk)
            self.digests.archive_size += len(chunk)
            self._check_bomb()
            self._queue.put(chunk)
        for _ in pieces:
            pass  # what follows the compressed stream counts for the blob's digest
        self.digests.blob = f"sha256:{blob.hexdigest()}"
        self.digests.archive = f"sha256:{archive.hexdigest()}"

    def _hashed(self, digest: hashlib._Hash) -> Iterator[bytes]:
        for piece in self._source.pieces():
            digest.update(piece)
            self.digests.blob_size += len(piece)
            self._progress(self.digests.blob_size)
            yield piece

    def _check_bomb(self) -> None:
        refuse_bomb("the layer", self.digests.blob_size, self.digests.archive_size)


def refuse_bomb(what: str, taken: int, out: int) -> None:
    """:raises Corrupt: ``out`` bytes are more than anything honest makes of ``taken``"""
    if out > _MOST_BYTES or (out > _RATIO_FROM and out > _MOST_RATIO * taken):
        raise Corrupt(
            f"{what} is a decompression bomb", f"{taken} bytes have become more than {out}", "Do not use this image"
        )


Decoder = Callable[[bytes, Iterator[bytes]], Iterator[bytes]]


def _decoder(first: bytes) -> Decoder:
    """By the first bytes, not by the media type, which is often wrong."""
    if first.startswith(GZIP):
        return gunzip
    if first.startswith(ZSTD) or (first[1:4] == b"\x2a\x4d\x18" and first[0] & 0xF0 == 0x50):
        return unzstd
    for magic, name in _OTHERS.items():
        if first.startswith(magic):
            raise Unsupported(f"layers compressed with {name} are not supported", "registries use gzip or zstd", "")
    return _plain


def _plain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def gunzip(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    """RFC 1952: any number of members; zeroes may pad the end."""
    data, decoder = first, isal_zlib.decompressobj(wbits=31)
    while True:
        chunk = decoder.decompress(data, _CHUNK)
        if chunk:
            yield chunk
        if decoder.eof:
            data = decoder.unused_data.lstrip(b"\0")
            while not data:
                data = next(rest, b"")
                if not data:
                    return
                data = data.lstrip(b"\0")
            if not GZIP.startswith(data[:2]):
                raise EOFError("something that is not gzip follows the compressed data")
            decoder = isal_zlib.decompressobj(wbits=31)
            continue
        data = decoder.unconsumed_tail
        if not data and len(chunk) < _CHUNK:
            data = next(rest, b"")
            if not data:
                raise EOFError("the compressed data ends early")


def unzstd(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    """RFC 8878: any number of frames, skippable ones among them."""
    data, decoder = first, zstd.ZstdDecompressor()
    while True:
        chunk = decoder.decompress(data, _CHUNK)
        data = b""
        if chunk:
            yield chunk
        if decoder.eof:
            data = decoder.unused_data or next(rest, b"")
            if not data:
                return
            decoder = zstd.ZstdDecompressor()
        elif decoder.needs_input:
            data = next(rest, b"")
            if not data:
                raise EOFError("the compressed data ends early")
