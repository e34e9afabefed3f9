"""Kernel settings, and what the container shall not write or see below /proc and /sys.

Everything works on descriptors that :class:`core.runtime.rootfs.Tree` has opened in mounts of its own.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping

from core.kernel import mount, resolve
from core.runtime import sysctl
from core.runtime.task import Report


def set_sysctls(proc: int, values: Mapping[str, str], report: Report) -> None:
    """``linux.sysctl``, by names with dots or slashes (sysctl(8)).

    :raises OSError:
    """
    how = resolve.BENEATH | resolve.NO_SYMLINKS | resolve.NO_XDEV
    for name, value in values.items():
        report.at(f"setting sysctl {name}")
        fd = resolve.open_in_root(proc, "sys/" + sysctl.path_of(name), os.O_WRONLY, resolve=how)
        os.write(fd, value.encode())
        os.close(fd)


def make_readonly(target: int | None) -> None:
    """:param target: closed; None: there is nothing"""
    if target is None:
        return
    copy = mount.clone_tree(target, recursive=True)
    mount.set_attributes(copy, mount.ATTR_RDONLY, recursive=True)
    mount.attach(copy, target)
    os.close(copy)
    os.close(target)


def make_empty() -> int:
    """A folder that nothing can be put in, as a detached mount."""
    return mount.filesystem("tmpfs", [("nr_blocks", "1"), ("nr_inodes", "1")], mount.ATTR_RDONLY)


class Mask:
    """Covers files by the null device, folders by an empty one.

    :param null: opens the null device
    :param empty: the empty folder, if it has been made (:func:`make_empty`); -1: it has not
    """

    def __init__(self, null: Callable[[], int], empty: int = -1) -> None:
        self._null = null
        self._fresh = empty
        self._empty = -1  # that is mounted

    def put(self, target: int | None) -> None:
        """:param target: closed; None: there is nothing"""
        if target is None:
            return
        if not stat.S_ISDIR(os.fstat(target).st_mode):
            cover = mount.clone_tree(self._null())
        elif self._empty >= 0:
            cover = mount.clone_tree(self._empty)  # one for all of them: nobody can write to it
        else:
            # Renewed: mountinfo lists it where it belongs.
            cover, self._fresh = mount.renew(self._fresh) if self._fresh >= 0 else make_empty(), -1
        mount.attach(cover, target)
        if self._empty < 0 and stat.S_ISDIR(os.fstat(cover).st_mode):
            self._empty = cover
        else:
            os.close(cover)
        os.close(target)

    def close(self) -> None:
        for fd in {self._empty, self._fresh} - {-1}:
            os.close(fd)
        self._empty = self._fresh = -1
