"""What can be made for a container before all is known of its start: new namespaces, and file systems that depend on
nothing else. Some are the same for nearly all containers, and made before there is one (:class:`Stock`).

Like all that :mod:`core.runtime.sources` opens they are detached mounts, which go with the process that holds them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from core.errors import WharfError
from core.kernel import mount, process, userns
from core.runtime import covers, defaults, devices, mountopts, namespaces, views
from core.runtime.defaults import Json
from core.runtime.mountopts import Options
from core.runtime.sources import is_bind, open_root
from core.runtime.task import Early, Rootfs

_SOON = ("mount", "uts", "ipc")  # not "cgroup", whose root is the group that the process is in
_SHM = 64 << 20  # bytes: what nearly all containers have
_EMPTY = "empty"
# File systems that show a namespace: its CLONE_NEW*, its file in /proc/PID/ns.
_SHOWN = {"mqueue": (process.CLONE_NEWIPC, "ipc"), "sysfs": (process.CLONE_NEWNET, "net")}
_IN_DEV = ("pts", "shm", "mqueue")  # folders there, for what is mounted on them


class Stock:
    """File systems as every container gets them, if it does not ask for others: made while nobody waits.

    :param hierarchies: names of the folders below /sys/fs/cgroup; none: one tree of cgroup v2
    :param isolated: network and IPC namespaces too, each with the file system that shows it
    """

    def __init__(self, hierarchies: Sequence[str] = (), *, isolated: bool = False) -> None:
        self._made: dict[object, int] = {}
        before = os.umask(0)
        try:
            if not userns.contained():
                self._make(hierarchies, isolated=isolated)
        except OSError:
            pass  # each is made when it is needed, or the error told
        finally:
            os.umask(before)

    def _make(self, hierarchies: Sequence[str], *, isolated: bool) -> None:
        self._made[_EMPTY] = covers.make_empty()
        for entry in defaults.mounts(_SHM):
            kind, options = str(entry["type"]), mountopts.parse(cast("list[str]", entry["options"]))
            if kind in ("tmpfs", "devpts"):
                self._made[_key(entry)] = _filesystem(entry, options)
            elif kind == "cgroup" and hierarchies and mount.can_build_detached():
                self._made[tuple(hierarchies), options.attributes] = views.make_holder(hierarchies, options.attributes)
            elif kind in _SHOWN and isolated:
                self._make_namespace(entry, options)

    def _make_namespace(self, entry: Json, options: Options) -> None:
        flag, file = _SHOWN[str(entry["type"])]
        home = _open_namespace(file)
        try:
            namespaces.make(flag)
            self._made[flag] = _open_namespace(file)  # first: nothing shows a namespace that is not here
            self._made[_key(entry)] = _filesystem(entry, options)
        finally:
            try:
                process.setns(home, flag)
            except OSError:
                os._exit(1)  # this must never start a container; the monitor does without it
            os.close(home)

    def take(self, key: object) -> int | None:
        """A mount, from here on the caller's and the latest of all; None: there is none."""
        made = self._made.pop(key, None)
        return None if made is None else mount.renew(made)

    def enter(self, flag: int) -> bool:
        """Go into a namespace (CLONE_NEW*). :returns: False: there is none"""
        made = self._made.pop(flag, None)
        if made is None:
            return False
        process.setns(made, flag)
        os.close(made)
        return True

    def close(self) -> None:
        """Let go of what was not taken."""
        for fd in self._made.values():
            os.close(fd)
        self._made = {}


def _open_namespace(file: str) -> int:
    return os.open(f"/proc/self/ns/{file}", os.O_RDONLY | os.O_CLOEXEC)


def _key(entry: Json) -> object:
    return entry["type"], entry.get("source"), entry["destination"], tuple(cast("list[str]", entry["options"]))


def _filesystem(entry: Json, options: Options) -> int:
    made = mount.filesystem(str(entry["type"]), options.data, options.attributes, source=str(entry["source"]))
    if entry["destination"] == "/dev":
        furnish(made, nodes=True)
    return made


