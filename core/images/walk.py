"""Trees to be written as archives or copied: the files of one layer, or those that a stack of layers shows.

The content may be a living container's, and hostile: folders are gone through by descriptors, no link is followed, and
nothing but a regular file is ever opened for reading: a device's driver would notice (a watchdog even restarts the
machine), and a fifo would block.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from core.errors import Conflict
from core.images.owners import opaque_name
from core.kernel.userns import contained

DEEPEST = 200  # directories in one path; what is deeper no layer may have (core.images.layer)
LONGEST = 4095  # PATH_MAX without the final NUL
WHITEOUT = b".wh."
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
OTHER, FOLDER, REGULAR = 0, 1, 2

# path below the top, descriptor of its folder, name in that, whether it is a regular file (if nobody works in the tree)
Node = tuple[bytes, int, bytes, bool]


def pin(name: bytes, parent: int) -> int | None:
    """A descriptor that stays with whatever has the name now, without opening it; None where it is gone."""
    try:
        return os.open(name, _PIN, dir_fd=parent)
    except FileNotFoundError:
        return None


def open_regular(name: bytes, parent: int) -> int | None:
    """Open what was a regular file a moment ago, in a tree that nobody works in; None where it is gone."""
    try:
        return os.open(name, _READ, dir_fd=parent)
    except FileNotFoundError:
        return None


def reopen(fd: int) -> int:
    """Open a pinned regular file for reading."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def open_dir(name: bytes, parent: int) -> int | None:
    """A folder, for reading; None where it is none (any more)."""
    try:
        return os.open(name, FOLDER_FLAGS, dir_fd=parent)
    except OSError as error:
        if error.errno not in GONE:
            raise
        return None


def is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(fd: int) -> bool:
    """Does this folder of a layer hide those of the layers below?"""
    try:
        return os.getxattr(fd, opaque_name(contained())) == b"y"
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
        return False


def overlay_own(key: str) -> bool:
    """Is it an attribute that overlayfs keeps for itself, here or in an ordinary user's engine?"""
    return key.startswith(("trusted.overlay.", "user.overlay."))


def has_attributes(fd: int) -> bool:
    """Whether there may be anything for :func:`attributes` to find. :param fd: not one of :func:`pin`"""
    try:
        return bool(os.listxattr(fd))
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return False


def attributes(fd: int, what: bytes, *, pinned: bool = True) -> tuple[dict[str, bytes], bool]:
    """Extended attributes of a file, and whether overlayfs takes it for opaque.

    :param pinned: ``fd`` is one of :func:`pin`
    :raises Conflict: its content is elsewhere (``redirect_dir``, ``metacopy``)
    """
    place: str | int = f"/proc/self/fd/{fd}" if pinned else fd
    try:
        names = os.listxattr(place)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return {}, False
    if not names:
        return {}, False
    found: dict[str, bytes] = {}
    opaque = False
    # On the host user.overlay.* means nothing: a container's own root can set it.
    mark = opaque_name(contained())
    elsewhere = (mark.replace("opaque", "redirect"), mark.replace("opaque", "metacopy"))
    for name in sorted(names):
        if overlay_own(name):
            opaque |= name == mark and os.getxattr(place, name) == b"y"
            if name in elsewhere:
                raise Conflict(
                    f"cannot copy {os.fsdecode(what)!r}",
                    f"its content is in another layer ({name}), where it cannot be followed to safely",
                    "Switch overlay's redirect_dir and metacopy off (/sys/module/overlay/parameters)",
                )
        elif name != "security.selinux":  # the host's policy, not the image's
            try:
                value = os.getxattr(place, name)
                found[name] = _portable(value) if name == "security.capability" else value
            except OSError as error:
                if error.errno not in (errno.ENODATA, errno.EPERM, errno.ENOTSUP):
                    raise
    return found, opaque


def _portable(capability: bytes) -> bytes:
    """Without the id of a user namespace's root that revision 3 has (linux/capability.h): an image knows none."""
    if len(capability) == 24 and capability[3] == 3:
        return capability[:3] + b"\2" + capability[4:20]
    return capability


def check_path(path: bytes) -> None:
    """:raises Conflict: deeper or longer than what a layer may have"""
    if len(path) > LONGEST or path.count(b"/") >= DEEPEST:
        raise Conflict(
            "the files cannot be put into an archive",
            f"{os.fsdecode(path[:80])}… has more than {DEEPEST} directories or {LONGEST} bytes",
            "Remove it",
        )


def names_in(fd: int) -> list[tuple[bytes, int]]:
    """(name, kind) of everything in the folder ``fd``, sorted by their bytes."""
    with os.scandir(fd) as entries:
        return sorted([(os.fsencode(entry.name), _kind(entry)) for entry in entries])


def _listed(fd: int) -> Iterator[tuple[bytes, int]]:
    """:func:`names_in`, once the first is asked for: by then whoever asks has noted the descriptor."""
    yield from names_in(fd)


def _kind(entry: os.DirEntry[str]) -> int:
    if entry.is_file(follow_symlinks=False):
        return REGULAR
    return FOLDER if entry.is_dir(follow_symlinks=False) else OTHER


def one(top: int) -> Iterator[Node]:
    """Every file of one folder, itself first, parents before children, sorted; descriptors are valid until the next."""
    yield b"", top, b".", False
    opened: list[tuple[bytes, int, Iterator[tuple[bytes, int]]]] = [(b"", top, _listed(top))]
    try:
        while opened:
            prefix, fd, names = opened[-1]
            name, kind = next(names, (b"", OTHER))
            if not name:
                opened.pop()
                if fd != top:
                    os.close(fd)
                continue
            yield prefix + name, fd, name, kind == REGULAR
            if kind == FOLDER:
                check_path(prefix + name)
                if (below := open_dir(name, fd)) is not None:
                    opened.append((prefix + name + b"/", below, _listed(below)))
    finally:
        for _, fd, _ in opened:
            if fd != top:
                os.close(fd)
