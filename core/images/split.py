"""A layer's archive without what can be read from its files: with them it can be rebuilt, to the byte.

A layer's digest is that of its tar, and no tar writer makes the bytes of another one. So headers, padding and whatever
follows the end are kept as they came (:class:`Recorder`), and the content of regular files is read from ``diff/``, or
from ``aside/`` where a later entry of the same archive has replaced the file.

``layers/<id>/split.zst``::

    zstd frame      all bytes that are no file's content, one after another
    zstd frame      a table (core.images.columns): before = bytes of the first frame up to a content, length = of that
                    content, place = its file relative to the layer's folder, sparse = row, offset, length of extents
    16 bytes        offset of the table (u64), magic
"""

# No dataclasses and no typing: the unpack server loads this.

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from array import array
from collections.abc import Callable, Generator, Iterator

from backports import zstd

from core.errors import Corrupt, NotFound
from core.images import columns, index, tar
from core.images.places import INDEX, SPLIT
from core.kernel.resolve import BENEATH, NO_SYMLINKS, NO_XDEV, open_in_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

_TAIL = struct.Struct("<Q8s")
_MAGIC = b"whsplit1"
_SET = zstd.CompressionParameter
# Headers are mostly zeroes: a higher level gains a tenth and takes twice the time.
_OPTIONS: dict[int, int] = {_SET.compression_level: 1, _SET.checksum_flag: 1}
_FLUSH = 1024 * 1024
_READ = 256 * 1024
_CHUNK = 1024 * 1024  # bytes that rebuild() gives at a time, at least
_OPEN_DIRS = 64
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FIX = "Mend the layer with: wharf fsck --repair"


class Recorder(tar.Stream):
    """A stream that keeps what is read of it, but for what :meth:`content` has told before.

    Whatever lies between two contents is kept as one piece: a header, what extends it and padding are up to six.

    :param folder: descriptor of the layer's folder, where both files are made
    """

    def __init__(self, following: Callable[[], bytes], folder: int) -> None:
        super().__init__(following)
        self._folder = folder
        self._fd = os.open(SPLIT, _NEW, 0o600, dir_fd=folder)
        self._compressor = zstd.ZstdCompressor(options=_OPTIONS)
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._since = 0  # bytes that were kept since the last content
        self._start = 0  # of the chunk at hand in the stream
        self._kept = 0  # place in the stream up to which everything is kept, or content
        self._contents = array("Q")  # of each: row of the index, bytes before it, length
        self._sparse = array("Q")

    def _advance(self) -> int:
        self._keep()
        if self._held_bytes > _FLUSH:
            self._flush()
        self._start += len(self._chunk)
        return super()._advance()

    def _keep(self) -> None:
        """What has been read of the chunk and is no content."""
        first = self._kept - self._start
        if (size := self._at - first) <= 0:
            return
        self._held.append(self._chunk[first : self._at])
        self._kept += size
        self._since += size
        self._held_bytes += size

    def _flush(self) -> None:
        write(self._fd, self._compressor.compress(b"".join(self._held)))
        self._held.clear()
        self._held_bytes = 0

    def content(self, row: int, length: int, extents: list[tuple[int, int]] | None) -> None:
        """The next ``length`` bytes are the content of the file of ``row`` of the index."""
        if not length:
            return
        self._keep()
        self._kept += length
        if extents is not None:
            number = len(self._contents) // 3
            for offset, size in extents:
                self._sparse.extend((number, offset, size))
        self._contents.extend((row, self._since, length))
        self._since = 0

    def small(self, row: int, length: int) -> memoryview | None:
        """The content, at least a byte, of the file of ``row``, as after :meth:`content`, where it lies in one chunk;
        otherwise None, and nothing is taken. Most files are such."""
        at, chunk = self._at, self._chunk
        if (end := at + length) > len(chunk):
            return None
        first = self._kept - self._start
        if (size := at - first) > 0:
            self._held.append(chunk[first:at])
            self._held_bytes += size
        self._kept = self._start + end
        self._contents.extend((row, self._since + size, length))
        self._since = 0
        self._at = end
        return self._view[at:end]

    def finish(self, writer: index.Writer, implied: list[bytes]) -> set[bytes]:
        """Write the rest and the index.

        :param implied: directories that the archive uses without holding them
        :returns: the numbers of the folders aside that are needed
        """
        rows, before, lengths = (self._contents[column::3] for column in range(3))
        places = writer.places(rows)
        self._flush()
        write(self._fd, self._compressor.flush())
        table = columns.pack(
            {
                "before": before.tobytes(),
                "length": lengths.tobytes(),
                "place": b"\0".join(places),
                "sparse": self._sparse.tobytes(),
            }
        )
        offset = os.lseek(self._fd, 0, os.SEEK_CUR)
        write(self._fd, table + _TAIL.pack(offset, _MAGIC))
        os.close(self._fd)
        fd = os.open(INDEX, _NEW, 0o600, dir_fd=self._folder)
        try:
            write(fd, writer.pack(implied))
        finally:
            os.close(fd)
        return {path.split(b"/", 2)[1] for path in places if path.startswith(b"aside/")}


