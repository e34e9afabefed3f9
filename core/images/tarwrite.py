"""A tar writer for layers and exports: the other direction of :mod:`core.images.tar`.

The same tree gives the same bytes, whoever writes it and whenever: members are sorted by the bytes of their names,
times of access, inode numbers and names of users stay out of it. Everything that a layer can say is in it: nanoseconds,
times before 1970, ids beyond 2 million, names that are not UTF-8, extended attributes, devices, hard links, holes.

Formats: ustar; pax records where that cannot hold a value (POSIX.1-2017); holes by GNU's pax format 1.0 (GNU tar
manual, "Sparse Formats"); whiteouts as image-spec's layer.md has them. A hard link repeats the attributes of its file:
Docker changes the owner once more when it makes the link, which would cost it its capabilities.
"""

from __future__ import annotations

import functools
import os
import stat
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

from core.errors import Conflict
from core.images import merged, walk
from core.images.tar import BLOCK, BLOCK_DEVICE, CHAR, DIRECTORY, FIFO, FILE, LINK, SYMLINK

CHUNK = 1024 * 1024  # bytes that are given at a time, about
# Bytes of holes that are worth a map: neither Docker nor podman can give on a layer that has one (their tar-split makes
# other bytes of it), while zeroes are compressed to nothing.
_LEAST_HOLE = 256 * 1024 * 1024
_MOST_EXTENTS = 10_000
_WORTH_SENDING = 8 * 1024  # bytes of content that are cheaper by a system call of their own than by being copied twice
_MOST_ID, _MOST_SIZE, _MOST_SECOND = 0o7777777, 0o77777777777, 0o77777777777
_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHAR,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFIFO: FIFO,
}
_ASCII = bytes(range(128)) + b"_" * 128
END = bytes(2 * BLOCK)
Send = Callable[[int, int, int], int]  # descriptor of a file, offset, bytes → how many were sent


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

    :param send: called for the files' content, in its place between two lists
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
    :param send: sends content where the lists go that come before and after it; without, content is in the lists
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
        self._put(_mark_header(path if whole else head + slash + walk.WHITEOUT + leaf))

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
            yield self._all()
            sent = self._send(fd, offset, length)
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


# -- headers ----------------------------------------------------------------------------------------------------


def _attributes(path: bytes, attributes: Mapping[str, bytes]) -> dict[bytes, bytes]:
    """As GNU tar and bsdtar write them. :raises Conflict: one that no tar can hold"""
    for key in attributes:
        if "=" in key:
            raise Conflict(
                f"cannot archive the attribute {key!r} of {os.fsdecode(path)!r}",
                "no tar can hold one with = in its name",
                "Remove it with setfattr -x",
            )
    return {b"SCHILY.xattr." + os.fsencode(key): value for key, value in attributes.items()}


def header(
    path: bytes,
    kind: bytes,
    status: os.stat_result,
    size: int,
    attributes: Mapping[str, bytes],
    link: bytes = b"",
    *,
    sparse: bool = False,
) -> bytes:
    """What stands before a member's content, extended header included.

    :param size: bytes of content in the archive; the file's own is ``status``'
    """
    extra: dict[bytes, bytes] = {}
    name = path
    if sparse:
        extra[b"GNU.sparse.major"], extra[b"GNU.sparse.minor"] = b"1", b"0"
        extra[b"GNU.sparse.name"], extra[b"GNU.sparse.realsize"] = path, b"%d" % status.st_size
        name = _short(b"GNUSparseFile.0/" + path.rpartition(b"/")[2][:80])
    if len(name) > 100 or not name.isascii():
        extra[b"path"] = name
        name = _short(name)
    if len(link) > 100 or not link.isascii():
        extra[b"linkpath"] = link
        link = _short(link)
    second, rest = divmod(status.st_mtime_ns, 10**9)
    if rest or not 0 <= second <= _MOST_SECOND:
        extra[b"mtime"] = _time(status.st_mtime_ns)
        second = second if 0 <= second <= _MOST_SECOND else 0
    uid, gid = status.st_uid, status.st_gid
    if uid > _MOST_ID:
        extra[b"uid"], uid = b"%d" % uid, 0
    if gid > _MOST_ID:
        extra[b"gid"], gid = b"%d" % gid, 0
    if size > _MOST_SIZE:
        extra[b"size"], size = b"%d" % size, 0
    extra |= _attributes(path, attributes)
    device = (os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in (CHAR, BLOCK_DEVICE) else (0, 0)
    block = _block(name, kind, status.st_mode & 0o7777, uid, gid, size, second, link, device)
    return _pax(path, extra) + block if extra else block


def file_header(path: str, size: int) -> bytes:
    """Of a file in an archive of images: nobody's, of no time."""
    name = os.fsencode(path)
    extra = {b"size": b"%d" % size} if size > _MOST_SIZE else {}
    block = _block(name, FILE, 0o644, 0, 0, 0 if extra else size, 0, b"", (0, 0))
    return _pax(name, extra) + block if extra else block


def _mark_header(path: bytes) -> bytes:
    """A whiteout: an empty file whose owner and time nobody looks at."""
    extra = {b"path": path} if len(path) > 100 or not path.isascii() else {}
    block = _block(_short(path) if extra else path, FILE, 0o600, 0, 0, 0, 0, b"", (0, 0))
    return _pax(path, extra) + block if extra else block


def _short(name: bytes) -> bytes:
    """For readers that know no pax records: something like the name."""
    return name[:100].translate(_ASCII)


def _block(
    name: bytes,
    kind: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    link: bytes,
    device: tuple[int, int],
) -> bytes:
    head = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(100, b"\0"), mode, uid, gid, size, mtime)
    tail, rest = _tail(kind, link, device)
    return b"%b%06o\0 %b" % (head, _sum(head) + rest, tail)


@functools.lru_cache(64)  # the same for all that is neither link nor device
def _tail(kind: bytes, link: bytes, device: tuple[int, int]) -> tuple[bytes, int]:
    """What follows a header's sum, and what it adds to that, in which the field for the sum itself counts as spaces."""
    tail = b"%b%bustar\x0000%b%07o\0%07o\0%b" % (kind, link.ljust(100, b"\0"), bytes(64), *device, bytes(167))
    return tail, _sum(tail[:256]) + _sum(tail[256:]) + 8 * 32


def _sum(data: bytes) -> int:
    """Of at most 256 bytes. Adler-32's lower half is that + 1, modulo 65521, which they cannot reach: five times faster
    than sum()."""
    return (zlib.adler32(data) & 0xFFFF) - 1


def _time(nanoseconds: int) -> bytes:
    """pax's decimal seconds."""
    second, rest = divmod(abs(nanoseconds), 10**9)
    text = b"%d.%09d" % (second, rest) if rest else b"%d" % second
    text = text.rstrip(b"0") if rest else text
    return b"-" + text if nanoseconds < 0 else text


def _pax(path: bytes, extra: Mapping[bytes, bytes]) -> bytes:
    data = b"".join(_record(key, extra[key]) for key in sorted(extra))
    name = _short(b"PaxHeaders.0/" + path.rstrip(b"/").rpartition(b"/")[2][:80])
    block = _block(name, b"x", 0o644, 0, 0, len(data), 0, b"", (0, 0))
    return block + data + bytes(-len(data) % BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    """``length key=value\\n``, where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length += 1
    return b"%d %b=%b\n" % (length, key, value)
