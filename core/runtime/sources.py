"""What a container is built from, opened with the host's rights: the root, the sources of its bind mounts, its cgroups.

Everything here is a detached mount, held by a descriptor. It is made before the mount namespace loses its tie to the
host, and before a user namespace takes our rights away; :mod:`core.runtime.rootfs` then puts the pieces together.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from typing import cast

from core.errors import StartFailed
from core.kernel import mount, process, resolve, userns
from core.runtime import defaults, devices, mountopts, namespaces
from core.runtime.defaults import Json
from core.runtime.task import InitTask, Report, Rootfs

_CGROUPS = ("cgroup", "cgroup2")


def is_bind(entry: Json) -> bool:
    """Is it a bind mount, by its type or by its options (config.md, "Mounts")?"""
    options = cast("list[str]", entry.get("options") or [])
    return entry.get("type") == "bind" or "bind" in options or "rbind" in options


class Sources:
    """The detached mounts of one start.

    :param home: the user namespace that will be entered, None for none
    """

    def __init__(self, task: InitTask, report: Report, home: int | None) -> None:
        self._task = task
        self._report = report
        self._home = home
        self.root = -1
        self.binds: dict[int, int] = {}  # index in config.json's mounts → mount
        self.views: list[tuple[str, int]] = []  # name below /sys/fs/cgroup → mount
        self.devices: dict[str, int] = {}  # path of a device that cannot be made, only bound → mount
        self.contained = home is not None or userns.contained()

    def open_binds(self) -> None:
        """What is a mount of the host's. :raises StartFailed: :raises OSError:"""
        config = self._task.config
        mounts = cast("list[Json]", config.get("mounts") or [])
        for index, entry in enumerate(mounts):
            if is_bind(entry) and "remount" not in cast("list[str]", entry.get("options") or []):
                self.binds[index] = self._open_bind(entry)
        if self._task.early.cgroups < 0 and any(entry.get("type") in _CGROUPS for entry in mounts):
            for name, folder in self._task.cgroup_views:
                self._report.at(f"opening {folder}")
                self.views.append((name, mount.clone_tree(folder)))

    def open_rest(self) -> None:
        """What is put together here, in places that the host must not see: devices and the root.

        :raises StartFailed: :raises Unsupported: :raises OSError:
        """
        if self.contained:
            listed = cast("list[Json]", cast(Json, self._task.config.get("linux") or {}).get("devices") or [])
            usual = ({"path": f"/dev/{name}", "type": "c", "major": m, "minor": n} for name, m, n in defaults.DEVICES)
            wanted: dict[str, Json] = {str(device["path"]): device for device in (*usual, *listed)}
            if userns.contained():
                self._open_devices(wanted)
            else:
                self._make_devices(wanted)
        self._report.at("mounting the root file system")
        self.root = self._task.early.root if self._task.early.root >= 0 else self._open_root()
        # The root will hang where we stand: a place that can be named in the next mount namespace too, and that needs
        # no rights on the folders above it.
        os.chdir(self._task.mount_point)

    def _open_bind(self, entry: Json) -> int:
        options = mountopts.parse(cast("list[str]", entry.get("options") or []))
        source = os.path.join(self._task.bundle, str(entry.get("source") or ""))
        self._report.at(f"opening {source}")
        if self._task.shm >= 0 and entry["destination"] == "/dev/shm":
            made = clone_elsewhere(self._task.shm, "dev/shm")
        else:
            made = mount.clone_tree(source, recursive=options.recursive)
        kinds = [kind for kind, _ in options.propagation]
        if mount.MS_SHARED not in kinds:
            # What is mounted inside later must not appear at the source.
            mount.set_attributes(made, 0, propagation=mount.MS_SLAVE, recursive=True)
        self._map(entry, options.map_ids, made)
        return made

    def _map(self, entry: Json, how: str, made: int) -> None:
        """``idmap`` and ``ridmap``, by the mount's own mappings or by the container's."""
        if not how and not entry.get("uidMappings"):
            return
        self._report.at(f"mapping the ids of {entry['destination']}")
        home = self._home
        if entry.get("uidMappings"):
            uids, gids = namespaces.ranges(entry["uidMappings"]), namespaces.ranges(entry["gidMappings"])
            home = namespaces.make_user_namespace(uids, gids)
        if home is None:
            raise StartFailed(
                f"cannot map the ids of {entry['destination']}",
                "neither the mount has mappings nor the container a user namespace",
                "Give uidMappings and gidMappings",
            )
        try:
            mount.map_ids(made, home, recursive=how == "ridmap")
        finally:
            if home != self._home:
                os.close(home)

    def _owner(self, uid: int = 0, gid: int = 0) -> tuple[int, int]:
        """What the container's ids are called here; root where we know no name (its maps are another's)."""
        uids, gids = namespaces.mappings(self._task.config)
        return userns.outside(uids, uid) or 0, userns.outside(gids, gid) or 0

    def _make_devices(self, wanted: Mapping[str, Json]) -> None:
        """In a user namespace no device can be made: we make them, for its root to own."""
        holder = mount.filesystem("tmpfs", [("mode", "0700")], mount.ATTR_NOSUID | mount.ATTR_NOEXEC, source="tmpfs")
        place = os.open(self._task.mount_point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mount.attach(holder, place)
        os.close(place)
        for number, (path, device) in enumerate(wanted.items()):
            if device["type"] == "p":
                continue
            self._report.at(f"making the device {path}")
            owner = self._owner(cast(int, device.get("uid") or 0), cast(int, device.get("gid") or 0))
            devices.make_aside(holder, str(number), device, owner)
            self.devices[path] = mount.clone_tree(f"{self._task.mount_point}/{number}")
        mount.umount(self._task.mount_point)
        os.close(holder)

    def _open_devices(self, wanted: Mapping[str, Json]) -> None:
        """Where we cannot make one either, the host's own is bound, as it is there."""
        for path, device in wanted.items():
            if device["type"] == "p":
                continue
            self._report.at(f"opening {path}")
            number = os.makedev(cast(int, device["major"]), cast(int, device["minor"]))
            made = mount.clone_tree(_host_device(path, number))
            status = os.fstat(made)
            if status.st_rdev != number or not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
                raise StartFailed(
                    f"cannot give the container {path}",
                    "in a user namespace only devices of the host can be had, and there it is another",
                    "Leave it out",
                )
            self.devices[path] = made

    def _open_root(self) -> int:
        layers = self._task.rootfs
        home = self._home if layers.map_ids else None
        if home is not None and layers.lower and not layers.path:
            return mount.mapped_overlay(layers.lower, layers.upper, layers.work, home, self._owner())
        made = open_root(layers)
        if home is not None:
            mount.map_ids(made, home)
        return made


def open_root(layers: Rootfs) -> int:
    """The root file system as a detached mount, its owners as they are. :raises OSError:"""
    if layers.lower and not layers.path:
        return mount.overlay(layers.lower, layers.upper, layers.work)
    made = mount.clone_tree(layers.path or layers.upper, recursive=bool(layers.path))
    # Otherwise whatever is mounted inside would be mounted in the host's folder too.
    mount.set_attributes(made, 0, propagation=mount.MS_SLAVE, recursive=True)
    return made


def _host_device(path: str, number: int) -> str:
    """The host's name of a device that is called ``path`` in the container: the same, or what the kernel calls it."""
    with contextlib.suppress(OSError):
        if os.stat(path).st_rdev == number:
            return path
    for kind in ("char", "block"):
        with contextlib.suppress(OSError):
            fd = os.open(f"/sys/dev/{kind}/{os.major(number)}:{os.minor(number)}/uevent", os.O_RDONLY | os.O_CLOEXEC)
            lines = os.read(fd, 4096).splitlines()
            os.close(fd)
            name = next((line[8:] for line in lines if line.startswith(b"DEVNAME=")), b"")
            if name and os.stat(b"/dev/" + name).st_rdev == number:
                return os.fsdecode(b"/dev/" + name)
    return path


def clone_elsewhere(namespace: int, path: str) -> int:
    """A detached copy of a mount in another mount namespace.

    The kernel copies mounts of the caller's own namespace alone: /proc/PID/root/… leads to it, but it cannot be bound
    from there. So this process, which has one thread, goes there and comes back. That changes its folder.
    """
    home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    process.setns(namespace, process.CLONE_NEWNS)
    try:
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        # It is the other container's tree: no link in it may say what is shared.
        how = resolve.IN_ROOT | resolve.NO_SYMLINKS
        place = resolve.open_in_root(root, path, os.O_PATH | os.O_DIRECTORY, resolve=how)
        made = mount.clone_tree(place)
        os.close(place)
        os.close(root)
        return made
    finally:
        process.setns(home, process.CLONE_NEWNS)
        os.close(home)
