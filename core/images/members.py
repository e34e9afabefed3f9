"""Archives of images as files by name: a tar, plain or compressed, or a folder.

A compressed tar is first unpacked into a nameless file, so that every format is read by position. Nothing is ever
extracted by name: members are looked up in an index, and a layer is unpacked straight from its place in the archive
(CVE-2025-11395: archives whose members are links to the host's files).
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core.errors import Corrupt, NotFound
from core.images import spool, tar
from core.images.layers import verify
from core.images.manifest import LONGEST, Descriptor
from core.kernel.resolve import BENEATH, NO_SYMLINKS, open_in_root

BLOBS = "blobs/sha256/"


def broken(why: str) -> Corrupt:
    fix = "`wharf save` makes one; the tar of a file system is for `wharf import`"
    return Corrupt("that is not an archive of images", why, fix)


@dataclass(frozen=True)
class Place:
    """Where a member's bytes are."""

    fd: int
    offset: int
    size: int


class Archive:
    """Members by name; closes its descriptors with :meth:`close`."""

    def __init__(self, find: Callable[[str], Place | None], fds: list[int]) -> None:
        self._find = find
        self._fds = fds

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def place(self, name: str) -> Place:
        """:raises Corrupt: no such member"""
        found = self._find(name)
        if found is None:
            raise broken(f"it has no {name!r}")
        return found

    def has(self, name: str) -> bool:
        return self._find(name) is not None

    def read(self, name: str) -> bytes:
        """A small member; one below ``blobs/sha256`` must have the digest that its name says.

        :raises Corrupt:
        """
        place = self.place(name)
        if place.size > LONGEST:
            raise broken(f"{name!r} has {place.size} bytes")
        data = os.pread(place.fd, place.size, place.offset)
        if name.startswith(BLOBS):
            verify(f"{name!r} of the archive", name.removeprefix(BLOBS), hashlib.sha256(data).hexdigest())
        return data

    def blob(self, descriptor: Descriptor) -> bytes:
        return self.read(blob_name(descriptor.digest))


def blob_name(digest: str) -> str:
    return BLOBS + digest.removeprefix("sha256:")


def open_archive(source: Path | int, folder: Path, watch: Callable[[int], None]) -> Archive:
    """Open a file or folder; takes as long as decompressing it.

    :param source: a descriptor may be a pipe's: what comes out of it is kept in a nameless file
    :param folder: where a compressed archive is unpacked to, without a name
    :param watch: told how many bytes were read; what it raises ends the work
    :raises NotFound: no such file
    :raises Corrupt: neither a tar nor a layout
    """
    try:
        fd = os.dup(source) if isinstance(source, int) else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"no such file: {source}", "there is nothing to load", "Check the path") from error
    fds = [fd]
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            return Archive(_Folder(fd, fds).find, fds)
        plain = spool.plain_file(fd, folder, watch)
        if plain != fd:
            fds.append(plain)
        told, first = "standard input" if isinstance(source, int) else str(source), os.pread(plain, tar.BLOCK, 0)
        if not first:
            raise Corrupt(f"{told} is empty", "there is nothing to load", "Check what should have written it")
        if not spool.is_tar(first):
            raise spool.no_tar(told)
        index = spool.index(plain)
        return Archive(lambda name: _member(index, plain, name), fds)
    except BaseException:
        for opened in fds:
            os.close(opened)
        raise


class _Folder:
    """Members of a layout folder: regular files below it, never through a link."""

    def __init__(self, root: int, fds: list[int]) -> None:
        self._root = root
        self._fds = fds
        self._known: dict[str, Place] = {}

    def find(self, name: str) -> Place | None:
        if name not in self._known:
            try:
                flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
                fd = open_in_root(self._root, name, flags, resolve=BENEATH | NO_SYMLINKS)
            except OSError:
                return None
            self._fds.append(fd)
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return None
            self._known[name] = Place(fd, 0, status.st_size)
        return self._known[name]


def _member(index: dict[str, spool.Member], fd: int, name: str) -> Place | None:
    for _ in range(8):  # docker save links layers that are equal
        member = index.get(posixpath.normpath(name))
        if member is None:
            return None
        if not member.link:
            return Place(fd, member.offset, member.size)
        name = member.link
    return None
