"""A container's own cgroups, as it sees them below /sys/fs/cgroup."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from core.kernel import mount

View = tuple[str, int]  # name there, detached mount of the group's folder


def single(found: Sequence[tuple[str, object]]) -> bool:
    """Is it the one tree of cgroup v2, which is all of /sys/fs/cgroup?"""
    return [name for name, _ in found] == [""]


def make_holder(names: Iterable[str], attributes: int) -> int:
    """A folder with one folder for each hierarchy, as a detached mount.

    :param attributes: ``ATTR_*`` bits of its mounts
    """
    holder = mount.filesystem("tmpfs", [("mode", "755")], attributes & ~mount.ATTR_RDONLY, source="tmpfs")
    for name in names:
        os.mkdir(name, 0o755, dir_fd=holder)
        for part in name.split(",") if "," in name else ():
            os.symlink(name, part, dir_fd=holder)  # cpu → cpu,cpuacct
    # Now, while it is detached: in a tree that stays so, nothing that is mounted can be changed any more.
    mount.set_attributes(holder, attributes)
    return holder


def fill(holder: int, views: Sequence[View], attributes: int) -> None:
    """Put each view in its place in a holder, which is mounted, or may be built detached
    (:func:`core.kernel.mount.can_build_detached`)."""
    for name, view in views:
        prepare(view, attributes)
        mount.attach_at(view, holder, name)
        os.close(view)


def prepare(view: int, attributes: int) -> None:
    """Give it the attributes of the mount that it is a part of."""
    mount.set_attributes(view, attributes, clear=mount.ATTR_ATIME, propagation=mount.MS_PRIVATE)
