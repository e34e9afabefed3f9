"""Reading and writing the kernel's cgroup files: few system calls, errors that name the setting."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

from core.errors import Conflict, InvalidArgument, NoPrivilege, Unsupported, WharfError


class Setting(NamedTuple):
    """One value for one file of one controller. A file missing from an ``optional`` setting is passed over."""

    controller: str
    file: str
    value: str
    what: str  # in the user's words
    optional: bool = False


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
        write(f"{folder}/{setting.file}", setting.value)
    except FileNotFoundError as exc:
        if not setting.optional:
            raise missing(setting) from exc
    except OSError as exc:
        raise refused(setting, exc) from exc


def apply_group(folder: str, group: tuple[Setting, ...]) -> None:
    """Settings that bound each other (memory below memory + swap, quota against period): which one may go first
    depends on the old values, so the reverse order is tried where the kernel refuses the first."""
    try:
        for setting in group:
            apply(folder, setting)
    except (InvalidArgument, Conflict):
        if len(group) < 2:
            raise
        for setting in (*reversed(group), *group[:-1]):
            apply(folder, setting)


def missing(setting: Setting) -> WharfError:
    return Unsupported(
        f"cannot set {setting.what}",
        f"the kernel has no {setting.file} (cgroup controller {setting.controller})",
        "Leave the limit out, or boot a kernel with that controller; `wharf doctor` shows what this host has",
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