def write(fd: int, data: bytes | memoryview) -> None:
    """All of ``data``. :raises OSError:"""
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, memoryview(data)[done:])


def exists(folder: Path) -> bool:
    """Whether the archive of the layer in ``folder`` can be rebuilt; older versions kept nothing for it."""
    return (folder / SPLIT).exists()


def rebuild(folder: Path) -> Generator[bytes, None, None]:
    """The exact archive that the layer in ``folder`` was unpacked from, about a megabyte at a time.

    Nothing is verified: whoever needs to know hashes what comes. Close the iterator if you do not use it up.

    :raises NotFound: the layer was unpacked by a version that kept no account of its archive
    :raises Corrupt: a file is missing, shorter than it was, or something else by now; ``why`` names it
    """
    yield from rebuild_from(os.open(folder, _DIRECTORY), folder.name[:12], close=True)


def size(folder: Path) -> int:
    """About how many bytes :func:`rebuild` gives; no file is read. :raises WharfError: as it does"""
    with _Split(os.open(folder, _DIRECTORY), folder.name[:12]) as split:
        return split.size()


def rebuild_from(folder: int, name: str, *, close: bool = False) -> Iterator[bytes]:
    """:func:`rebuild` of an open folder.

    :param name: of the layer, for the errors
    :param close: ``folder`` in the end
    """
    with _Split(folder if close else os.dup(folder), name) as split:
        held: list[bytes] = []
        size = 0
        for piece in split.pieces():
            held.append(piece)
            size += len(piece)
            if size >= _CHUNK:
                yield b"".join(held)
                held, size = [], 0
        if held:
            yield b"".join(held)


