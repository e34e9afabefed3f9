"""Making a group (its folders, its limits, or why it cannot be) and removing it."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from core.cgroups import devices, files, v1, v2
from core.cgroups.layout import Layout, check_path, detect, host
from core.errors import Conflict, InUse, NoPrivilege, Unsupported, WharfError
from core.kernel.userns import contained

# Part of the OCI's resources -> its controller's name in v1 and in v2.
_CONTROLLER = {
    "memory": ("memory", "memory"),
    "cpu": ("cpu", "cpu"),
    "pids": ("pids", "pids"),
    "blockIO": ("blkio", "io"),
    "hugepageLimits": ("hugetlb", "hugetlb"),
    "rdma": ("rdma", "rdma"),
}


def usable() -> bool:
    """Can this process make groups? If not, containers run without limits and meters, and asking for a limit fails.

    :raises Unsupported: no cgroup file system is mounted
    """
    return bool(detect().mounts)


def create(path: str, resources: Mapping[str, Any], *, join: bool = False) -> tuple[str, ...]:
    """Make a fresh group with the limits given; on any error nothing stays behind.

    :param path: relative, such as ``wharf/ID``; its parents are made when missing and stay
    :param resources: the OCI runtime specification's ``linux.resources``
    :param join: a group that is there, with or without processes, is used as it is; only the limits given change
    :returns: the folders made, which are what :func:`remove` may take away; none where groups are not :func:`usable`
    :raises Conflict: a group of that name has processes (with ``join``: is frozen)
    :raises Unsupported: the kernel lacks a controller that a limit needs
    :raises InvalidArgument: a value the kernel refuses
    :raises NoPrivilege: the cgroup tree is not writable and a limit is asked for
    """
    check_path(path)
    layout = detect()
    if not layout.mounts:
        _refuse_limits(resources)
        return ()
    made: list[str] = []
    try:
        _make(layout, path, join, made)
        if len(made) < len(layout.mounts):
            _change_joined(path, resources)
        else:
            for folder, group in steps(layout, path, resources):
                files.apply_group(folder, group)
            devices.apply(layout, path, resources.get("devices") or ())
    except (OSError, WharfError) as exc:
        if isinstance(exc, Conflict) and exc.step == "make":
            raise
        with contextlib.suppress(OSError, WharfError):
            remove(path, timeout=0.2, folders=made)
        if isinstance(exc, WharfError):
            raise
        raise _not_made(path, exc) from exc
    return tuple(made)


def _make(layout: Layout, path: str, join: bool, made: list[str]) -> None:
    try:
        _make_folders(layout, path, join, made)
    except FileExistsError:
        # Left by a run that was killed. Its counters (OOM kills!) must not become the new run's: start afresh.
        try:
            remove(path, timeout=0.2)
        except InUse as exc:
            raise Conflict(
                f"cgroup {path} is in use", exc.why, "Stop the container that runs in it first", step="make"
            ) from exc
        made.clear()
        _make_folders(layout, path, join, made)


def _make_folders(layout: Layout, path: str, join: bool, made: list[str]) -> None:
    v1.make(layout, path, join, made)
    if layout.unified:
        v2.make(layout.unified, path, join, made)


def _change_joined(path: str, resources: Mapping[str, Any]) -> None:
    """Others may be in there: limits are changed, not written afresh."""
    from core.cgroups import frozen, update

    if frozen(path):
        raise Conflict(
            f"cgroup {path} cannot be joined", "it is frozen, and so would be whatever starts in it", "Thaw it first"
        )
    if any(resources.values()):
        update(path, resources)


def _refuse_limits(resources: Mapping[str, Any]) -> None:
    wanted = [setting.what for group in v1.plan(resources) for setting in group if setting.limits]
    wanted += [repr(file) for file in resources.get("unified") or ()]
    if resources.get("devices") and devices.privileged():
        wanted.append("the device rules")
    if wanted:
        raise NoPrivilege(f"cannot set {wanted[0]}", *why_not_usable())


def why_not_usable() -> tuple[str, str]:
    """Why this process cannot make groups, and what to do about it."""
    if os.geteuid() == 0 and not contained():
        return "the cgroup tree is not writable here", "Mount it writable, or leave the limits out"
    if host().version == "v2":
        return (
            "no part of the cgroup tree is delegated to this user",
            "Start it where systemd delegates one (systemd-run --user --scope -p Delegate=yes …, or a unit with "
            "Delegate=yes), run as root, or leave the limits out",
        )
    return (
        "this host is on cgroup v1, which cannot be delegated to ordinary users",
        "Boot it with systemd.unified_cgroup_hierarchy=1 for cgroup v2, run as root, or leave the limits out",
    )


def _not_made(path: str, exc: OSError) -> WharfError:
    kind = NoPrivilege if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else Conflict
    return kind(
        f"cannot make cgroup {path}",
        f"{exc.filename or 'the cgroup tree'}: {exc.strerror}",
        "Run as root on a host whose cgroup tree is writable; `wharf doctor` shows what it lacks",
    )


def steps(layout: Layout, path: str, resources: Mapping[str, Any]) -> list[files.Step]:
    """What to write where for the limits given, devices excepted.

    :raises WharfError: a value that makes no sense, or a controller that is missing
    """
    if layout.version == "v2":
        return v2.steps(layout.unified, path, resources)
    # On a hybrid host a controller is on one side only: whatever v1 does not have may be in the v2 tree.
    raw = resources.get("unified") or {}
    beside = {key for key, (old, _) in _CONTROLLER.items() if resources.get(key) and not layout.mount_of(old)}
    have = v2.offered(layout.unified) if layout.unified and (beside or raw) else set()
    for file in raw:
        if file.split(".")[0] not in have:
            raise Unsupported(
                f"cannot set the raw cgroup v2 value {file!r}",
                f"this host has no cgroup v2 controller {file.split('.')[0]!r}",
                "Boot with systemd.unified_cgroup_hierarchy=1, or use the limits that have options of their own",
            )
    there = {key: resources[key] for key in beside if _CONTROLLER[key][1] in have}
    found = v1.steps(layout, path, {key: value for key, value in resources.items() if key not in there})
    if raw:
        there["unified"] = raw
    return found + (v2.steps(layout.unified, path, there) if there else [])


def remove(path: str, *, timeout: float = 2.0, folders: Sequence[str] | None = None) -> None:
    """Remove the group and the groups below it from every hierarchy; one that is gone is no error.

    :param folders: from these alone, as :func:`create` returned them: a joined group stays
    :raises InUse: processes are left in it after ``timeout`` seconds
    """
    check_path(path)
    waiting = list(folders) if folders is not None else [f"{mount}/{path}" for mount in detect().mounts]
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
