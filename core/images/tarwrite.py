"""A tar writer for layers and exports: the other direction of :mod:`core.images.tar`.

The same tree gives the same bytes, whoever writes it and whenever: members are sorted by the bytes of their names,
times of access, inode numbers and names of users stay out of it. Everything that a layer can say is in it: nanoseconds,
times before 1970, ids beyond 2 million, names that are not UTF-8, extended attributes, devices, hard links, holes.

Formats: ustar; pax records where that cannot hold a value (POSIX.1-2017); holes by GNU's pax format 1.0 (GNU tar
manual, "Sparse Formats"); whiteouts as image-spec's layer.md has them. A hard link repeats the attributes of its file:
Docker changes the owner once more when it makes the link, which would cost it its capabilities.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

from core.errors import Conflict
from core.images import merged, walk
from core.images.headers import file_header as file_header
from core.images.headers import header, mark_header, ordinary
from core.images.tar import BLOCK, BLOCK_DEVICE, CHAR, DIRECTORY, FIFO, FILE, LINK, SYMLINK

CHUNK = 1024 * 1024  # bytes that are given at a time, about
# Bytes of holes that are worth a map: neither Docker nor podman can give on a layer that has one (their tar-split makes
# other bytes of it), while zeroes are compressed to nothing.
_LEAST_HOLE = 256 * 1024 * 1024
_MOST_EXTENTS = 10_000
_WORTH_SENDING = 8 * 1024  # bytes of content that are cheaper by a system call of their own than by being copied twice
_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHAR,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFIFO: FIFO,
}
END = bytes(2 * BLOCK)
# What comes before, descriptor of a file, offset, bytes → how many of these were sent
Send = Callable[[list[bytes], int, int, int], int]


def layer(folder: str | os.PathLike[str], *, live: bool = False) -> Generator[bytes, None, None]:
    """The files of a layer, or of a container's writable one, as overlayfs keeps them: a layer's tar.

    :param live: processes may work in it meanwhile
    :raises Conflict: a file is named as only a whiteout may be, or lies too deep
    :raises OSError:
    """
    yield from map(b"".join, layer_batches(folder, live=live))


def layer_batches(
    folder: str | os.PathLike[str], *, live: bool = False, send: Send | None = None
) -> Iterator[list[bytes]]:
    """:func:`layer`, in lists for writev(2): whoever can write these saves the copy that makes one piece of many.

    :param send: called for the files' content, with the list that comes before it
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield from Writer(marks=True, live=live, send=send).batches(walk.one(fd))
    finally:
        os.close(fd)


def stack(folders: Iterable[str | os.PathLike[str]], *, live: bool = False) -> Iterator[bytes]:
    """What overlayfs shows of these layers, topmost first, as one tar without marks.

    :param live: processes may work in the topmost meanwhile
    :raises OSError:
    """
    fds: list[int] = []
    try:
        for folder in folders:
            fds.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        yield from map(b"".join, Writer(marks=False, live=False).batches(merged.merged(fds, live=live)))
    finally:
        for fd in fds:
            os.close(fd)


def estimate(folders: Iterable[str | os.PathLike[str]], look: Callable[[], None] = lambda: None) -> int:
    """About how many bytes the tar of these layers, topmost first, will have; of one: as a layer or not, all the same.

    :param look: called now and then; raises if nobody waits any more
    :raises WharfError: :raises OSError: as the writers do
    """
    fds: list[int] = []
    total, linked = len(END), set()
    try:
        for folder in folders:
            fds.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        for count, (_, parent, name, _) in enumerate(merged.merged(fds) if len(fds) > 1 else walk.one(fds[0])):
            if not count % 256:
                look()
            try:
                status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                continue
            total += BLOCK if not status.st_mtime_ns % 10**9 else 3 * BLOCK  # pax records are a header and a block
            if stat.S_ISREG(status.st_mode) and (status.st_nlink < 2 or status.st_ino not in linked):
                linked.add(status.st_ino)
                total += status.st_size + -status.st_size % BLOCK
    finally:
        for fd in fds:
            os.close(fd)
    return total


