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

from core.cgroups import devices, files
from core.cgroups.files import Setting
from core.errors import Timeout, Unsupported

_WANTED = ("cpu", "cpuset", "hugetlb", "io", "memory", "pids", "rdma")
_EVACUATED = "init"  # where processes go that stand in a group which must pass controllers on


def make(root: str, path: str) -> None:
    """Make the group's folder, with every controller that the tree offers.

    :raises FileExistsError: it is there already
    """
    folder = f"{root}/{path}"
    try:
        os.mkdir(folder, 0o755)
    except FileNotFoundError:
        prepare(root, os.path.dirname(path))
        os.mkdir(folder, 0o755)
    else:
        # The parent may be one whose maker has not come to enabling controllers yet.
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
        _pass_on(folder)


def _pass_on(folder: str) -> None:
    missing = offered(folder) - set(files.read(f"{folder}/cgroup.subtree_control").split())
    if not missing:
        return
    try:
        _enable(folder, missing)
    except OSError as exc:
        if exc.errno != errno.EBUSY:
            raise
        _evacuate(folder)
        _enable(folder, missing)


def _enable(folder: str, names: set[str]) -> None:
    """Switch controllers on; one that the kernel will not (cpu with real-time processes: EINVAL) is left out."""
    control = f"{folder}/cgroup.subtree_control"
    try:
        files.write(control, " ".join(f"+{name}" for name in sorted(names)))
    except OSError as exc:
        if exc.errno == errno.EBUSY or len(names) == 1:
            raise
        for name in sorted(names):
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


def limit(root: str, path: str, resources: Mapping[str, Any]) -> None:
    """Write the OCI ``linux.resources`` given into a fresh group.

    :raises WharfError: see :func:`core.cgroups.files.apply`
    """
    folder = f"{root}/{path}"
    _check_usage(folder, resources.get("memory") or {})
    for setting in plan(resources):
        files.apply(folder, setting)
    if resources.get("devices"):
        devices.apply_v2(folder, resources["devices"])


def _check_usage(folder: str, memory: Mapping[str, Any]) -> None:
    """``checkBeforeUpdate``: a limit below what is in use would kill (v1 refuses it by itself)."""
    if memory.get("checkBeforeUpdate") and (memory.get("limit") or 0) > 0:
        used = int(files.read(f"{folder}/memory.current"))
        if memory["limit"] < used:
            setting = Setting("memory", "memory.max", str(memory["limit"]), "the memory limit")
            raise files.refused(setting, OSError(errno.EBUSY, f"{used} bytes are in use"))


def plan(resources: Mapping[str, Any]) -> list[Setting]:
    """The settings that resources mean, in the order to write them."""
    return [
        *_memory(resources.get("memory") or {}),
        *_cpu(resources.get("cpu") or {}),
        *_pids(resources.get("pids") or {}),
        *_block(resources.get("blockIO") or {}),
        *_rest(resources),
    ]


def _max(value: int) -> str:
    return str(value) if value >= 0 else "max"


def _memory(memory: Mapping[str, Any]) -> list[Setting]:
    settings = []
    bound, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if bound:
        settings.append(Setting("memory", "memory.max", _max(bound), "the memory limit"))
    if swap:
        # The OCI counts memory + swap, v2 swap alone.
        alone = "max" if swap < 0 else str(max(swap - max(bound, 0), 0))
        settings.append(Setting("memory", "memory.swap.max", alone, "the swap limit", True))
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


def _cpu(cpu: Mapping[str, Any]) -> list[Setting]:
    settings = []
    if cpu.get("shares"):
        settings.append(Setting("cpu", "cpu.weight", str(weight_of_shares(cpu["shares"])), "the CPU weight"))
    if cpu.get("quota") or cpu.get("period"):
        quota = cpu.get("quota") or -1
        value = f"{quota if quota > 0 else 'max'} {cpu.get('period') or 100000}"
        settings.append(Setting("cpu", "cpu.max", value, "the CPU quota"))
    if cpu.get("burst"):
        settings.append(Setting("cpu", "cpu.max.burst", str(cpu["burst"]), "the CPU burst"))
    if cpu.get("idle"):
        settings.append(Setting("cpu", "cpu.idle", str(cpu["idle"]), "the CPU idle policy"))
    if cpu.get("realtimeRuntime") or cpu.get("realtimePeriod"):
        raise _only_v1("real-time CPU time cannot be given", "Leave the real-time options out")
    for key, what in (("cpus", "the CPUs"), ("mems", "the memory nodes")):
        if cpu.get(key):
            settings.append(Setting("cpuset", f"cpuset.{key}", str(cpu[key]), what))
    return settings


def _pids(pids: Mapping[str, Any]) -> list[Setting]:
    count = pids.get("limit")
    if count is None:
        return []
    # No limit asked for: nothing is lost where the controller is missing.
    return [Setting("pids", "pids.max", str(count) if count > 0 else "max", "the pids limit", count <= 0)]


def _block(block: Mapping[str, Any]) -> list[Setting]:
    settings = []
    if block.get("weight"):
        # 10–1000 of the OCI onto 1–10000
        weight = 1 + (block["weight"] - 10) * 9999 // 990
        settings.append(Setting("io", "io.weight", f"default {weight}", "the block I/O weight"))
    for device in block.get("weightDevice") or []:
        value = f"{device['major']}:{device['minor']} {device['weight']}"
        settings.append(Setting("io", "io.bfq.weight", value, "a device's I/O weight"))
    for key, word in (
        ("throttleReadBpsDevice", "rbps"),
        ("throttleWriteBpsDevice", "wbps"),
        ("throttleReadIOPSDevice", "riops"),
        ("throttleWriteIOPSDevice", "wiops"),
    ):
        for device in block.get(key) or []:
            value = f"{device['major']}:{device['minor']} {word}={device['rate'] or 'max'}"
            settings.append(Setting("io", "io.max", value, "a device's I/O limit"))
    return settings


def _rest(resources: Mapping[str, Any]) -> list[Setting]:
    settings = []
    for page in resources.get("hugepageLimits") or []:
        file = f"hugetlb.{page['pageSize']}.max"
        settings.append(Setting("hugetlb", file, str(page["limit"]), "the huge pages limit"))
    for device, bounds in (resources.get("rdma") or {}).items():
        words = (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
        value = " ".join([device, *(f"{word}={bounds[key]}" for key, word in words if bounds.get(key) is not None)])
        settings.append(Setting("rdma", "rdma.max", value, "the RDMA limit"))
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