def make(config: Json, rootfs: Rootfs, stock: Stock | None = None, *, isolated: bool = False) -> Early:
    """As much as can be made now. What fails is tried again in its own place, where the error has a name.

    The umask must be 0.

    :param isolated: see :meth:`core.supervise.launching.Launching.configure`
    """
    if namespaces.guided(config) or userns.contained():
        return Early()  # all of it belongs to the user namespace, or its clocks
    made: dict[int, int] = {}
    unshared, root, placed = 0, -1, set[int]()
    try:
        unshared = _enter_new(config, stock, isolated=isolated)
        if not (rootfs.lower and mount.overlay_needs_place()):  # the host would see it: this is its mount namespace
            root = open_root(rootfs)
        for index, entry, options in _independent(config, unshared):
            kept = None if stock is None else stock.take(_key(entry))
            made[index] = _filesystem(entry, options) if kept is None else kept
        placed = _place(config, made)
    except (OSError, WharfError):
        for fd in Early(root, made).fds:
            os.close(fd)
        return Early(unshared=unshared)
    empty = None if stock is None else stock.take(_EMPTY)
    return Early(root, made, unshared, placed=placed, empty=-1 if empty is None else empty)


def _place(config: Json, made: Mapping[int, int]) -> set[int]:
    """Put the file systems that belong into our /dev there, unless something else in or under it comes between; returns
    which."""
    if not mount.can_build_detached():
        return set()
    dev, placed = -1, set[int]()
    for index, entry in enumerate(cast("list[Json]", config.get("mounts") or [])):
        destination = str(entry["destination"])
        folder, _, name = destination.rpartition("/")
        if destination == "/dev" and index in made and dev < 0:
            dev = made[index]
        elif folder == "/dev" and name in _IN_DEV and index in made and dev >= 0:
            mount.attach_at(made[index], dev, name)
            placed.add(index)
        elif os.path.normpath(destination).startswith(("/dev", "//dev")):
            break
    return placed


def add_cgroups(made: Early, config: Json, found: Sequence[tuple[str, str]], stock: Stock) -> Early:
    """``made`` with what the container shall see of its cgroups, which are there now, where this kernel can put
    together a tree that is mounted nowhere.

    :param found: name → folder on the host
    """
    entries = cast("list[Json]", config.get("mounts") or [])
    entry = next((entry for entry in entries if entry.get("type") == "cgroup"), None)
    if made.root < 0 or entry is None or views.single(found) or not mount.can_build_detached():
        return made
    attributes = mountopts.parse(cast("list[str]", entry.get("options") or [])).attributes
    names = tuple(name for name, _ in found)
    try:
        kept = stock.take((names, attributes))
        holder = views.make_holder(names, attributes) if kept is None else kept
        views.fill(holder, [(name, mount.clone_tree(path)) for name, path in found], attributes)
    except OSError:
        return made
    return made._replace(cgroups=holder)


def _enter_new(config: Json, stock: Stock | None, *, isolated: bool) -> int:
    """New namespaces of those that nobody else has a say in; returns CLONE_NEW*."""
    listed = namespaces.listed(config)
    kinds = (*_SOON, "network") if isolated else _SOON
    flags = [namespaces.KINDS[kind] for kind in kinds if listed.get(kind) == ""]
    namespaces.make(sum(flag for flag in flags if stock is None or not stock.enter(flag)))
    return sum(flags)


def _independent(config: Json, unshared: int) -> Iterator[tuple[int, Json, Options]]:
    """Index, entry and options of what depends on no namespace that is still to come."""
    if cast(Json, config.get("linux") or {}).get("mountLabel"):
        return
    kinds = {"tmpfs": 0, "devpts": 0, **{kind: flag for kind, (flag, _) in _SHOWN.items()}}
    for index, entry in enumerate(cast("list[Json]", config.get("mounts") or [])):
        kind, options = str(entry.get("type")), mountopts.parse(cast("list[str]", entry.get("options") or []))
        if kind not in kinds or entry.get("source") not in (kind, "shm") or is_bind(entry) or options.remount:
            continue
        if kinds[kind] & ~unshared:
            continue
        # A tmpfs that says no mode has that of the folder that it hides.
        if kind == "tmpfs" and (options.copy_up or not any(key == "mode" for key, _ in options.data)):
            continue
        yield index, entry, options


def furnish(dev: int, *, nodes: bool) -> None:
    """A fresh /dev: while no path leads there, nothing in the image can stand in the way.

    :param nodes: see :func:`core.runtime.devices.fill`
    """
    devices.fill(dev, nodes=nodes)
    for name in _IN_DEV:
        os.mkdir(name, 0o755, dir_fd=dev)