class Writer:
    """One archive.

    :param marks: overlayfs' whiteouts and opaque folders become those of an image's layer
    :param live: somebody may work in the tree, and swap a file for a device between two looks at it
    :param send: sends content where the lists go, after the one that it is given; without, content is in the lists
    """

    def __init__(self, *, marks: bool, live: bool, send: Send | None = None) -> None:
        self._marks = marks
        self._live = live
        self._send = send
        self._linked: dict[tuple[int, int], bytes] = {}  # inode → the name that it has already
        # Not a bytearray: for one that grows again and again the kernel has to clear new pages each time.
        self._held: list[bytes] = []
        self._held_bytes = 0

    def batches(self, nodes: Iterable[walk.Node]) -> Iterator[list[bytes]]:
        """The archive, about :data:`CHUNK` bytes at a time, in pieces as they come."""
        for path, parent, name, regular in nodes:
            pinned = self._live or not regular
            fd = walk.pin(name, parent) if pinned else walk.open_regular(name, parent)
            if fd is None:
                continue
            try:
                if pinned or not self._ordinary(path, fd):
                    yield from self._add(path, fd, pinned)
            finally:
                os.close(fd)
            if self._held_bytes >= CHUNK:
                yield self._all()
        self._put(END)
        yield self._all()

    def _put(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)

    def _all(self) -> list[bytes]:
        held, self._held, self._held_bytes = self._held, [], 0
        return held

    def _ordinary(self, path: bytes, fd: int) -> bool:
        """Add a file with one name, without holes and attributes, that is not large: nearly all are such. False for
        another one, with which nothing has been done."""
        status = os.fstat(fd)
        size = status.st_size
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or status.st_blocks * 512 < size or size > CHUNK:
            return False
        if self._marks:
            _check_name(path)
        head = ordinary(path, status)
        if head is None or walk.has_attributes(fd):
            return False
        self._put(head)
        done = 0
        if self._send is not None and size >= _WORTH_SENDING:
            done = self._send(self._all(), fd, 0, size)
        if done < size:
            self._put(os.pread(fd, size - done, done).ljust(size - done, b"\0"))  # it may have shrunk
        if size % BLOCK:
            self._put(bytes(-size % BLOCK))
        return True

    def _add(self, path: bytes, fd: int, pinned: bool) -> Iterator[list[bytes]]:
        status = os.fstat(fd)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return  # a socket: tar has no word for it; whoever has bound it makes it again
        if self._marks:
            if walk.is_whiteout(status):
                self._mark(path)
                return
            _check_name(path)
        records, opaque = walk.attributes(fd, path, pinned=pinned)
        if kind is FILE:
            yield from self._file(path, fd, status, records, pinned)
            return
        link = os.readlink(b"", dir_fd=fd) if kind is SYMLINK else b""
        name = (path or b".") + b"/" if kind is DIRECTORY else path
        self._put(header(name, kind, status, 0, records, link))
        if opaque and self._marks:
            self._mark((path + b"/" if path else b"") + b".wh..wh..opq", whole=True)

    def _mark(self, path: bytes, *, whole: bool = False) -> None:
        head, slash, leaf = path.rpartition(b"/")
        self._put(mark_header(path if whole else head + slash + walk.WHITEOUT + leaf))

    def _file(
        self, path: bytes, fd: int, status: os.stat_result, records: Mapping[str, bytes], pinned: bool
    ) -> Iterator[list[bytes]]:
        if status.st_nlink > 1:
            first = self._linked.setdefault((status.st_dev, status.st_ino), path)
            if first is not path:
                self._put(header(path, LINK, status, 0, records, first))
                return
        size = status.st_size
        if not size:
            self._put(header(path, FILE, status, 0, records))
            return
        content = walk.reopen(fd) if pinned else fd
        try:
            extents = _extents(content, status) if status.st_blocks * 512 < size else None
            if extents is None:
                self._put(header(path, FILE, status, size, records))
                extents = [(0, size)]
            else:
                table = _map(extents)
                size = sum(length for _, length in extents) + len(table)
                self._put(header(path, FILE, status, size, records, sparse=True) + table)
            for offset, length in extents:
                yield from self._content(content, offset, length)
            self._put(bytes(-size % BLOCK))
        finally:
            if content != fd:
                os.close(content)

    def _content(self, fd: int, offset: int, length: int) -> Iterator[list[bytes]]:
        if self._send is not None and length >= _WORTH_SENDING:
            sent = self._send(self._all(), fd, offset, length)
            offset, length = offset + sent, length - sent
        while length:
            data = os.pread(fd, min(length, CHUNK), offset)
            if not data:  # it has shrunk since its size was asked for
                data = bytes(min(length, CHUNK))
            offset += len(data)
            length -= len(data)
            self._put(data)
            if self._held_bytes >= CHUNK:
                yield self._all()


def _check_name(path: bytes) -> None:
    if b"/" + walk.WHITEOUT in b"/" + path:
        raise Conflict(
            "cannot make a layer of the files",
            f"one named {os.fsdecode(path)!r} would be taken for a mark that deletes another",
            "Rename or remove it",
        )


# -- holes ------------------------------------------------------------------------------------------------------


def _extents(fd: int, status: os.stat_result) -> list[tuple[int, int]] | None:
    """Where a file has data; None where its holes are not worth a map."""
    found: list[tuple[int, int]] = []
    at, size = 0, status.st_size
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        except OSError:  # ENXIO: a hole up to the end, or that is where it ends by now
            break
        if start < at:
            found.append((start, at - start))
        if len(found) > _MOST_EXTENTS:
            return None
    if size - sum(length for _, length in found) < _LEAST_HOLE:
        return None
    if not found or sum(found[-1]) < size:
        found.append((size, 0))  # so GNU tar says how long the file is
    return found


def _map(extents: list[tuple[int, int]]) -> bytes:
    lines = [len(extents), *(number for extent in extents for number in extent)]
    data = b"".join(b"%d\n" % number for number in lines)
    return data + bytes(-len(data) % BLOCK)
