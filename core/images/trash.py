"""Delete trees that hostile archives made: links are never followed, and no depth is too deep."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def delete_tree(parent_fd: int, name: str) -> None:
    """Remove the file or directory ``name`` in ``parent_fd``; nothing happens where there is none.

    Each directory found below is first renamed up beside ``name``: so the depth is always one, where recursion would
    run out of stack or descriptors on a tree of thousands of levels. Several processes may be at the same tree (each
    engine that opens sees to what lies in the trash): what another one has removed or moved is not missed.

    :raises OSError:
    """
    names = _free_names(parent_fd, name)
    todo = [name]
    while todo:
        current = todo.pop()
        try:
            status = os.stat(current, dir_fd=parent_fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISDIR(status.st_mode):
                os.unlink(current, dir_fd=parent_fd)
                continue
            todo += _empty(parent_fd, current, names)
            os.rmdir(current, dir_fd=parent_fd)


def _free_names(parent_fd: int, name: str) -> Iterator[str]:
    number, mark = 0, os.urandom(4).hex()  # another process at the same tree must not come upon the same names
    taken = set(os.listdir(parent_fd))
    while True:
        number += 1
        if (candidate := f"{name}+{mark}.{number}") not in taken:
            yield candidate


def _empty(parent_fd: int, current: str, names: Iterator[str]) -> list[str]:
    """Delete the files of one directory and move its directories up; returns their new names."""
    moved = []
    fd = os.open(current, _FLAGS, dir_fd=parent_fd)
    try:
        with os.scandir(fd) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for child, is_dir in found:
            with contextlib.suppress(FileNotFoundError):
                if is_dir:
                    moved.append(next(names))
                    os.rename(child, moved[-1], src_dir_fd=fd, dst_dir_fd=parent_fd)
                else:
                    os.unlink(child, dir_fd=fd)
    finally:
        os.close(fd)
    return moved
