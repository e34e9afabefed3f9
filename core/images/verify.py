"""Check one layer, in a worker of the unpack server: is its archive what its digest says, are its files its archive's?

The archive is rebuilt (:mod:`core.images.split`) and unpacked once more, but without content: so what the files must be
like is decided by the very code that made them, links, whiteouts and replaced entries included. Then the two trees are
compared. Content needs no comparison: the archive was rebuilt from it, and its digest tells.
"""

# No dataclasses and no typing: the unpack server loads this.

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from zlib import crc32

from core.errors import Corrupt, NotFound
from core.images import columns, index, tar
from core.images.layer import Unpacker
from core.images.owners import Owners
from core.images.places import DIFF, INDEX
from core.images.split import Recorder, rebuild_from
from core.kernel.resolve import BENEATH, NO_SYMLINKS, NO_XDEV, open_in_root

MOST = 20  # problems that are told of one layer
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LONGEST = 200  # bytes of a path in a message


class Hollow(Unpacker):
    """Makes files of the right length without their content."""

    def _fill(self, fd: int, entry: tar.Entry) -> None:
        self._stream.content(self._index.count - 1, entry.size, entry.extents)
        crc = 0
        for piece in self._stream.pieces(entry.size):
            crc = crc32(piece, crc)
        self._index.checked(crc)
        os.ftruncate(fd, entry.length)


class Verdict:
    """What is wrong, at most :data:`MOST` of it; ``diffid`` is empty where the archive cannot be rebuilt."""

    def __init__(self) -> None:
        self.diffid = ""
        self.size = 0  # bytes of the archive
        self.problems: list[str] = []
        self.index = False  # whether the stored index is right

    def add(self, text: str) -> None:
        if len(self.problems) < MOST:
            self.problems.append(text)


class _Pieces:
    """The archive's chunks, hashed as they pass; what went wrong while they were read ends the archive."""

    def __init__(self, layer: int, progress: Callable[[int], None]) -> None:
        self._pieces = rebuild_from(layer, "")
        self._progress = progress
        self.digest = hashlib.sha256()
        self.size = 0

    def next(self) -> bytes:
        piece = next(self._pieces, b"")
        self.digest.update(piece)
        self.size += len(piece)
        self._progress(self.size)
        return piece


def check(
    layer: int, staging: int, hollow: int, aside: int, owners: Owners, progress: Callable[[int], None]
) -> Verdict:
    """Look at the layer whose folder is ``layer``.

    :param staging: a folder of the same file system, which the caller deletes
    :param hollow: an empty folder in it, for the files without content; ``aside``: for what they replace
    :raises OSError: the disk is full, or fails
    """
    verdict, pieces = Verdict(), _Pieces(layer, progress)
    try:
        Hollow(hollow, aside, Recorder(pieces.next, staging), owners).run()
        verdict.diffid = f"sha256:{pieces.digest.hexdigest()}"
    except (Corrupt, NotFound) as error:
        verdict.add(error.why or error.what)
        return verdict
    finally:
        verdict.size = pieces.size
    made = index.Index(columns.unpack(_read(staging)))
    try:
        stored = columns.unpack(_read(layer))
        verdict.index = stored == columns.unpack(_read(staging))
        _compare_content(index.Index(stored), made, verdict)
    except (Corrupt, OSError, ValueError, KeyError):
        pass
    if not verdict.index:
        verdict.add("its index is missing or wrong")
    try:
        real = os.open(DIFF, _DIR, dir_fd=layer)
    except OSError as error:
        verdict.add(f"its files cannot be read: {error.strerror}")
        return verdict
    for text in differences(hollow, real, made):
        verdict.add(text)
    os.close(real)
    return verdict


def _read(folder: int) -> bytes:
    with open(os.open(INDEX, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder), "rb") as file:
        return file.read()


def _compare_content(stored: index.Index, made: index.Index, verdict: Verdict) -> None:
    """Name the files whose content is not what it was."""
    for number, path in enumerate(stored.paths):
        now = made.find(path)
        if stored.kind(number) == tar.FILE and now is not None and stored.crcs[number] != made.crcs[now]:
            verdict.add(f"the content of {_name(path)} has changed")


def _name(path: bytes) -> str:
    return repr(os.fsdecode(path[:_LONGEST]))


def differences(expected: int, found: int, made: index.Index) -> Iterator[str]:
    """What is not as it should be in the tree ``found``, by its twin without content.

    Directories that the archive left out have the owner and times of other layers. Changes the working directory.
    """
    free = {*made.implied, *(() if made.find(b"") is not None else (b"",))}
    twins: dict[int, int] = {}  # inode of a file with several names → that of its twin
    todo = [b""]
    while todo:
        path = todo.pop()
        one, other = _open(expected, path), _open(found, path)
        try:
            if path not in free:
                yield from (f"{_name(path or b'/')} has another {what}" for what in _unlike(b".", one, other, {}))
            names, present = set(os.listdir(one)), set(os.listdir(other))
            for name in sorted(names | present):
                leaf = os.fsencode(name)
                whole = path + b"/" + leaf if path else leaf
                if name not in present:
                    yield f"{_name(whole)} is missing"
                elif name not in names:
                    yield f"{_name(whole)} does not belong to it"
                elif _is_directory(leaf, one) and _is_directory(leaf, other):
                    todo.append(whole)
                else:
                    yield from (f"{_name(whole)} has another {what}" for what in _unlike(leaf, one, other, twins))
        finally:
            os.close(one)
            os.close(other)


def _open(root: int, path: bytes) -> int:
    return open_in_root(root, os.fsdecode(path), _DIR, resolve=BENEATH | NO_SYMLINKS | NO_XDEV)


def _is_directory(name: bytes, folder: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


def _unlike(name: bytes, one: int, other: int, twins: dict[int, int]) -> Iterator[str]:
    """In what the file ``name`` in two folders differs."""
    want, have = (os.stat(name, dir_fd=folder, follow_symlinks=False) for folder in (one, other))
    if stat.S_IFMT(want.st_mode) != stat.S_IFMT(have.st_mode):
        yield "type"
        return
    if stat.S_ISCHR(want.st_mode) and want.st_rdev == have.st_rdev == 0:
        return  # a whiteout: the archive says no more of it
    if want.st_mode != have.st_mode:
        yield "mode"
    if (want.st_uid, want.st_gid) != (have.st_uid, have.st_gid):
        yield "owner"
    if want.st_mtime_ns != have.st_mtime_ns:
        yield "modification time"
    if want.st_rdev != have.st_rdev:
        yield "device number"
    if stat.S_ISREG(want.st_mode) and want.st_size != have.st_size:
        yield "length"
    if stat.S_ISLNK(want.st_mode) and os.readlink(name, dir_fd=one) != os.readlink(name, dir_fd=other):
        yield "target"
    linked = not stat.S_ISDIR(want.st_mode) and max(want.st_nlink, have.st_nlink) > 1
    if linked and (want.st_nlink != have.st_nlink or twins.setdefault(want.st_ino, have.st_ino) != have.st_ino):
        yield "set of hard links"
    if _attributes(name, one) != _attributes(name, other):
        yield "set of extended attributes"


def _attributes(name: bytes, folder: int) -> dict[str, bytes]:
    os.fchdir(folder)  # lgetxattr(2) takes no directory descriptor
    try:
        return {key: os.getxattr(name, key, follow_symlinks=False) for key in os.listxattr(name, follow_symlinks=False)}
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
