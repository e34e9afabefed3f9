"""cgroup v2: one tree. A controller must be switched on in every group above (``cgroup.subtree_control``), and a group
that passes controllers on may hold no processes itself (the root excepted)."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import time
from collections.abc import Mapping
from typing import Any

from core.cgroups import alike, files
from core.cgroups.files import Group, Setting, Step
from core.errors import Conflict, InvalidArgument, Timeout, Unsupported

_WANTED = ("cpu", "cpuset", "dmem", "hugetlb", "io", "memory", "misc", "pids", "rdma")
_THROTTLES = {
    "throttleReadBpsDevice": "rbps",
    "throttleWriteBpsDevice": "wbps",
    "throttleReadIOPSDevice": "riops",
    "throttleWriteIOPSDevice": "wiops",
}
_EVACUATED = "init"  # where processes go that stand in a group which must pass controllers on


def make(root: str, path: str, join: bool, made: list[str]) -> None:
    """Make the group's folder, with every controller that the tree offers, and note it in ``made``.

    :raises FileExistsError: it is there already, and ``join`` is not set
    """
    folder = f"{root}/{path}"
    try:
        os.mkdir(folder, 0o755)
    except FileExistsError:
        if not join:
            raise
    except FileNotFoundError:
        prepare(root, os.path.dirname(path))
        os.mkdir(folder, 0o755)
        made.append(folder)
    else:
        made.append(folder)
    # The parent may be one that somebody else made, or whose maker has not come to enabling controllers yet.
    if not offered(root) <= set(files.read(f"{folder}/cgroup.controllers").split()):
        prepare(root, os.path.dirname(path))


def offered(root: str) -> set[str]:
    """The controllers that a v2 group can have, of those the engine uses."""
    return set(files.read(f"{root}/cgroup.controllers").split()).intersection(_WANTED)


def prepare(root: str, parent: str) -> None:
    """Make ``parent`` and those above it, each passing all its controllers on."""
    folder = root
    for name in ["", *parent.split("/")] if parent else [""]:
        folder = f"{folder}/{name}" if name else root
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o755)
        _pass_on(folder, root)


def _pass_on(folder: str, root: str) -> None:
    missing = offered(folder) - set(files.read(f"{folder}/cgroup.subtree_control").split())
    if not missing:
        return
    try:
        _enable(folder, missing)
    except OSError as exc:
        if exc.errno != errno.EBUSY:
            raise
        if folder != root:  # somebody else's processes, in a place that he chose for them
            raise Conflict(
                "cannot limit resources here",
                f"{folder} has processes, and cgroup v2 allows none beside limited groups",
                "Choose another parent group",
            ) from exc
        _evacuate(folder)
        _enable(folder, missing)


def _enable(folder: str, names: set[str]) -> None:
    """Switch controllers on. One that the kernel will not is left out (cpu with real-time processes: EINVAL; cpuset
    with a process of somebody else's: EPERM): a limit that needs it says so.

    :raises OSError: EBUSY, the group has processes; EACCES, EROFS, it is not ours
    """
    control = f"{folder}/cgroup.subtree_control"
    try:
        files.write(control, " ".join(f"+{name}" for name in sorted(names)))
    except OSError as exc:
        if exc.errno in (errno.EBUSY, errno.EACCES, errno.EROFS):
            raise
        for name in sorted(names) if len(names) > 1 else ():
            with contextlib.suppress(OSError):
                files.write(control, f"+{name}")


def _evacuate(folder: str) -> None:
    """Move the processes of a group into a child of it, as an engine in a container must: its root has processes.

    :raises Unsupported: some cannot be moved
    """
    refuge = f"{folder}/{_EVACUATED}"
    with contextlib.suppress(FileExistsError):
        os.mkdir(refuge, 0o755)
    for _ in range(20):  # processes fork while they are moved
        left = [pid for pid in files.read_all(f"{folder}/cgroup.procs").split() if pid != "0"]
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                files.write(f"{refuge}/cgroup.procs", pid)
    raise Unsupported(
        "cannot limit resources here",
        f"processes in {folder} cannot be moved out of the way, and cgroup v2 allows none beside limited groups",
        "Start the engine in a cgroup of its own (systemd: Delegate=yes)",
    )


def steps(root: str, path: str, resources: Mapping[str, Any]) -> list[Step]:
    """What to write for the OCI ``linux.resources`` given, devices excepted.

    :raises WharfError: a value that makes no sense, or that v2 has nothing for
    """
    folder = f"{root}/{path}"
    _check_usage(folder, resources.get("memory") or {})
    return [(folder, group) for group in plan(resources)]


def completed(root: str, path: str, resources: Mapping[str, Any]) -> Mapping[str, Any]:
    """A change for a group that has limits already: v2 writes in one value, or reckons from, what the OCI gives in two
    fields. The one that is left out keeps its value."""
    memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}
    if (memory.get("swap") or 0) > 0 and not memory.get("limit"):
        memory = {**memory, "limit": _now(f"{root}/{path}/memory.max")}
    if cpu.get("period") and not cpu.get("quota"):
        cpu = {**cpu, "quota": _now(f"{root}/{path}/cpu.max")}
    return {**resources, "memory": memory, "cpu": cpu}


def _now(path: str) -> int:
    """A limit; -1 for none."""
    try:
        word = files.read(path).split()[0]
    except FileNotFoundError:  # no such controller: writing says so
        return -1
    return int(word) if word.isdigit() else -1


def _check_usage(folder: str, memory: Mapping[str, Any]) -> None:
    """``checkBeforeUpdate``: a limit below what is in use would kill (v1 refuses it by itself)."""
    if memory.get("checkBeforeUpdate") and (memory.get("limit") or 0) > 0:
        used = _now(f"{folder}/memory.current")
        if memory["limit"] < used:
            setting = Setting("memory", "memory.max", str(memory["limit"]), "the memory limit")
            raise files.refused(setting, OSError(errno.EBUSY, f"{used} bytes are in use"))


def plan(resources: Mapping[str, Any]) -> list[Group]:
    """The settings that resources mean, in groups that bound each other.

    :raises Unsupported: v2 has nothing for a field
    :raises InvalidArgument: fields that contradict each other
    """
    return [
        *((setting,) for setting in _memory(resources.get("memory") or {})),
        *_cpu(resources.get("cpu") or {}),
        *((setting,) for setting in alike.pids(resources.get("pids") or {})),
        *((setting,) for setting in _block(resources.get("blockIO") or {})),
        *((setting,) for setting in _rest(resources)),
    ]


def _max(value: int) -> str:
    return str(value) if value >= 0 else "max"


def _memory(memory: Mapping[str, Any]) -> list[Setting]:
    """Not here: ``kernel`` and ``kernelTCP``, which v2 counts as memory, and ``useHierarchy``, which it always does."""
    settings = []
    bound, swap = alike.memory(memory)
    if swap > 0 and not bound:
        raise InvalidArgument(
            f"cannot set the memory + swap limit to {swap}",
            "it counts both, and there is no memory limit to take off",
            "Give a memory limit too",
        )
    if swap:
        # The OCI counts memory + swap, v2 swap alone. A kernel without swap accounting has no such file.
        alone = "max" if swap < 0 else str(swap - max(bound, 0))
        settings.append(Setting("memory", "memory.swap.max", alone, "the swap limit", True))
    if bound:
        settings.append(Setting("memory", "memory.max", _max(bound), "the memory limit"))
    if memory.get("reservation"):
        settings.append(Setting("memory", "memory.low", _max(memory["reservation"]), "the memory reservation"))
    if memory.get("disableOOMKiller"):
        raise _only_v1("the OOM killer cannot be switched off", "Set a higher memory limit instead")
    if memory.get("swappiness") is not None:
        raise _only_v1("swappiness cannot be set per container", "Limit its swap instead")
    return settings


def _only_v1(what: str, fix: str) -> Unsupported:
    return Unsupported(what, "cgroup v2 has no such setting (v1 had)", fix)


def weight_of_shares(shares: int) -> int:
    """``cpu.weight`` (1–10000) of v1's shares (2–262144): a curve through both ends and 1024 → 100, the defaults."""
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    log = math.log2(shares)
    return math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34))


