"""Which cgroup hierarchies this host has, and where they are mounted.

``v1``      one mount per controller (or per pair of them), and the named one of systemd
``hybrid``  v1, plus a v2 tree that carries no (or few) controllers but can freeze and kill
``v2``      one tree for all: the unified hierarchy
``none``    nothing that this process may write in: no limits, no meters

Sources: cgroups(7), Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.
"""

from __future__ import annotations

import functools
import os
import re
from typing import NamedTuple

from core.errors import InvalidArgument, NoPrivilege, Unsupported

_USUAL = "/sys/fs/cgroup"
_NOT_CONTROLLERS = {"rw", "ro", "xattr", "clone_children", "noprefix", "cpuset_v2_mode", "favordynmods", "none"}


class Hierarchy(NamedTuple):
    """One mounted v1 hierarchy. A named one without controllers has its name (``name=systemd``) instead."""

    mount: str
    controllers: tuple[str, ...]


class Layout(NamedTuple):
    """``version`` is ``v1``, ``hybrid``, ``v2`` or ``none``.

    ``unified`` is the v2 tree's mount point, or empty. Where only a part of the tree is this process's to use, it is
    that part's folder, and ``own`` its path below the mount point.
    """

    version: str
    hierarchies: tuple[Hierarchy, ...]
    unified: str
    own: str = ""

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
def host() -> Layout:
    """What is mounted on this host, whether this process may use it or not; read once per process.

    :raises Unsupported: no cgroup file system is mounted
    """
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file.read())


@functools.cache
def detect() -> Layout:
    """What this process may use, looked for once.

    That is all of it for root. An ordinary user has the part of a v2 tree that was delegated to him, and of v1
    nothing: there delegation is not safe, so nobody does it.

    :raises Unsupported: no cgroup file system is mounted
    """
    found = host()
    if any(os.access(mount, os.W_OK) for mount in found.mounts):
        return found
    if found.version == "v2":
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            own = delegated(found.unified, file.read())
        if own:
            return Layout("v2", (), f"{found.unified}/{own}", own)
    return Layout("none", (), "")


def delegated(mount: str, groups: str) -> str:
    """The topmost of the groups this process stands in (``groups``: its ``/proc/PID/cgroup``) where it may make others
    and move processes into them; empty where there is none.

    The topmost, because every session of a user then finds the same one, wherever in it he was put
    (``user@1000.service`` for a unit of his service manager).
    """
    path = next((line[3:] for line in groups.splitlines() if line.startswith("0::")), "").strip("/")
    above = ""
    for part in path.split("/"):
        if part in ("", ".."):  # the group is outside this cgroup namespace
            return ""
        above = f"{above}/{part}" if above else part
        wanted = ("", "cgroup.procs", "cgroup.subtree_control")
        if all(os.access(f"{mount}/{above}/{name}", os.W_OK) for name in wanted):
            return above
    return ""


def check_path(path: str) -> None:
    """A group's path is relative and stays below the mount point.

    :raises InvalidArgument: it does not
    """
    parts = path.split("/")
    if not path or any(part in ("", ".", "..") for part in parts):
        raise InvalidArgument(
            f"invalid cgroup path {path!r}", "it must be relative, without empty parts or ..", "Write it like wharf/ID"
        )


def resolve(cgroups_path: str, default: str) -> str:
    """The group that an OCI configuration's ``linux.cgroupsPath`` names (config-linux.md, "Cgroups Path").

    Absolute and relative paths alike start at the top of the hierarchies, or of the part of them that is this
    process's to use; an empty one is ``default``.

    :raises InvalidArgument: no path, or one that leaves the tree
    :raises Unsupported: systemd's ``slice:prefix:name``
    :raises NoPrivilege: an absolute path outside what is delegated
    """
    if cgroups_path.count(":") == 2 and "/" not in cgroups_path:
        raise Unsupported(
            f"invalid cgroupsPath {cgroups_path!r}",
            "it is written for systemd (slice:prefix:name), and this runtime makes its cgroups itself",
            "Have the caller use the cgroupfs driver (podman: --cgroup-manager=cgroupfs; dockerd: "
            "--exec-opt native.cgroupdriver=cgroupfs), or write a path",
        )
    path = "/".join(part for part in (cgroups_path or default).split("/") if part not in ("", "."))
    if not path or ".." in path.split("/"):
        raise InvalidArgument(
            f"invalid cgroupsPath {cgroups_path!r}", "it must name a group, without ..", "Write it like /wharf/ID"
        )
    own = detect().own
    if own and cgroups_path.startswith("/"):
        if not path.startswith(f"{own}/"):
            raise NoPrivilege(
                f"cannot use cgroup /{path}",
                f"only what is below /{own} is delegated to this user",
                "Choose a path there, or a relative one",
            )
        path = path[len(own) + 1 :]
    return path
