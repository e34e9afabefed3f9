"""Control groups: limits, meters, freezing and killing, on cgroup v1, hybrid and v2 alike.

A group is named by a path relative to the hierarchies' roots (``wharf-ab12cd/ID``); on v1 it is a folder in each of
them. ``layout`` knows what the host has, ``v1`` and ``v2`` write the OCI's ``linux.resources`` in their own files,
``devices`` folds device rules, ``sampler`` reads counters. This page puts them together. Standard library only: the
launcher and the monitors import it.

Getting a process in, fastest first:

- :func:`born_in` gives a descriptor for :func:`core.kernel.clone.fork_into`: the child starts in the v2 group.
- :func:`enter_self`: a child of one thread moves itself, before it does anything else.
- :func:`enter`: any process from outside; may wait 10 ms for the kernel.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

from core.cgroups import files, v1, v2
from core.cgroups.layout import Hierarchy, Layout, check_path, detect
from core.cgroups.sampler import Counters, Sampler
from core.errors import Conflict, InUse, NoPrivilege, Timeout, WharfError
from core.kernel.clone import can_fork_into

__all__ = [
    "Counters",
    "Hierarchy",
    "Layout",
    "Sampler",
    "born_in",
    "children",
    "create",
    "detect",
    "enter",
    "enter_self",
    "exists",
    "freeze",
    "frozen",
    "kill",
    "oom_kills",
    "pids",
    "remove",
]


# Part of the OCI's resources -> its controller's name in v1 and in v2.
_CONTROLLER = {
    "memory": ("memory", "memory"),
    "cpu": ("cpu", "cpu"),
    "pids": ("pids", "pids"),
    "blockIO": ("blkio", "io"),
    "hugepageLimits": ("hugetlb", "hugetlb"),
}


def create(path: str, resources: Mapping[str, Any]) -> None:
    """Make a fresh group with the limits given; on any error nothing stays behind.

    :param path: relative, such as ``wharf/ID``; its parents are made when missing and stay
    :param resources: the OCI runtime specification's ``linux.resources``
    :raises Conflict: a group of that name has processes
    :raises Unsupported: the kernel lacks a controller that a limit needs
    :raises InvalidArgument: a value the kernel refuses
    :raises NoPrivilege: the cgroup tree is not writable
    """
    check_path(path)
    layout = detect()
    try:
        _make(layout, path)
        _limit(layout, path, resources)
    except (OSError, WharfError) as exc:
        if isinstance(exc, Conflict) and exc.step == "make":
            raise
        _remove_quietly(path)
        if isinstance(exc, WharfError):
            raise
        raise _not_made(path, exc) from exc


def _make(layout: Layout, path: str) -> None:
    try:
        _make_folders(layout, path)
    except FileExistsError:
        # Left by a run that was killed. Its counters (OOM kills!) must not become the new run's: start afresh.
        try:
            remove(path, timeout=0.2)
        except InUse as exc:
            raise Conflict(
                f"cgroup {path} is in use", exc.why, "Stop the container that runs in it first", step="make"
            ) from exc
        _make_folders(layout, path)


def _make_folders(layout: Layout, path: str) -> None:
    v1.make(layout, path)
    if layout.unified:
        v2.make(layout.unified, path)


def _remove_quietly(path: str) -> None:
    with contextlib.suppress(OSError, WharfError):
        remove(path, timeout=0.2)


def _not_made(path: str, exc: OSError) -> WharfError:
    kind = NoPrivilege if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else Conflict
    return kind(
        f"cannot make cgroup {path}",
        f"{exc.filename or 'the cgroup tree'}: {exc.strerror}",
        "Run as root on a host whose cgroup tree is writable; `wharf doctor` shows what it lacks",
    )


def _limit(layout: Layout, path: str, resources: Mapping[str, Any]) -> None:
    if layout.version == "v2":
        v2.limit(layout.unified, path, resources)
        return
    # On a hybrid host a controller is on one side only: whatever v1 does not have may be in the v2 tree.
    beside = {key for key, name in _CONTROLLER.items() if key in resources and not layout.mount_of(name[0])}
    if layout.unified and beside:
        beside = {key for key in beside if _CONTROLLER[key][1] in v2.offered(layout.unified)}
        v2.limit(layout.unified, path, {key: resources[key] for key in beside})
        resources = {key: value for key, value in resources.items() if key not in beside}
    v1.limit(layout, path, resources)


def exists(path: str) -> bool:
    """Is the group there, in any hierarchy?"""
    return any(os.path.isdir(f"{mount}/{path}") for mount in detect().mounts)


def children(path: str) -> list[str]:
    """Names of the groups right below, in any hierarchy; sorted."""
    check_path(path)
    found: set[str] = set()
    for mount in detect().mounts:
        with contextlib.suppress(FileNotFoundError), os.scandir(f"{mount}/{path}") as entries:
            found.update(e.name for e in entries if e.is_dir(follow_symlinks=False))
    return sorted(found)


def enter(path: str, pid: int) -> None:
    """Move a process, with all its threads, into the group.

    :raises OSError: ESRCH no such process, ENOENT no such group
    """
    check_path(path)
    for mount in detect().mounts:
        files.write(f"{mount}/{path}/cgroup.procs", str(pid))


def enter_self(path: str, *, born: bool = False) -> None:
    """Move the calling process, which must have a single thread, into the group.

    :param born: it was made by :func:`core.kernel.clone.fork_into` and stands in the v2 tree's group already
    :raises OSError: ENOENT no such group
    """
    check_path(path)
    layout = detect()
    v1.enter_self([f"{h.mount}/{path}" for h in layout.hierarchies])
    if layout.unified and not born:
        files.write(f"{layout.unified}/{path}/cgroup.procs", "0")


def born_in(path: str) -> int | None:
    """A descriptor of the group's v2 folder, for :func:`core.kernel.clone.fork_into`.

    ``None`` without a v2 tree, or where the kernel cannot do that: then :func:`os.fork` and :func:`enter_self`.
    """
    check_path(path)
    unified = detect().unified
    if not unified or not can_fork_into():
        return None
    return os.open(f"{unified}/{path}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def freeze(path: str, on: bool, *, timeout: float = 5.0) -> None:
    """Freeze (``on``) or thaw all processes of the group, and wait until it is done.

    :raises Timeout: a process did not stop within ``timeout`` seconds; the group is thawed again
    :raises Unsupported: the host has no freezer
    """
    check_path(path)
    layout = detect()
    if layout.unified and v2.can_freeze(layout.unified, path):
        v2.freeze(layout.unified, path, on, timeout)
    else:
        v1.freeze(layout, path, on, timeout)


def frozen(path: str) -> bool:
    """Was the group asked to freeze?

    :raises OSError: ENOENT no such group
    """
    check_path(path)
    layout = detect()
    if layout.unified and v2.can_freeze(layout.unified, path):
        return v2.frozen(layout.unified, path)
    return v1.frozen(layout, path)


def pids(path: str) -> list[int]:
    """All processes of the group and the groups below it, as this process's pid namespace numbers them; sorted."""
    check_path(path)
    layout = detect()
    mount = layout.unified or layout.mount_of("pids") or layout.hierarchies[0].mount
    return files.pids_in(f"{mount}/{path}")


