"""A container's writable layer as a tar: the other direction of :mod:`core.images.layer`.

overlayfs' marks become whiteouts (image-spec, layer.md); its own attributes stay behind. Nothing may write to the
layer meanwhile. Folders are gone through by descriptors, and no link is followed: the content is the container's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tarfile
from collections.abc import Iterator
from typing import IO

from core.errors import Conflict

_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_WHITEOUT = ".wh."
_KINDS = {
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


def write_layer(folder: str, out: IO[bytes]) -> None:
    """Write what is in overlayfs' upper folder.

    :raises Conflict: a file is named as only a whiteout may be
    :raises OSError:
    """
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 18) as archive:
        writer = _Writer(archive)
        for path, names, fd in _folders(folder):
            if not path:
                writer.add("", ".", fd)
            for name in names:
                writer.add(path, name, fd)


def _folders(top: str) -> Iterator[tuple[str, list[str], int]]:
    """(path below ``top``, names in it, descriptor) of every folder, parents first."""
    for path, folders, files, fd in os.fwalk(top, follow_symlinks=False):
        folders.sort()
        yield os.path.relpath(path, top) if path != top else "", [*folders, *sorted(files)], fd


class _Writer:
    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._linked: dict[int, str] = {}  # inode → the name that it has already

    def add(self, path: str, name: str, fd: int) -> None:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        whole = f"{path}/{name}" if path else name
        if stat.S_ISSOCK(status.st_mode):
            return  # tar has no word for it; whoever has bound it makes it again
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            self._archive.addfile(tarfile.TarInfo(f"{path}/{_WHITEOUT}{name}" if path else _WHITEOUT + name))
            return
        if name.startswith(_WHITEOUT):
            raise Conflict(
                "cannot export the container's files", f"a file named {whole!r} would be taken for a mark", "Remove it"
            )
        info = _described(whole, status)
        place = f"/proc/self/fd/{fd}/{name}"
        attributes = _attributes(place)
        kept = {f"SCHILY.xattr.{key}": os.fsdecode(value) for key, value in attributes.items() if not _is_own(key)}
        info.pax_headers = {**info.pax_headers, **kept}
        if stat.S_ISLNK(status.st_mode):
            info.linkname = os.readlink(name, dir_fd=fd)
        if stat.S_ISREG(status.st_mode):
            self._file(info, status, fd, name)
        else:
            self._archive.addfile(info)
        if any(attributes.get(key) == b"y" for key in _OPAQUE):
            self._archive.addfile(tarfile.TarInfo(f"{whole}/.wh..wh.opq"))

    def _file(self, info: tarfile.TarInfo, status: os.stat_result, fd: int, name: str) -> None:
        if status.st_ino in self._linked:
            info.type, info.linkname = tarfile.LNKTYPE, self._linked[status.st_ino]
            info.pax_headers = {}
            self._archive.addfile(info)
            return
        if status.st_nlink > 1:
            self._linked[status.st_ino] = info.name
        info.size = status.st_size
        with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd), "rb") as file:
            self._archive.addfile(info, file)


def _described(name: str, status: os.stat_result) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = _KINDS.get(stat.S_IFMT(status.st_mode), tarfile.REGTYPE)
    info.mode = stat.S_IMODE(status.st_mode)
    info.uid, info.gid = status.st_uid, status.st_gid
    info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    second, rest = divmod(status.st_mtime_ns, 10**9)
    if second >= 0:
        info.mtime = second
        info.pax_headers = {"mtime": f"{second}.{rest:09}"}  # a float would lose the last digits
    return info


def _is_own(key: str) -> bool:
    return key.startswith(("trusted.overlay.", "user.overlay."))


def _attributes(place: str) -> dict[str, bytes]:
    found = {}
    try:
        names = os.listxattr(place, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return {}
    for name in names:
        with contextlib.suppress(OSError):  # some are listed that nobody may read
            found[name] = os.getxattr(place, name, follow_symlinks=False)
    return found
