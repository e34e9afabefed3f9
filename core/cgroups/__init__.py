"""Control groups: limits, meters, freezing and killing, on cgroup v1, hybrid and v2 alike.

A group is named by a path relative to the hierarchies' roots (``wharf-ab12cd/ID``); on v1 it is a folder in each of
them. ``layout`` knows what the host has and which part of it is ours; ``v1`` and ``v2`` say what the OCI's
``linux.resources`` are in their own files (``alike``: in both); ``devices`` folds device rules; ``making`` makes a
group of all that and takes it away; ``sampler`` reads counters. This page does the rest. Standard library only: the
launcher and the monitors import it.

What they do not need stands aside and is loaded when it is asked for: ``live`` changes limits, ``figures`` reads all
counters, ``oom`` waits for the OOM killer. ``resctrl``, which is no cgroup but is set by the same part of the
configuration, is imported by name.

Getting a process in, fastest first:

- :func:`born_in` gives a descriptor for :func:`core.kernel.clone.fork_into`: the child starts in the v2 group.
- :func:`enter_self`: a child of one thread moves itself, before it does anything else.
- :func:`enter`: any process from outside; may wait 10 ms for the kernel.

Where this process may not make groups (:func:`usable`), as an ordinary user on most hosts, a container without limits
needs none: all of this then does nothing, and limits are refused in words.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from core.cgroups import files, v1, v2
from core.cgroups.layout import Hierarchy, Layout, check_path, detect, host, resolve
from core.cgroups.making import create, remove, usable, why_not_usable
from core.cgroups.sampler import Counters, Sampler
from core.errors import NoPrivilege, Timeout, WharfError
from core.kernel.clone import can_fork_into

if TYPE_CHECKING:
    from core.cgroups.figures import stats
    from core.cgroups.live import update
    from core.cgroups.oom import oom_watch

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
    "enter_early",
    "enter_self",
    "exists",
    "freeze",
    "frozen",
    "give",
    "host",
    "kill",
    "oom_kills",
    "oom_watch",
    "pids",
    "remove",
    "resolve",
    "stats",
    "update",
    "usable",
    "why_not_usable",
]

_HOMES = {"stats": "figures", "update": "live", "oom_watch": "oom"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(name)
    from importlib import import_module

    return getattr(import_module(f"core.cgroups.{_HOMES[name]}"), name)


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


def enter_early(path: str) -> None:
    """As much of :func:`enter_self` as the maker of the process that belongs there can do for it, which inherits that:
    all but the group that counts processes, of which the maker would be one too many.

    :raises OSError: ENOENT no such group
    """
    check_path(path)
    v1.enter_self([f"{h.mount}/{path}" for h in detect().hierarchies if "pids" not in h.controllers])


def enter_self(path: str, *, born: bool = False, rest: bool = False) -> None:
    """Move the calling process, which must have a single thread, into the group.

    :param born: it was made by :func:`core.kernel.clone.fork_into` and stands in the v2 tree's group already
    :param rest: only what :func:`enter_early` has left
    :raises OSError: ENOENT no such group
    """
    check_path(path)
    layout = detect()
    v1.enter_self([f"{h.mount}/{path}" for h in layout.hierarchies if "pids" in h.controllers or not rest])
    if layout.unified and not born:
        files.write(f"{layout.unified}/{path}/cgroup.procs", "0")


def give(path: str, uid: int, gid: int) -> None:
    """Make a user the owner of the v2 group, so that he may make groups below it, but not raise its limits (config-
    linux.md, "Cgroup ownership"); does nothing on v1, where that is not safe.

    :raises OSError: ENOENT no such group, EPERM
    """
    check_path(path)
    layout = detect()
    if layout.version != "v2":
        return
    folder = f"{layout.unified}/{path}"
    try:
        names = files.read_all("/sys/kernel/cgroup/delegate").split()
    except FileNotFoundError:
        names = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"]
    os.chown(folder, uid, gid)
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.chown(f"{folder}/{name}", uid, gid)


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
    :raises NoPrivilege: groups are not :func:`usable`
    """
    check_path(path)
    layout = detect()
    if not layout.mounts:
        raise NoPrivilege("cannot pause the container", *why_not_usable())
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
    if not layout.mounts:
        return []
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
