"""Reading and writing the kernel's cgroup files: few system calls, errors that name the setting."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

from core.cgroups.layout import detect
from core.errors import Conflict, InvalidArgument, NoPrivilege, Unsupported, WharfError


class Setting(NamedTuple):
    """One value for one file of one controller. A file missing from an ``optional`` setting is passed over.

    ``reset`` marks a file with a line for each device (or the like), which the value's first word names: it is what
    takes that line back. ``otherwise`` is written instead where the kernel has no such file.
    """

    controller: str
    file: str
    value: str
    what: str  # in the user's words
    optional: bool = False
    reset: str = ""
    otherwise: Setting | None = None

    @property
    def limits(self) -> bool:
        """Does it ask for more than what a group has by itself?"""
        return not self.optional and self.value not in ("-1", "max")


Group = tuple[Setting, ...]  # settings that bound each other
Step = tuple[str, Group]  # with the folder they are written in


def read(path: str, size: int = 65536) -> str:
    """A kernel file's text (one read: these files are small)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, size).decode("ascii", "replace")
    finally:
        os.close(fd)


def read_all(path: str) -> str:
    """A kernel file's text, whatever its length."""
    with open(path, "rb") as file:
        return file.read().decode("ascii", "replace")


def write(path: str, *values: str) -> None:
    """Write each value with a write(2) of its own: the kernel parses one per call."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for value in values:
            os.write(fd, value.encode())
    finally:
        os.close(fd)


def fields(text: str) -> dict[str, int]:
    """A flat keyed file (``memory.stat``, ``cpu.stat``, ``cgroup.events``)."""
    return {key: int(value) for key, _, value in (line.partition(" ") for line in text.splitlines())}


def apply(folder: str, setting: Setting) -> None:
    """Write one setting.

    :raises Unsupported: the kernel has no such file
    :raises InvalidArgument: the kernel refuses the value
    :raises Conflict: it refuses it now
    :raises NoPrivilege: the file may not be written
    """
    try:
        # Raw values may have several lines, of which the kernel takes one at a time.
        write(f"{folder}/{setting.file}", *(setting.value.splitlines() or ["\n"]))
    except FileNotFoundError as exc:
        if setting.otherwise:
            apply(folder, setting.otherwise)
        elif not setting.optional:
            raise missing(setting) from exc
    except OSError as exc:
        raise refused(setting, exc) from exc


def apply_group(folder: str, group: Group) -> None:
    """Settings that bound each other (memory below memory + swap, quota against period): which one may go first
    depends on the old values, so the reverse order is tried where the kernel refuses the first."""
    try:
        for setting in group:
            apply(folder, setting)
    except (InvalidArgument, Conflict) as first:
        if len(group) < 2:
            raise
        try:
            for setting in (*reversed(group), *group[:-1]):
                apply(folder, setting)
        except (InvalidArgument, Conflict):
            raise first from None  # it names the value that is wrong in itself


def remember(folder: str, group: Group) -> Group:
    """The settings that bring back what ``group`` is about to change; nothing of a file that cannot be read."""
    old: list[Setting] = []
    for setting in group:
        try:
            text = read_all(f"{folder}/{setting.file}").strip()
        except OSError:
            if setting.otherwise:
                old += remember(folder, (setting.otherwise,))
            continue
        if setting.reset:
            key = setting.value.split(" ", 1)[0] + " "
            text = next((line for line in text.splitlines() if line.startswith(key)), setting.reset)
        elif text.startswith("oom_kill_disable "):
            text = text.split()[1]
        old.append(setting._replace(value=text, optional=True, otherwise=None))
    return tuple(old)


def missing(setting: Setting) -> WharfError:
    fix = "Leave the limit out, or boot a kernel with that controller; `wharf doctor` shows what this host has"
    if detect().own:
        fix = f"Leave the limit out, or have systemd delegate it: Delegate={setting.controller} for user@.service"
    return Unsupported(
        f"cannot set {setting.what}",
        f"there is no {setting.file} here (cgroup controller {setting.controller})",
        fix,
    )


def refused(setting: Setting, exc: OSError) -> WharfError:
    what = f"cannot set {setting.what} to {setting.value}"
    why = f"writing {setting.file}: {exc.strerror}"
    if exc.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
        return NoPrivilege(what, why, "Run as root on a host whose cgroup tree is writable")
    if exc.errno == errno.EBUSY:
        return Conflict(what, f"{why} (more than that is in use)", "Choose a higher value")
    return InvalidArgument(what, why, "Choose a value that this host can give")


def subfolders(folder: str) -> Iterator[str]:
    """Every group below ``folder``, the deepest first, ``folder`` last; nothing where it is gone."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for name in names:
        yield from subfolders(f"{folder}/{name}")
    yield folder


def pids_in(folder: str) -> list[int]:
    """Processes of a group and of those below, sorted; a group that vanishes meanwhile counts as empty."""
    found: set[int] = set()
    for sub in subfolders(folder):
        try:
            found.update(int(word) for word in read_all(f"{sub}/cgroup.procs").split())
        except OSError as exc:
            # A threaded group has no processes of its own (EOPNOTSUPP); ENODEV: removed while open.
            if exc.errno not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
                raise
    return sorted(found)