def _cpu(cpu: Mapping[str, Any]) -> list[Group]:
    share, quota = [], []
    if cpu.get("shares"):
        share.append(Setting("cpu", "cpu.weight", str(weight_of_shares(cpu["shares"])), "the CPU weight"))
    if cpu.get("idle") is not None:
        share.append(Setting("cpu", "cpu.idle", str(cpu["idle"]), "the CPU idle policy", not cpu["idle"]))
    if cpu.get("quota") or cpu.get("period"):
        # One without a period leaves the period as it is.
        value = f"{_max(cpu.get('quota') or -1)} {cpu.get('period') or ''}".rstrip()
        quota.append(Setting("cpu", "cpu.max", value, "the CPU quota"))
    if cpu.get("burst") is not None:
        quota.append(Setting("cpu", "cpu.max.burst", str(cpu["burst"]), "the CPU burst", not cpu["burst"]))
    if cpu.get("realtimeRuntime") or cpu.get("realtimePeriod"):
        raise _only_v1("real-time CPU time cannot be given", "Leave the real-time options out")
    return [group for group in (tuple(share), tuple(quota)) if group] + alike.cpuset(cpu)


def _block(block: Mapping[str, Any]) -> list[Setting]:
    if block.get("leafWeight") or any(device.get("leafWeight") for device in block.get("weightDevice") or []):
        raise _only_v1("leaf weights of block I/O cannot be set", "Use the weight alone")
    settings = []
    weight = block.get("weight")
    if weight:
        # Two schedulers, BFQ and the cost model, each with a file of its own; which one is at work the disk decides.
        cost = Setting("io", "io.weight", f"default {_weight(weight)}", "the block I/O weight", reset="default 100")
        bfq = Setting("io", "io.bfq.weight", str(weight), cost.what, otherwise=cost)
        settings += [bfq, cost._replace(optional=True)]
    for device in block.get("weightDevice") or []:
        if device.get("weight"):
            key, what = f"{device['major']}:{device['minor']}", "a device's I/O weight"
            cost = Setting("io", "io.weight", f"{key} {_weight(device['weight'])}", what, reset=f"{key} default")
            bfq = cost._replace(file="io.bfq.weight", value=f"{key} {device['weight']}", otherwise=cost)
            settings.append(bfq)
    for field, word in _THROTTLES.items():
        for device in block.get(field) or []:
            key = f"{device['major']}:{device['minor']}"
            value = f"{key} {word}={device['rate'] or 'max'}"
            settings.append(Setting("io", "io.max", value, "a device's I/O limit", reset=f"{key} {word}=max"))
    return settings


