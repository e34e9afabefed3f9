"""The container's file tree: root, mounts, devices, masks. Runs in the child's own mount namespace.

Every destination is opened below the root by ``openat2`` and every mount is moved onto that descriptor: no path of the
image's is ever followed outside, whoever swaps links meanwhile (CVE-2021-30465, CVE-2025-52881).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import cast

from core.errors import StartFailed, Unsupported
from core.kernel import libc, lsm, mount, resolve, userns
from core.runtime import copyup, covers, devices, mountopts, views
from core.runtime.defaults import Json
from core.runtime.early import furnish
from core.runtime.mountopts import Options
from core.runtime.sources import Sources
from core.runtime.task import InitTask, Report

_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_HOSTS = {"proc": "/proc", "sysfs": "/sys", "mqueue": "/dev/mqueue"}
# What lxcfs shows a container instead of the host's figures: read only, and nothing that init writes to.
_FIGURES = frozenset(
    f"/proc/{name}" for name in "cpuinfo diskstats meminfo stat swaps uptime loadavg slabinfo pressure".split()
)
_KERNELS = {0x9FA0: "/proc", 0x62656572: "/sys"}  # PROC_SUPER_MAGIC, SYSFS_MAGIC


class Tree:
    """The root under construction.

    ``root`` is a descriptor of it; ``special`` holds those of /proc, /sys, /dev … as mounted by us, so that what is
    written there cannot go anywhere else (CVE-2019-16884, CVE-2023-27561).
    """

    def __init__(self, task: InitTask, report: Report, sources: Sources) -> None:
        self._task = task
        self._report = report
        self._sources = sources
        self._linux = cast(Json, task.config.get("linux") or {})
        self.root = sources.root
        self.special: dict[str, int] = {}
        self._proc = -1
        self._ordinary: set[int] = set()  # st_dev of file systems that are not the kernel's

    def build(self, *, attached: bool) -> None:
        """Mount everything that the configuration asks for; the root is not entered yet.

        :param attached: False: without a mount namespace of our own the root stays detached (Linux 6.15)
        """
        if attached:
            # Kernels before 6.15 refuse to mount inside a tree that is still detached. Not on a descriptor of ".": in
            # a user namespace, where that folder is nobody's, we may not open it.
            self._report.at("putting the root in its place")
            mount.attach(self.root, libc.AT_FDCWD)
        mounts = cast("list[Json]", self._task.config.get("mounts") or [])
        for index, entry in enumerate(mounts):
            self._report.at(f"mounting {entry['destination']}")
            options = mountopts.parse(cast("list[str]", entry.get("options") or []))
            if index in self._task.early.placed:
                self.special[str(entry["destination"])] = self._task.early.mounts[index]
            elif options.remount:
                self._remount(str(entry["destination"]), options)
            elif index in self._sources.binds:
                self._attach_bind(str(entry["destination"]), options, self._sources.binds[index])
            elif entry.get("type") in ("cgroup", "cgroup2"):
                self._mount_cgroups(str(entry["destination"]), options.attributes)
            else:
                self._mount_filesystem(index, entry, options)
        self._report.at("making devices")
        self._devices()

    def cover(self) -> None:
        """What must wait until nothing more is mounted: kernel settings, then read-only and masked paths."""
        # Settings first: they need /proc/sys writable, which a read-only path may take away.
        covers.set_sysctls(self.proc(), cast("dict[str, str]", self._linux.get("sysctl") or {}), self._report)
        for path in cast("list[str]", self._linux.get("readonlyPaths") or []):
            self._report.at(f"making {path} read-only")
            covers.make_readonly(self._existing(path))
        masks = covers.Mask(self._null, self._task.early.empty)
        for path in cast("list[str]", self._linux.get("maskedPaths") or []):
            self._report.at(f"masking {path}")
            masks.put(self._existing(path))
        masks.close()

    def proc(self) -> int:
        """A proc file system of our own; where the container has none, one that nobody else sees."""
        if self._proc < 0:
            self._proc = self.special["/proc"] if "/proc" in self.special else mount.filesystem("proc")
        return self._proc

    # -- binds
    def _attach_bind(self, destination: str, options: Options, source: int) -> None:
        source = mount.renew(source, recursive=True)  # mounts are made in the order of config.json
        _set_attributes(source, options)
        if stat.S_ISDIR(os.fstat(source).st_mode):
            target = self._directory(destination)
        else:
            target = resolve.make_file(self.root, destination)
        self._refuse_kernels(target, destination)
        mount.attach(source, target)
        os.close(target)
        os.close(source)
        self._forget(destination)

    def _forget(self, destination: str) -> None:
        """Something of the user's is there now: what we had there is not what is seen."""
        if destination in self.special:
            os.close(self.special.pop(destination))

    def _remount(self, destination: str, options: Options) -> None:
        target = resolve.open_in_root(self.root, destination, os.O_PATH)
        self._refuse_kernels(target, destination, itself=True)
        _set_attributes(target, options)
        if options.data and not options.bind:
            mount.reconfigure(target, options.data)
        os.close(target)

    # -- file systems
    def _mount_filesystem(self, index: int, entry: Json, options: Options) -> None:
        destination, kind = str(entry["destination"]), str(entry.get("type") or "")
        data = list(options.data)
        told = any(key == "mode" for key, _ in data)
        # As with runc, a tmpfs has the mode of the folder that it hides; one on a new folder is everybody's.
        mode = self._mode_of(destination) if kind == "tmpfs" and (options.copy_up or not told) else None
        if mode is not None and not told:
            data.append(("mode", f"{mode:o}"))
        # To be copied into it must be writable at first.
        attributes = options.attributes & ~(mount.ATTR_RDONLY if options.copy_up else 0)
        if index in self._task.early.mounts:
            made = self._task.early.mounts[index]
        else:
            made = self._filesystem(kind, data, attributes, str(entry.get("source") or ""))
            if destination == "/dev":
                furnish(made, nodes=not self._sources.contained)
        target = self._directory(destination)
        self._refuse_kernels(target, destination)
        if options.copy_up:
            if mode is not None:
                readable = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
                image, fresh = (os.open(".", readable, dir_fd=fd) for fd in (target, made))
                copyup.copy_tree(image, fresh)
                os.close(image)
                os.close(fresh)
            mount.set_attributes(made, options.attributes)  # it may be read-only from here on
        mount.attach(made, target)
        os.close(target)
        for propagation, deep in options.propagation:
            mount.set_attributes(made, 0, propagation=propagation, recursive=deep)
        self._forget(destination)
        self.special[destination] = made

    def _mode_of(self, destination: str) -> int | None:
        try:
            fd = resolve.open_in_root(self.root, destination, _DIRECTORY)
        except OSError:
            return None
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        os.close(fd)
        return mode

    def _filesystem(self, kind: str, data: list[tuple[str, str | None]], attributes: int, source: str) -> int:
        if kind == "devpts" and self._sources.contained and not userns.mapped(userns.read_map("gid"), 5):
            data = [pair for pair in data if pair != ("gid", "5")]  # its group is nobody's here
        label = str(self._linux.get("mountLabel") or "")
        if label and kind in ("tmpfs", "mqueue", "devpts", "shm"):
            if not lsm.selinux_enabled(self.proc()):
                raise Unsupported("cannot label mounts", "SELinux is not enabled in this kernel", "Drop mountLabel")
            data.append(("context", label))
        try:
            made = mount.filesystem(kind, data, attributes, source=source)
        except PermissionError:
            if kind not in _HOSTS:
                raise
            # In a user namespace only who owns the pid, network or IPC namespace may have a new one; the host's is no
            # more than what can be seen anyway, and what may not be written by others is not written by us.
            try:
                made = mount.clone_tree(_HOSTS[kind], recursive=True)
            except FileNotFoundError:  # a host without message queues: nor has this container any
                made = mount.filesystem("tmpfs", (), attributes | mount.ATTR_RDONLY)
            mount.set_attributes(made, attributes, propagation=mount.MS_SLAVE, recursive=True)
        return made

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

    def _refuse_kernels(self, target: int, destination: str, *, itself: bool = False) -> None:
        """Nothing but our cgroup view is put into our /proc and /sys: init writes there, and so would write to what a
        link in the image has led there (CVE-2019-16884, CVE-2019-19921). Asked of the opened place, not of its name.

        :param itself: nothing is put there, it is only changed: allowed where it was asked for by name
        """
        device = os.fstat(target).st_dev
        if device in self._ordinary:
            return
        place = _KERNELS.get(libc.filesystem_type(target))
        own_proc = "/proc" in self.special and device == os.fstat(self.special["/proc"]).st_dev
        if own_proc and destination in _FIGURES and not itself:
            return
        named = place is not None and f"{destination}/".startswith(f"{place}/")
        # Below /sys a mount is what was asked for, and nothing is written there.
        if place and not (named and (itself or (place == "/sys" and destination != "/sys"))):
            raise StartFailed(
                f"cannot mount on {destination}",
                f"in this image it leads into {place}, which init needs itself",
                "Choose another target",
            )
        if not place:
            self._ordinary.add(device)

    def _mount_cgroups(self, destination: str, attributes: int) -> None:
        """This container's own cgroups, as ``destination`` itself (v2) or as one folder per hierarchy (v1)."""
        found, early = self._sources.views, self._task.early.cgroups
        target = self._directory(destination)
        if early >= 0:
            holder = early
        elif views.single(found):
            holder = found[0][1]
            views.prepare(holder, attributes)
            found = []
        else:
            holder = views.make_holder([name for name, _ in found], attributes)
        mount.attach(holder, target)
        os.close(target)
        views.fill(holder, found, attributes)
        os.close(holder)

    # -- devices
    def _devices(self) -> None:
        sources = self._sources.devices
        dev = self.own_dev()
        if dev is not None:
            if "/dev" not in self.special:
                devices.fill(dev, nodes=not self._sources.contained)
            if self._sources.contained:
                devices.bind(dev, sources)
        for device in cast("list[Json]", self._linux.get("devices") or []):
            path = os.path.normpath(str(device["path"]))
            if path == "/dev/ptmx":
                continue  # a privileged container lists it too, but its own is that of its own devpts
            self._report.at(f"making the device {path}")
            source = sources.pop(str(device["path"]), None)
            if source is None and self._sources.contained and device["type"] != "p":
                continue  # a default one: it is there
            if not path.startswith("/dev/"):
                devices.add(self.root, path, device, source)
            elif dev is not None:
                devices.add(dev, path.removeprefix("/dev/"), device, source)
            # Else /dev is somebody's own, the host's perhaps: its devices are not ours to make, or to change owners of.

    def own_dev(self) -> int | None:
        """The container's /dev; None where it is somebody else's, bound there, which we leave alone."""
        if "/dev" in self.special:
            return self.special["/dev"]
        mounts = cast("list[Json]", self._task.config.get("mounts") or [])
        if any(os.path.normpath(str(entry["destination"])) == "/dev" for entry in mounts):
            return None
        how = resolve.IN_ROOT | resolve.NO_SYMLINKS  # a link would have us make devices elsewhere (CVE-2026-41579)
        try:
            return resolve.open_in_root(self.root, "/dev", _DIRECTORY, resolve=how)
        except FileNotFoundError:
            return resolve.make_dirs(self.root, "/dev")

    def _null(self) -> int:
        """Our own /dev/null, checked: a masked path must never become a way to something else (CVE-2025-31133)."""
        if "null" not in self.special:
            dev = self.own_dev()
            place = self.root if dev is None else dev
            name = "dev/null" if dev is None else "null"
            fd = resolve.open_in_root(
                place, name, os.O_PATH | os.O_NOFOLLOW, resolve=resolve.IN_ROOT | resolve.NO_SYMLINKS
            )
            status = os.fstat(fd)
            if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(1, 3):
                raise StartFailed("/dev/null in the container is not the null device", step="masking")
            self.special["null"] = fd
        return self.special["null"]

    # -- later
    def _existing(self, path: str) -> int | None:
        """``path`` in the mount of ours that holds it; None where this kernel has no such file."""
        base, rest, how = self.root, path, resolve.IN_ROOT  # links of the image lead to what they mean, inside
        for prefix in ("/proc", "/sys", "/dev"):
            if f"{path}/".startswith(prefix + "/"):
                how |= resolve.NO_SYMLINKS  # but for these there is one place alone
                if prefix in self.special:
                    base, rest = self.special[prefix], path[len(prefix) + 1 :]
        try:
            return resolve.open_in_root(base, rest, os.O_PATH, resolve=how)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise

    def make_readonly_root(self) -> None:
        mount.set_attributes(self.root, mount.ATTR_RDONLY)


def _set_attributes(fd: int, options: Options) -> None:
    if options.attributes or options.cleared:
        mount.set_attributes(fd, options.attributes, clear=options.cleared)
    if options.deep_attributes or options.deep_cleared:
        mount.set_attributes(fd, options.deep_attributes, clear=options.deep_cleared, recursive=True)
    for propagation, deep in options.propagation:
        mount.set_attributes(fd, 0, propagation=propagation, recursive=deep)


def with_umask(mask: int, work: Callable[[], None]) -> None:
    """Run ``work`` under ``mask``: modes of devices and folders must be what they say."""
    before = os.umask(mask)
    try:
        work()
    finally:
        os.umask(before)
