"""Which cgroup hierarchies this host has, and where they are mounted.

``v1``      one mount per controller (or per pair of them), and the named one of systemd
``hybrid``  v1, plus a v2 tree that carries no (or few) controllers but can freeze and kill
``v2``      one tree for all: the unified hierarchy

Sources: cgroups(7), Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from core.errors import InvalidArgument, Unsupported

_USUAL = "/sys/fs/cgroup"
_NOT_CONTROLLERS = {"rw", "ro", "xattr", "clone_children", "noprefix", "cpuset_v2_mode", "favordynmods", "none"}


class Hierarchy(NamedTuple):
    """One mounted v1 hierarchy. A named one without controllers has its name (``name=systemd``) instead."""

    mount: str
    controllers: tuple[str, ...]


class Layout(NamedTuple):
    """``version`` is ``v1``, ``hybrid`` or ``v2``; ``unified`` is the v2 tree's mount point, or empty."""

    version: str
    hierarchies: tuple[Hierarchy, ...]
    unified: str

    def mount_of(self, controller: str) -> str:
        """Mount point of the v1 hierarchy with that controller; empty where there is none."""
        for hierarchy in self.hierarchies:
            if controller in hierarchy.controllers:
                return hierarchy.mount
        return ""

    @property
    def mounts(self) -> tuple[str, ...]:
        """All mount points, the unified one last."""
        mounts = tuple(h.mount for h in self.hierarchies)
        return (*mounts, self.unified) if self.unified else mounts

    @property
    def controllers(self) -> tuple[str, ...]:
        """Every controller that can be used, sorted."""
        names = {c for h in self.hierarchies for c in h.controllers if not c.startswith("name=")}
        if self.unified:
            with open(f"{self.unified}/cgroup.controllers", encoding="ascii") as file:
                names.update(file.read().split())
        return tuple(sorted(names))


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), text)


def parse_mountinfo(text: str) -> Layout:
    """The layout that a ``/proc/PID/mountinfo`` shows.

    :raises Unsupported: no cgroup file system is mounted
    """
    v1: dict[tuple[str, ...], str] = {}
    unified = ""
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        mount = _unescape(left.split(" ")[4])
        if kind == "cgroup2":
            unified = _preferred(unified, mount)
            continue
        names = tuple(o for o in options.split(",") if o not in _NOT_CONTROLLERS and not o.startswith("release_agent="))
        v1[names] = _preferred(v1.get(names, ""), mount)
    if not v1 and not unified:
        raise Unsupported(
            "no cgroups",
            "no cgroup file system is mounted",
            f"Mount one with: mount -t cgroup2 none {_USUAL}",
        )
    version = "v2" if not v1 else "hybrid" if unified else "v1"
    return Layout(version, tuple(Hierarchy(mount, names) for names, mount in v1.items()), unified)


def _preferred(old: str, new: str) -> str:
    """A hierarchy may be mounted several times (bind mounts into other roots): the usual place is the host's own."""
    return new if not old or (new.startswith(_USUAL) and not old.startswith(_USUAL)) else old


@functools.cache
def detect() -> Layout:
    """This host's layout, read once per process.

    :raises Unsupported: no cgroup file system is mounted
    """
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file.read())


def check_path(path: str) -> None:
    """A group's path is relative and stays below the mount point.

    :raises InvalidArgument: it does not
    """
    parts = path.split("/")
    if not path or any(part in ("", ".", "..") for part in parts):
        raise InvalidArgument(
            f"invalid cgroup path {path!r}", "it must be relative, without empty parts or ..", "Write it like wharf/ID"
        )