def _weight(old: int) -> int:
    """``io.weight`` (1–10000) of v1's (10–1000)."""
    return 1 + (old - 10) * 9999 // 990


def _rest(resources: Mapping[str, Any]) -> list[Setting]:
    settings = alike.huge_pages(resources, "max")
    settings += alike.rdma(resources.get("rdma") or {})
    if (resources.get("network") or {}).get("classID") or (resources.get("network") or {}).get("priorities"):
        raise _only_v1("network classes and priorities cannot be set", "Use an nft rule on the container's interface")
    for file, value in (resources.get("unified") or {}).items():
        if "/" in file or not file.count("."):
            raise files.refused(Setting("cgroup", file, value, repr(file)), OSError(errno.EINVAL, "not a file's name"))
        settings.append(Setting(file.split(".")[0], file, value, repr(file)))
    return settings


def can_freeze(root: str, path: str) -> bool:
    """Has the kernel the v2 freezer (Linux ≥ 5.2)? Then it is preferred: what it froze can still be killed."""
    return os.path.exists(f"{root}/{path}/cgroup.freeze")


def freeze(root: str, path: str, on: bool, timeout: float) -> None:
    """Freeze or thaw, and wait until it is done.

    :raises Timeout: a process did not stop within ``timeout`` seconds; the group is thawed again
    """
    folder = f"{root}/{path}"
    events = os.open(f"{folder}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    try:
        # The watch stands before the write, so that the change cannot fall between.
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        files.write(f"{folder}/cgroup.freeze", str(int(on)))
        deadline = time.monotonic() + timeout
        while files.fields(os.pread(events, 4096, 0).decode()).get("frozen", 0) != int(on):
            left = deadline - time.monotonic()
            if left <= 0:
                files.write(f"{folder}/cgroup.freeze", "0")
                raise Timeout("the container could not be paused", "a process in it does not stop", "Try again")
            poll.poll(left * 1000)
    finally:
        os.close(events)


def frozen(root: str, path: str) -> bool:
    return files.read(f"{root}/{path}/cgroup.freeze").strip() == "1"


def oom_kills(root: str, path: str) -> int:
    """Processes killed for want of memory in the group and those below it."""
    try:
        return files.fields(files.read(f"{root}/{path}/memory.events")).get("oom_kill", 0)
    except FileNotFoundError:
        return 0
