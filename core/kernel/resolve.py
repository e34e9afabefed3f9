"""Paths inside a container, resolved by the kernel below a directory descriptor (openat2(2), Linux 5.6).

Never join a container's path to the host's: a symbolic link in it would be followed outside (CVE-2018-15664,
CVE-2021-30465, CVE-2024-45310). ``RESOLVE_IN_ROOT`` treats the given directory as ``/``, also for absolute links
and ``..``.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from core.kernel.libc import SYS_OPENAT2, syscall

NO_XDEV = 0x01
NO_MAGICLINKS = 0x02
NO_SYMLINKS = 0x04
BENEATH = 0x08
IN_ROOT = 0x10

_PATH_DIR = os.O_PATH | os.O_DIRECTORY
_TRIES = 128


_HOW = struct.Struct("=3Q")  # struct open_how: flags, mode, resolve


def open_in_root(root_fd: int, path: str, flags: int, *, mode: int = 0, resolve: int = IN_ROOT) -> int:
    """Open ``path`` as if ``root_fd`` were ``/``; magic links are never followed.

    :param flags: ``os.O_*``; close-on-exec is added
    :param resolve: more ``RESOLVE_*`` bits; ``IN_ROOT`` or ``BENEATH`` must be among them
    :raises OSError: ``EAGAIN`` only after many tries against somebody who keeps renaming
    """
    how = _HOW.pack(flags | os.O_CLOEXEC, mode, resolve | NO_MAGICLINKS)
    name = os.fsencode(path) or b"."
    for left in range(_TRIES, 0, -1):
        try:
            return syscall(SYS_OPENAT2, root_fd, name, how, len(how), what=path)
        except OSError as error:
            # The kernel could not rule out a ".." race with a rename; it asks to be called again (openat2(2)).
            if error.errno != errno.EAGAIN or left == 1:
                raise
    raise AssertionError


def make_dirs(root_fd: int, path: str, mode: int = 0o755, *, resolve: int = IN_ROOT) -> int:
    """Make the directory ``path`` below ``root_fd`` with all its parents; existing links are followed inside the root.

    :param resolve: with ``NO_SYMLINKS`` they are not
    :returns: an ``O_PATH`` descriptor of it
    :raises OSError: ``ENOTDIR`` where a file is in the way, ``ENOENT`` at a dangling link, ``ELOOP`` at a forbidden one
    """
    whole = os.path.normpath("/" + path)
    try:
        return open_in_root(root_fd, whole, _PATH_DIR, resolve=resolve)  # mostly it is there
    except FileNotFoundError:
        pass
    parts = [part for part in whole.split("/") if part]
    current = open_in_root(root_fd, "/", _PATH_DIR)
    made = False
    for index, part in enumerate(parts):
        try:
            following = _step(root_fd, current, "/".join(parts[: index + 1]), part, made, resolve)
        except FileNotFoundError:
            made = True
            try:
                os.mkdir(part, mode, dir_fd=current)
            except FileExistsError:
                pass  # someone else made it meanwhile, or it is a dangling link, which the next line refuses
            following = open_in_root(current, part, _PATH_DIR, resolve=BENEATH | NO_SYMLINKS)
        finally:
            os.close(current)
        current = following
    return current


def _step(root_fd: int, current: int, prefix: str, part: str, made: bool, resolve: int) -> int:
    # Below a directory just made there is nothing of the image's: go by name, follow no link that appeared since.
    if made:
        return open_in_root(current, part, _PATH_DIR, resolve=BENEATH | NO_SYMLINKS)
    return open_in_root(root_fd, prefix, _PATH_DIR, resolve=resolve)


def make_file(root_fd: int, path: str, mode: int = 0o644) -> int:
    """An ``O_PATH`` descriptor of the file ``path`` below ``root_fd``; an empty one is made where there is none.

    :raises OSError:
    """
    try:
        return open_in_root(root_fd, path, os.O_PATH)
    except FileNotFoundError:
        pass
    parent, name = os.path.split(os.path.normpath("/" + path))
    parent_fd = make_dirs(root_fd, parent)
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
        os.close(open_in_root(parent_fd, name, flags, mode=mode, resolve=BENEATH | NO_SYMLINKS))
        return open_in_root(parent_fd, name, os.O_PATH | os.O_NOFOLLOW, resolve=BENEATH | NO_SYMLINKS)
    finally:
        os.close(parent_fd)


def read_file(root_fd: int, path: str, limit: int) -> bytes:
    """The content of a regular file below ``root_fd``.

    A FIFO does not block and a device is not read (CVE-2024-9676: an image's /etc/passwd may be anything).

    :raises OSError: ``EINVAL`` where it is not a regular file, ``EFBIG`` where it has more than ``limit`` bytes
    """
    fd = open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        content = part = os.read(fd, min(limit, status.st_size) + 1)
        while part and len(content) <= limit:
            part = os.read(fd, limit + 1 - len(content))
            content += part
    finally:
        os.close(fd)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"more than {limit} bytes", path)
    return content
