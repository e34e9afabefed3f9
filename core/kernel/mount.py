"""Mounts by descriptor: the mount API of Linux 5.2 (fsopen, fsmount, open_tree, move_mount) and 5.12 (mount_setattr).

A mount made here is *detached* until :func:`attach` puts it somewhere: it can be filled and have its flags set while no
path leads to it, and it vanishes with its descriptor. ``pivot_root`` and ``umount`` are here too.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import re
import struct
from collections.abc import Callable, Iterable, Sequence

from core.errors import Unsupported
from core.kernel.libc import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_NO_AUTOMOUNT,
    AT_RECURSIVE,
    SYS_FSCONFIG,
    SYS_FSMOUNT,
    SYS_FSOPEN,
    SYS_FSPICK,
    SYS_MOUNT_SETATTR,
    SYS_MOVE_MOUNT,
    SYS_OPEN_TREE,
    SYS_PIVOT_ROOT,
    call,
    syscall,
)
from core.kernel.process import files_as
from core.kernel.userns import contained

ATTR_RDONLY = 0x1
ATTR_NOSUID = 0x2
ATTR_NODEV = 0x4
ATTR_NOEXEC = 0x8
ATTR_ATIME = 0x70  # the field; 0 in it means relatime
ATTR_NOATIME = 0x10
ATTR_STRICTATIME = 0x20
ATTR_NODIRATIME = 0x80
ATTR_IDMAP = 0x100000
ATTR_NOSYMFOLLOW = 0x200000

MS_REC = 1 << 14
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20

_SET_FLAG, _SET_STRING, _SET_FD, _CMD_CREATE, _CMD_RECONFIGURE = 0, 1, 5, 6, 7
_CLOEXEC = 1
_OPEN_TREE_CLONE = 1
_FSPICK_CLOEXEC, _FSPICK_EMPTY_PATH = 1, 8
_F_EMPTY_PATH, _T_EMPTY_PATH = 0x4, 0x40
_MNT_DETACH = 2
_PLAIN = re.compile(r"[A-Za-z0-9_.-]+").fullmatch  # nothing that would need escaping in an option
_DESCRIPTORS = "/proc/self/fd"
_STRING_LIMIT = 255  # fsconfig(2) copies at most 256 bytes of a value, the final NUL included


_MOUNT_ATTR = struct.Struct("=4Q")  # struct mount_attr: attr_set, attr_clr, propagation, userns_fd


def filesystem(fstype: str, options: Iterable[tuple[str, str | None]] = (), attrs: int = 0, source: str = "") -> int:
    """A new file system as a detached mount.

    :param options: (key, value) pairs; value ``None`` is a flag
    :param attrs: ``ATTR_*`` bits of the mount
    :returns: descriptor of the mount's root (``O_PATH``)
    :raises OSError: with what the kernel logged about it in the message
    """
    context = syscall(SYS_FSOPEN, fstype.encode(), _CLOEXEC, what=f"fsopen {fstype}")
    try:
        if source:
            _configure(context, "source", source)
        for key, value in options:
            _configure(context, key, value)
        syscall(SYS_FSCONFIG, context, _CMD_CREATE, None, None, 0, what=f"create {fstype}")
        return syscall(SYS_FSMOUNT, context, _CLOEXEC, attrs, what=f"fsmount {fstype}")
    except OSError as error:
        raise OSError(error.errno, _explain(context, error), error.filename) from error
    finally:
        os.close(context)


def reconfigure(mount_fd: int, options: Iterable[tuple[str, str | None]]) -> None:
    """Change the options of the file system that is mounted at ``mount_fd`` (``remount``, without its mount flags).

    :raises OSError: with what the kernel logged about it in the message
    """
    context = syscall(SYS_FSPICK, mount_fd, b"", _FSPICK_CLOEXEC | _FSPICK_EMPTY_PATH, what="fspick")
    try:
        for key, value in options:
            _configure(context, key, value)
        syscall(SYS_FSCONFIG, context, _CMD_RECONFIGURE, None, None, 0, what="remount")
    except OSError as error:
        raise OSError(error.errno, _explain(context, error), error.filename) from error
    finally:
        os.close(context)


def _configure(context: int, key: str, value: str | None) -> None:
    if value is None:
        syscall(SYS_FSCONFIG, context, _SET_FLAG, key.encode(), None, 0, what=f"option {key}")
    else:
        syscall(SYS_FSCONFIG, context, _SET_STRING, key.encode(), os.fsencode(value), 0, what=f"option {key}={value}")


def _explain(context: int, error: OSError) -> str:
    """The kernel's own words (fsopen(2): messages are read from the context), behind the error's."""
    said: list[str] = []
    while True:
        try:
            said.append(os.read(context, 4096).decode(errors="replace").strip()[2:])
        except OSError:
            break
    return "; ".join([error.strerror or "", *said])


def overlay(lower: Sequence[str], upper: str, work: str) -> int:
    """An overlay of ``lower`` (top first) with a writable ``upper``, as a detached mount.

    Before Linux 6.8 it is mounted on ``upper`` for a moment: the caller must be in a mount namespace of its own
    (:func:`overlay_needs_place`).

    :raises OSError:
    """
    opened: list[int] = []

    def held(path: str) -> int:
        opened.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        return opened[-1]

    def pinned(path: str) -> str:
        # The kernel looks the name up while we hold the folder open.
        return f"{_DESCRIPTORS}/{held(path)}"

    def named(path: str) -> str:
        # mountinfo shows what is said here, and by its last two names a container's processes are found (end_strays).
        above, *names = path.rsplit("/", 2)
        return f"{pinned(above)}/{'/'.join(names)}" if above and _PLAIN("".join(names)) else pinned(path)

    def short(path: str, otherwise: Callable[[str], str]) -> str:
        return path if len(os.fsencode(path)) <= _STRING_LIMIT else otherwise(path)

    try:
        if overlay_needs_place():
            return _overlay_at([held(path) for path in lower], named(upper), named(work), upper)
        options: list[tuple[str, str | None]] = [("lowerdir+", short(path, pinned)) for path in lower]
        # The kernel unescapes backslashes in these two, and not in lowerdir+.
        if contained():
            options.append(("userxattr", None))
        above = (("upperdir", upper), ("workdir", work))
        options += [(key, short(path, named).replace("\\", "\\\\")) for key, path in above]
        return filesystem("overlay", options, source="overlay")
    finally:
        for fd in opened:
            os.close(fd)


def mapped_overlay(lower: Sequence[str], upper: str, work: str, userns_fd: int, owner: tuple[int, int]) -> int:
    """:func:`overlay` with the ids of all its layers mapped (:func:`map_ids`, Linux 5.19): nothing on the disk changes.

    ``upper`` and ``work`` must have the same parent folder. Before Linux 6.13 an overlay takes layers by path only, so
    that they are mounted for a moment, stacked on that parent: the caller must be in a mount namespace of its own.

    :param owner: uid and gid that the user namespace's root has here: overlayfs makes files as whoever has mounted it,
        and cannot make any that the maps do not know
    :raises Unsupported: the layers' file system or the kernel cannot map ids
    :raises OSError:
    """
    if _release() < (5, 19):
        raise _no_mapping(f"overlayfs takes no mapped layers before Linux 5.19; this is {os.uname().release}")
    with files_as(*owner):
        return _mapped_overlay(lower, upper, work, userns_fd)


def _mapped_overlay(lower: Sequence[str], upper: str, work: str, userns_fd: int) -> int:
    parent = os.path.dirname(upper)
    mapped = [clone_tree(path) for path in (*lower, parent)]
    try:
        for fd in mapped:
            map_ids(fd, userns_fd)
        *layers, above = mapped
        folders = [os.open(os.path.basename(path), os.O_PATH | os.O_CLOEXEC, dir_fd=above) for path in (upper, work)]
        mapped += folders
        if not _takes_descriptors():
            return _attached_overlay(layers, above, os.path.basename(upper), os.path.basename(work), parent)
        context = syscall(SYS_FSOPEN, b"overlay", _CLOEXEC, what="fsopen overlay")
        try:
            _configure(context, "source", "overlay")
            for key, fd in (*(("lowerdir+", fd) for fd in layers), ("upperdir", folders[0]), ("workdir", folders[1])):
                syscall(SYS_FSCONFIG, context, _SET_FD, key.encode(), None, fd, what=f"option {key}")
            syscall(SYS_FSCONFIG, context, _CMD_CREATE, None, None, 0, what="create overlay")
            return syscall(SYS_FSMOUNT, context, _CLOEXEC, 0, what="fsmount overlay")
        except OSError as error:
            raise OSError(error.errno, _explain(context, error), error.filename) from error
        finally:
            os.close(context)
    finally:
        for fd in mapped:
            os.close(fd)


@functools.cache
def _takes_descriptors() -> bool:
    """Does overlay take a layer by descriptor, a detached one too (Linux 6.13 and 6.15)?"""
    return _release() >= (6, 15)


def _attached_overlay(layers: Sequence[int], above: int, upper: str, work: str, parent: str) -> int:
    """Each layer is mounted over ``parent``, is opened there, and stays reachable through that descriptor."""
    opened: list[int] = []

    def put(mount_fd: int) -> int:
        place = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        attach(mount_fd, place)
        os.close(place)
        opened.append(os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        return opened[-1]

    try:
        lower = [put(fd) for fd in layers]
        top = f"{_DESCRIPTORS}/{put(above)}"
        _mount_overlay(lower, f"upperdir={top}/{upper},workdir={top}/{work}", parent)
        opened.append(os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        return clone_tree(opened[-1])
    finally:
        for fd in opened:
            os.close(fd)
            umount(parent)


def _release() -> tuple[int, int]:
    major, minor = os.uname().release.split("-")[0].split(".")[:2]
    return int(major), int(minor)


@functools.cache
def overlay_needs_place() -> bool:
    """Does overlay not take its layers one by one yet (``lowerdir+``, Linux 6.8)? Asked by version: an older kernel
    writes each attempt into its log."""
    return _release() < (6, 8)


def _overlay_at(lower: Sequence[int], upper: str, work: str, place: str) -> int:
    """The way of mount(2), whose options may fill a page, where a value of fsconfig(2) ends at 256 bytes."""
    _mount_overlay(lower, f"upperdir={upper},workdir={work}{',userxattr' if contained() else ''}", place)
    try:
        return clone_tree(place)
    finally:
        umount(place)


def _mount_overlay(lower: Sequence[int], rest: str, place: str) -> None:
    """Layers are named by their descriptors, without the colons and backslashes that would need escaping; from the
    folder of all descriptors that is so short that as many as overlayfs takes fit into the page."""
    data = f"lowerdir={':'.join(map(str, lower))},{rest}".encode()
    home = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(_DESCRIPTORS)
        try:
            call("mount", b"overlay", os.fsencode(place), b"overlay", ctypes.c_ulong(0), data)
        finally:
            os.fchdir(home)
    finally:
        os.close(home)


def clone_tree(path: str | int, *, recursive: bool = False) -> int:
    """A detached copy of the mount at ``path`` (a path, or a descriptor of a file or directory): a bind mount to be.

    :raises OSError:
    """
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | AT_NO_AUTOMOUNT | (AT_RECURSIVE if recursive else 0)
    if isinstance(path, int):
        return syscall(SYS_OPEN_TREE, path, b"", flags | AT_EMPTY_PATH, what="open_tree")
    return syscall(SYS_OPEN_TREE, AT_FDCWD, os.fsencode(path), flags, what=path)


def renew(mount_fd: int, *, recursive: bool = False) -> int:
    """A detached mount made anew, so that /proc/PID/mountinfo, which lists mounts by age, shows it as the latest; the
    old one is closed. Where the kernel will not (before Linux 6.15, or from another user namespace) it stays as it is.
    """
    try:
        fresh = clone_tree(mount_fd, recursive=recursive)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EPERM):
            raise
        return mount_fd
    os.close(mount_fd)
    return fresh


def attach(mount_fd: int, target_fd: int) -> None:
    """Put a detached mount on the file or directory that ``target_fd`` is: no path is looked up, so none can be
    swapped meanwhile (CVE-2021-30465).

    :param target_fd: ``AT_FDCWD`` for the working directory
    :raises OSError:
    """
    syscall(SYS_MOVE_MOUNT, mount_fd, b"", target_fd, b"", _F_EMPTY_PATH | _T_EMPTY_PATH, what="move_mount")


def attach_at(mount_fd: int, folder_fd: int, name: str) -> None:
    """:func:`attach` in a folder that nobody else can reach yet, so that a name in it is as good as a descriptor.

    :raises OSError:
    """
    syscall(SYS_MOVE_MOUNT, mount_fd, b"", folder_fd, os.fsencode(name), _F_EMPTY_PATH, what="move_mount")


def can_build_detached() -> bool:
    """May something be mounted in a tree that is mounted nowhere (Linux 6.15)?"""
    return _release() >= (6, 15)


def set_attributes(mount_fd: int, attrs: int, *, clear: int = 0, propagation: int = 0, recursive: bool = False) -> None:
    """Change a mount's ``ATTR_*`` bits and its propagation (``MS_PRIVATE`` …), for all below it if ``recursive``.

    :raises OSError:
    """
    _set_attributes(mount_fd, _MOUNT_ATTR.pack(attrs, clear, propagation, 0), recursive)


def map_ids(mount_fd: int, userns_fd: int, *, recursive: bool = False) -> None:
    """Have a detached mount show the owners of its files as the user namespace maps them (Linux 5.12; overlayfs' layers
    5.19): what is root's on the disk is the root's of that namespace.

    :raises Unsupported: the file system or the kernel cannot do it, or the mount is mapped already
    """
    try:
        _set_attributes(mount_fd, _MOUNT_ATTR.pack(ATTR_IDMAP, 0, 0, userns_fd), recursive)
    except OSError as error:
        kind = _filesystem_name(mount_fd) or "its file system"
        raise _no_mapping(f"{kind}, on Linux {os.uname().release}: {error.strerror}") from error


def _set_attributes(mount_fd: int, attributes: bytes, recursive: bool) -> None:
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    syscall(SYS_MOUNT_SETATTR, mount_fd, b"", flags, attributes, len(attributes), what="mount_setattr")


def _no_mapping(why: str) -> Unsupported:
    return Unsupported(
        "cannot map the ids of a mount",
        why,
        "It takes Linux 5.19 and ext4, xfs or btrfs (tmpfs: 6.3); or use --userns host",
    )


def _filesystem_name(mount_fd: int) -> str:
    """Of what a mount shows, such as ``ext4``; "" where it is not mounted elsewhere in sight."""
    device = os.fstat(mount_fd).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            if line.split(" ", 3)[2] == number:
                return line.partition(" - ")[2].split(" ")[0]
    return ""


def set_root_propagation(propagation: int, *, recursive: bool = True) -> None:
    """Change how mount events travel for the root (and everything mounted below it) of this mount namespace
    (``MS_SLAVE``, ``MS_PRIVATE``)."""
    flags = (MS_REC if recursive else 0) | propagation
    call("mount", b"none", b"/", None, ctypes.c_ulong(flags), None)


def pivot_root(new_root_fd: int) -> None:
    """Make ``new_root_fd`` the root of this mount namespace and let the old one go.

    The new root is stacked over the old one at ``.`` (pivot_root(2), "pivot_root(".", ".")"), so no folder for the old
    root is needed inside; after the unmount nothing of the host can be reached by path.
    """
    os.fchdir(new_root_fd)
    syscall(SYS_PIVOT_ROOT, b".", b".", what="pivot_root")
    umount(".")
    os.chdir("/")


def umount(path: str) -> None:
    """Detach the mount at ``path``; whoever still uses it keeps it until they leave."""
    call("umount2", os.fsencode(path), _MNT_DETACH)