def kill(path: str, *, timeout: float = 5.0) -> None:
    """SIGKILL all processes of the group and of the groups below it, and wait until none is left.

    :raises Timeout: some are still there after ``timeout`` seconds (in an uninterruptible wait, or not yet reaped)
    """
    check_path(path)
    layout = detect()
    at_once = f"{layout.unified}/{path}/cgroup.kill"
    deadline = time.monotonic() + timeout
    pause = 0.0005
    while left := pids(path):
        try:
            if not layout.unified:
                raise FileNotFoundError
            files.write(at_once, "1")
        except FileNotFoundError:  # Linux < 5.14, or v1 alone
            _kill_each(layout, path, left)
        if time.monotonic() > deadline:
            raise Timeout(
                f"cgroup {path} could not be emptied",
                f"processes {', '.join(map(str, left))} do not end",
                "Look at their state with ps: D waits for a device, Z for its parent",
            )
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _kill_each(layout: Layout, path: str, targets: list[int]) -> None:
    for pid in targets:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    # A process that the v1 freezer holds takes the signal only when thawed.
    with contextlib.suppress(OSError, WharfError):
        v1.freeze(layout, path, False, 1.0)


def oom_kills(path: str) -> int:
    """How many processes of the group the kernel killed for want of memory; 0 where the group is gone."""
    check_path(path)
    layout = detect()
    return v2.oom_kills(layout.unified, path) if layout.version == "v2" else v1.oom_kills(layout, path)


def remove(path: str, *, timeout: float = 2.0) -> None:
    """Remove the group and the groups below it from every hierarchy; one that is gone is no error.

    :raises InUse: processes are left in it after ``timeout`` seconds
    """
    check_path(path)
    waiting = [f"{mount}/{path}" for mount in detect().mounts]
    deadline = time.monotonic() + timeout
    pause = 0.0005
    while waiting := [folder for folder in waiting if not _removed(folder)]:
        if time.monotonic() > deadline:
            left = files.pids_in(waiting[0])
            raise InUse(
                f"cgroup {path} cannot be removed",
                f"processes {', '.join(map(str, left))} are in {waiting[0]}" if left else f"{waiting[0]} is busy",
                "Stop them first",
            )
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _removed(folder: str) -> bool:
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError as exc:
        # EBUSY: groups below, or processes that are just ending (the kernel counts them a little longer).
        if exc.errno != errno.EBUSY:
            raise
        return _removed_with_children(folder)
    return True


def _removed_with_children(folder: str) -> bool:
    for sub in files.subfolders(folder):
        try:
            os.rmdir(sub)
        except FileNotFoundError:
            continue
        except OSError as exc:
            if exc.errno != errno.EBUSY:
                raise
            return False
    return True
