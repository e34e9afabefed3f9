"""The container's file tree: overlay root, mounts, devices, masks. Runs in the child's own mount namespace.

Every destination is opened below the root by ``openat2`` and every mount is moved onto that descriptor: no path of the
image's is ever followed outside, whoever swaps links meanwhile (CVE-2021-30465, CVE-2025-52881).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from core.errors import StartFailed
from core.kernel import libc, mount, resolve
from core.runtime import defaults
from core.runtime.defaults import Json
from core.runtime.task import InitTask, Report

_ATTRIBUTES = {
    "ro": mount.ATTR_RDONLY,
    "nosuid": mount.ATTR_NOSUID,
    "nodev": mount.ATTR_NODEV,
    "noexec": mount.ATTR_NOEXEC,
    "noatime": mount.ATTR_NOATIME,
    "strictatime": mount.ATTR_STRICTATIME,
    "nodiratime": mount.ATTR_NODIRATIME,
    "nosymfollow": mount.ATTR_NOSYMFOLLOW,
}
_NO_EFFECT = frozenset("rw suid dev exec relatime bind rbind atime diratime defaults z Z".split())
_PROPAGATION = {
    "private": (mount.MS_PRIVATE, False),
    "rprivate": (mount.MS_PRIVATE, True),
    "slave": (mount.MS_SLAVE, False),
    "rslave": (mount.MS_SLAVE, True),
    "shared": (mount.MS_SHARED, False),
    "rshared": (mount.MS_SHARED, True),
}
_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_KERNELS = {0x9FA0: "/proc", 0x62656572: "/sys"}  # PROC_SUPER_MAGIC, SYSFS_MAGIC


class Tree:
    """The root under construction.

    ``root`` is a descriptor of it; ``special`` holds those of /proc, /sys, /dev … as mounted by us, so that what is
    written there cannot go anywhere else (CVE-2019-16884, CVE-2023-27561).
    """

    def __init__(self, task: InitTask, report: Report) -> None:
        self._task = task
        self._report = report
        self.root = -1
        self.special: dict[str, int] = {}

    def build(self) -> None:
        """Mount everything that the configuration asks for; the root is not entered yet."""
        config = self._task.config
        linux = cast(Json, config["linux"])
        mounts = cast("list[Json]", config["mounts"])
        # Sources first: while the host's mounts are still peers of ours, a copy made for `rshared` stays one.
        sources = {id(entry): self._open_source(entry) for entry in mounts if entry["type"] == "bind"}
        # Then cut the tie, before anything is mounted: otherwise the host would see every mount of ours.
        self._report.at("cutting mount propagation")
        mount.set_root_propagation(mount.MS_SLAVE)
        self._mount_root()
        for entry in mounts:
            self._report.at(f"mounting {entry['destination']}")
            if id(entry) in sources:
                self._attach_bind(entry, sources[id(entry)])
            else:
                self._mount_filesystem(entry)
        self._report.at("making devices")
        self._extra_devices(cast("list[Json]", linux.get("devices", [])))
        self._sysctls(cast("dict[str, str]", linux.get("sysctl", {})))
        # After the sysctls, which need /proc/sys writable; before the masks, which may lie inside.
        for path in cast("list[str]", linux.get("readonlyPaths", [])):
            self._report.at(f"making {path} read-only")
            self._make_readonly(path)
        for path in cast("list[str]", linux.get("maskedPaths", [])):
            self._report.at(f"masking {path}")
            self._mask(path)

    def _mount_root(self) -> None:
        self._report.at("mounting the root file system")
        layers = self._task.rootfs
        if layers.lower:
            self.root = mount.overlay(layers.lower, layers.upper, layers.work)
        else:
            self.root = mount.clone_tree(layers.upper)  # an image without layers: only what is written
        target = os.open(self._task.mount_point, _DIRECTORY | os.O_CLOEXEC)
        # Kernels before 6.15 refuse to mount inside a tree that is still detached.
        mount.attach(self.root, target)
        os.close(target)

    # -- binds
    def _open_source(self, entry: Json) -> int:
        source = str(entry["source"])
        self._report.at(f"opening {source}")
        return mount.clone_tree(source, recursive="rbind" in cast("list[str]", entry["options"]))

    def _attach_bind(self, entry: Json, source: int) -> None:
        options = cast("list[str]", entry["options"])
        attributes, _ = _split_options(options)
        recursive = "rbind" in options
        if attributes:
            # Everything below as well: a read-only volume must not have a writable corner.
            mount.set_attributes(source, attributes, recursive=recursive)
        for option in options:
            if option in _PROPAGATION:
                kind, deep = _PROPAGATION[option]
                mount.set_attributes(source, 0, propagation=kind, recursive=deep)
        destination = str(entry["destination"])
        if stat.S_ISDIR(os.fstat(source).st_mode):
            target = self._directory(destination)
        else:
            target = resolve.make_file(self.root, destination)
        _refuse_kernels(target, destination)
        mount.attach(source, target)
        os.close(target)
        os.close(source)

    # -- file systems
    def _mount_filesystem(self, entry: Json) -> None:
        destination, kind = str(entry["destination"]), str(entry["type"])
        attributes, data = _split_options(cast("list[str]", entry["options"]))
        if kind in ("cgroup", "cgroup2"):
            self._mount_cgroups(destination, attributes)
            return
        made = mount.filesystem(kind, data, attributes, source=str(entry.get("source", "")))
        if destination == "/dev":
            _fill_dev(made)  # while no path leads there: nothing in the image can stand in the way
        target = self._directory(destination)
        _refuse_kernels(target, destination)
        mount.attach(made, target)
        os.close(target)
        self.special[destination] = made

    def _directory(self, destination: str) -> int:
        """The mount point ``destination``, made where it is missing; never a link for /proc and /sys."""
        if destination in ("/proc", "/sys"):
            try:
                return resolve.open_in_root(
                    self.root, destination, _DIRECTORY, resolve=resolve.IN_ROOT | resolve.NO_SYMLINKS
                )
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                    raise
                raise StartFailed(
                    f"{destination} in the image is not a directory",
                    "a link there could lead what init writes to another place (CVE-2019-16884)",
                    "Mend the image",
                ) from error
        return resolve.make_dirs(self.root, destination)

    def _mount_cgroups(self, destination: str, attributes: int) -> None:
        """This container's own cgroups, as ``destination`` itself (v2) or as one folder per hierarchy (v1)."""
        target = self._directory(destination)
        views = self._task.cgroup_views
        if [name for name, _ in views] == [""]:
            self._attach_view(views[0][1], target, attributes)
            os.close(target)
            return
        holder = mount.filesystem("tmpfs", [("mode", "755")], attributes & ~mount.ATTR_RDONLY, source="tmpfs")
        for name, _ in views:
            os.mkdir(name, 0o755, dir_fd=holder)
            for part in name.split(",") if "," in name else ():
                os.symlink(name, part, dir_fd=holder)  # cpu → cpu,cpuacct
        mount.attach(holder, target)
        os.close(target)
        for name, folder in views:
            place = os.open(name, _DIRECTORY | os.O_CLOEXEC, dir_fd=holder)
            self._attach_view(folder, place, attributes)
            os.close(place)
        mount.set_attributes(holder, attributes)
        os.close(holder)

    def _attach_view(self, folder: str, target: int, attributes: int) -> None:
        view = mount.clone_tree(folder)
        mount.set_attributes(view, attributes, clear=mount.ATTR_ATIME, propagation=mount.MS_PRIVATE)
        mount.attach(view, target)
        os.close(view)

    # -- devices, sysctls, masks
    def _extra_devices(self, devices: Sequence[Json]) -> None:
        for device in devices:
            folder, name = os.path.split(os.path.normpath(str(device["path"])))
            parent = resolve.make_dirs(self.root, folder)
            kind = stat.S_IFBLK if device["type"] == "b" else stat.S_IFCHR
            number = os.makedev(cast(int, device["major"]), cast(int, device["minor"]))
            mode = cast(int, device.get("fileMode", 0o666))
            try:
                os.mknod(name, mode | kind, number, dir_fd=parent)
                os.chown(
                    name,
                    cast(int, device.get("uid", 0)),
                    cast(int, device.get("gid", 0)),
                    dir_fd=parent,
                    follow_symlinks=False,
                )
            except FileExistsError:
                pass  # one of the defaults
            os.close(parent)

    def _sysctls(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            self._report.at(f"setting sysctl {name}")
            path = "sys/" + name.replace(".", "/")
            how = resolve.BENEATH | resolve.NO_SYMLINKS | resolve.NO_XDEV
            fd = resolve.open_in_root(self.special["/proc"], path, os.O_WRONLY, resolve=how)
            os.write(fd, value.encode())
            os.close(fd)

    def _open_existing(self, path: str) -> int | None:
        """``path`` in the mount of ours that holds it; None where this kernel has no such file."""
        for prefix in ("/proc", "/sys", "/dev"):
            if path.startswith(prefix + "/") and prefix in self.special:
                base, rest, how = self.special[prefix], path[len(prefix) + 1 :], resolve.BENEATH
                break
        else:
            base, rest, how = self.root, path, resolve.IN_ROOT
        try:
            return resolve.open_in_root(base, rest, os.O_PATH, resolve=how | resolve.NO_SYMLINKS)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise

    def _make_readonly(self, path: str) -> None:
        target = self._open_existing(path)
        if target is None:
            return
        copy = mount.clone_tree(target, recursive=True)
        mount.set_attributes(copy, mount.ATTR_RDONLY, recursive=True)
        mount.attach(copy, target)
        os.close(copy)
        os.close(target)

    def _mask(self, path: str) -> None:
        target = self._open_existing(path)
        if target is None:
            return
        if stat.S_ISDIR(os.fstat(target).st_mode):
            cover = mount.filesystem("tmpfs", [("nr_blocks", "1"), ("nr_inodes", "1")], mount.ATTR_RDONLY)
        else:
            cover = mount.clone_tree(self._null())
        mount.attach(cover, target)
        os.close(cover)
        os.close(target)

    def _null(self) -> int:
        """Our own /dev/null, checked: a masked path must never become a way to something else (CVE-2025-31133)."""
        if "null" not in self.special:
            fd = os.open("null", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.special["/dev"])
            status = os.fstat(fd)
            if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(1, 3):
                raise StartFailed("/dev/null in the container is not the null device", step="masking")
            self.special["null"] = fd
        return self.special["null"]

    def make_readonly_root(self) -> None:
        mount.set_attributes(self.root, mount.ATTR_RDONLY)


def _refuse_kernels(target: int, destination: str) -> None:
    """Nothing but our cgroup view is put into our /proc and /sys: init writes there, and so would write to what a link
    in the image has led there (CVE-2019-16884, CVE-2019-19921). Asked of the opened place, not of its name."""
    place = _KERNELS.get(libc.filesystem_type(target))
    if place and not destination.startswith("/sys/"):  # that is what was asked for, and nothing is written there
        raise StartFailed(
            f"cannot mount on {destination}",
            f"in this image it leads into {place}, which init needs itself",
            "Choose another target",
        )


def _split_options(options: Sequence[str]) -> tuple[int, list[tuple[str, str | None]]]:
    """Mount attributes, and what is left for the file system itself."""
    attributes = 0
    data: list[tuple[str, str | None]] = []
    for option in options:
        if option in _ATTRIBUTES:
            attributes |= _ATTRIBUTES[option]
        elif option not in _NO_EFFECT and option not in _PROPAGATION:
            key, equals, value = option.partition("=")
            data.append((key, value if equals else None))
    return attributes, data


def _fill_dev(dev: int) -> None:
    """Default devices, links and mount points (config-linux.md, "Default Devices" and "Default Filesystems")."""
    for name, major, minor in defaults.DEVICES:
        os.mknod(name, 0o666 | stat.S_IFCHR, os.makedev(major, minor), dir_fd=dev)
    for name, target in defaults.DEVICE_LINKS:
        os.symlink(target, name, dir_fd=dev)
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(name, 0o755, dir_fd=dev)


def with_umask(mask: int, work: Callable[[], None]) -> None:
    """Run ``work`` under ``mask``: modes of devices and folders must be what they say."""
    before = os.umask(mask)
    try:
        work()
    finally:
        os.umask(before)