class _Split:
    """An open split archive."""

    def __init__(self, folder: int, name: str) -> None:
        self._name = name
        self._dirs: dict[bytes, int] = {}
        self._left = b""  # of the first frame: decompressed, and not given yet
        self._root = folder
        with contextlib.suppress(BlockingIOError):  # its maker reads it back before it is published
            fcntl.flock(self._root, fcntl.LOCK_SH | fcntl.LOCK_NB)  # nobody deletes it meanwhile: Layers.hold
        try:
            self._fd = os.open(SPLIT, _FILE, dir_fd=self._root)
        except OSError as error:
            os.close(self._root)
            if error.errno != errno.ENOENT:
                raise
            raise NotFound(
                f"the archive of layer {self._name} cannot be made again",
                "an older wharf unpacked it and kept no account of it",
                "Fetch it again with: wharf fsck --repair",
            ) from None
        self._frame = _frame(self._fd)  # closed with it

    def __enter__(self) -> _Split:
        return self

    def __exit__(self, *_: object) -> None:
        self._frame.close()
        for fd in (*self._dirs.values(), self._fd, self._root):
            os.close(fd)

    def size(self) -> int:
        """Bytes of the archive up to its last member's content, which is nearly all."""
        try:
            table = self._table()
            return sum(array("Q", table["before"])) + sum(array("Q", table["length"]))
        except (zstd.ZstdError, struct.error, ValueError) as error:
            raise self._damaged(f"its {SPLIT}: {error}") from error

    def pieces(self) -> Iterator[bytes]:
        try:
            table = self._table()
            places = table["place"].split(b"\0") if table["place"] else []
            extents = _extents(table["sparse"])
            rows = zip(array("Q", table["before"]), array("Q", table["length"]), places, strict=True)
            for row, (before, length, place) in enumerate(rows):
                yield from self._raw(before)
                yield from self._content(place, extents.get(row) or [(0, length)])
            yield self._left
            yield from self._frame
        except (zstd.ZstdError, struct.error, ValueError, EOFError) as error:
            raise self._damaged(f"its {SPLIT}: {error}") from error

    def _damaged(self, why: str) -> Corrupt:
        return Corrupt(f"the layer {self._name} is damaged", why, _FIX)

    def _table(self) -> dict[str, bytes]:
        size = os.fstat(self._fd).st_size
        offset, magic = _TAIL.unpack(os.pread(self._fd, _TAIL.size, max(0, size - _TAIL.size)))
        if magic != _MAGIC or offset > size:
            raise ValueError("it is cut short")
        return columns.unpack(os.pread(self._fd, size - _TAIL.size - offset, offset))

    def _raw(self, count: int) -> Iterator[bytes]:
        while count > len(self._left):
            yield self._left
            count -= len(self._left)
            self._left = next(self._frame, b"")
            if not self._left:
                raise EOFError("it ends early")
        yield self._left[:count]
        self._left = self._left[count:]

    def _content(self, place: bytes, extents: list[tuple[int, int]]) -> Iterator[bytes]:
        fd = self._open(place)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise self._damaged(f"{os.fsdecode(place)!r} is no file any more")
            for offset, length in extents:
                while length:
                    data = os.pread(fd, min(length, _CHUNK), offset)
                    if not data:
                        raise self._damaged(f"{os.fsdecode(place)!r} is shorter than it was")
                    yield data
                    offset += len(data)
                    length -= len(data)
        finally:
            os.close(fd)

    def _open(self, place: bytes) -> int:
        """The file; no link is followed, whatever the layer has been made into."""
        head, _, leaf = place.rpartition(b"/")
        try:
            fd = self._dirs.get(head)
            if fd is None:
                if len(self._dirs) >= _OPEN_DIRS:
                    os.close(self._dirs.pop(next(iter(self._dirs))))
                resolve = BENEATH | NO_SYMLINKS | NO_XDEV
                fd = self._dirs[head] = open_in_root(self._root, os.fsdecode(head), _DIRECTORY, resolve=resolve)
            try:
                return os.open(leaf, _FILE | os.O_NOATIME, dir_fd=fd)
            except PermissionError:  # it belongs to an id that this user namespace lacks
                return os.open(leaf, _FILE, dir_fd=fd)
        except OSError as error:
            raise self._damaged(f"{os.fsdecode(place)!r} cannot be read: {error.strerror}") from error


def _frame(fd: int) -> Generator[bytes, None, None]:
    """The first frame, decompressed."""
    decoder, at = zstd.ZstdDecompressor(), 0
    while not decoder.eof:
        data = b""
        if decoder.needs_input:
            data = os.pread(fd, _READ, at)
            at += len(data)
            if not data:
                raise EOFError("it is cut short")
        if chunk := decoder.decompress(data, _CHUNK):
            yield chunk


def _extents(data: bytes) -> dict[int, list[tuple[int, int]]]:
    found: dict[int, list[tuple[int, int]]] = {}
    numbers = array("Q", data)
    for row, offset, size in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True):
        found.setdefault(row, []).append((offset, size))
    return found
