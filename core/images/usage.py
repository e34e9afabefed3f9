"""What files occupy: allocated blocks as the file system counts them, of a file with several names once."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from core.kernel.resolve import BENEATH, NO_SYMLINKS, NO_XDEV, open_in_root

_BLOCK = 512  # bytes: stat(2), st_blocks
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # or something else by now, where a folder was
_LONGEST = 2000  # bytes of a relative path, before the folder at its end becomes the next anchor (PATH_MAX is 4096)


def allocated(*paths: Path) -> int:
    """Bytes of the files and folders with all that is below them; 0 for one that does not exist.

    Containers may be at work in them: what vanishes meanwhile counts nothing, and no link is followed.
    """
    seen: set[tuple[int, int]] = set()
    total = 0
    for path in paths:
        try:
            status = os.lstat(path)
            total += _count(status, seen)
            if not stat.S_ISDIR(status.st_mode):
                continue
            fd = os.open(path, _DIR)
        except OSError as error:
            if error.errno in _GONE:
                continue
            raise
        try:
            total += _below(fd, seen)
        finally:
            os.close(fd)
    return total


def _count(status: os.stat_result, seen: set[tuple[int, int]]) -> int:
    if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
        key = (status.st_dev, status.st_ino)
        if key in seen:
            return 0
        seen.add(key)
    return status.st_blocks * _BLOCK


def _below(anchor: int, seen: set[tuple[int, int]]) -> int:
    """Everything in the folder ``anchor``. A tree may be deeper than a path can be long: see ``_LONGEST``."""
    total, todo = 0, [b""]
    while todo:
        path = todo.pop()
        try:
            fd = open_in_root(anchor, os.fsdecode(path), _DIR, resolve=BENEATH | NO_SYMLINKS | NO_XDEV)
        except OSError:
            continue
        try:
            if len(path) > _LONGEST:
                total += _below(fd, seen)
                continue
            for name in os.listdir(fd):
                try:
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                total += _count(status, seen)
                if stat.S_ISDIR(status.st_mode):
                    todo.append(path + b"/" + os.fsencode(name) if path else os.fsencode(name))
        finally:
            os.close(fd)
    return total
