"""cgroup v1: the same folder in each hierarchy, each with its own files.

What v1 asks for beyond v2: a cpuset must be told its CPUs and memory nodes before a process may enter; devices are a
list of rules written one by one; a frozen process cannot die before it is thawed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from core.cgroups import alike, files
from core.cgroups.files import Group, Setting, Step
from core.cgroups.layout import Hierarchy, Layout
from core.errors import InvalidArgument, Timeout

_THROTTLES = {
    "throttleReadBpsDevice": "blkio.throttle.read_bps_device",
    "throttleWriteBpsDevice": "blkio.throttle.write_bps_device",
    "throttleReadIOPSDevice": "blkio.throttle.read_iops_device",
    "throttleWriteIOPSDevice": "blkio.throttle.write_iops_device",
}


def make(layout: Layout, path: str, join: bool, made: list[str]) -> None:
    """Make the group's folder in every v1 hierarchy, and note in ``made`` which ones.

    :raises FileExistsError: one is there already, and ``join`` is not set
    """
    for hierarchy in layout.hierarchies:
        folder = f"{hierarchy.mount}/{path}"
        try:
            _make_folder(hierarchy, path)
        except FileExistsError:
            if not join:
                raise
        else:
            made.append(folder)
        if "cpuset" in hierarchy.controllers:
            _fill_cpuset(hierarchy.mount, path)


def _make_folder(hierarchy: Hierarchy, path: str) -> None:
    try:
        os.mkdir(f"{hierarchy.mount}/{path}", 0o755)
    except FileNotFoundError:
        _make_parents(hierarchy, path)
        os.mkdir(f"{hierarchy.mount}/{path}", 0o755)


def _make_parents(hierarchy: Hierarchy, path: str) -> None:
    mount, parent = hierarchy.mount, os.path.dirname(path)
    folder = f"{mount}/{parent}"
    os.makedirs(folder, 0o755, exist_ok=True)
    if "memory" in hierarchy.controllers:
        with contextlib.suppress(OSError):  # limits count for nested groups too; newer kernels know nothing else
            files.write(f"{folder}/memory.use_hierarchy", "1")
    if "cpuset" in hierarchy.controllers:
        _fill_cpuset(mount, parent)
        # The kernel then copies CPUs and nodes into each new child: no reads and writes per container.
        files.write(f"{folder}/cgroup.clone_children", "1")
    if "blkio" in hierarchy.controllers and parent:
        _count_block_io(folder)


def _count_block_io(folder: str) -> None:
    """Have the kernel count block I/O. Since Linux 6.10 it counts for v1 only on disks that some group throttles.

    "0" sets no limit and starts the counting; it takes 20 ms for a disk, once after a boot.
    """
    for disk in sorted(os.listdir("/sys/block")):
        if os.path.exists(f"/sys/block/{disk}/device"):  # real ones: not loop, ram, or what is stacked on others
            with contextlib.suppress(OSError):
                number = files.read(f"/sys/block/{disk}/dev").strip()
                files.write(f"{folder}/blkio.throttle.read_bps_device", f"{number} 0")


def _fill_cpuset(mount: str, path: str) -> None:
    """Give a cpuset, and those above it, the CPUs and nodes of its parent where it has none.

    Without them every attempt to enter is ENOSPC.
    """
    folder = f"{mount}/{path}"
    for name in ("cpuset.cpus", "cpuset.mems"):
        if files.read(f"{folder}/{name}").strip():
            continue
        parent = os.path.dirname(path)
        if parent:
            _fill_cpuset(mount, parent)
        files.write(f"{folder}/{name}", files.read(f"{mount}/{parent}/{name}".replace("//", "/")).strip())


def steps(layout: Layout, path: str, resources: Mapping[str, Any]) -> list[Step]:
    """What to write for the OCI ``linux.resources`` given, devices and raw v2 values excepted.

    :raises Unsupported: the kernel lacks a controller
    :raises InvalidArgument: a value that makes no sense
    """
    found = []
    for group in plan(resources):
        mount = layout.mount_of(group[0].controller)
        if mount:
            if group[0].file.startswith("cpu.rt_"):
                _lend_realtime(mount, path, resources["cpu"])
            found.append((f"{mount}/{path}", group))
        elif not group[0].optional:
            raise files.missing(group[0])
    return found


def _lend_realtime(mount: str, path: str, cpu: Mapping[str, Any]) -> None:
    """Give the groups above their part of real-time CPU time: a new group has none, and none to give.

    Best effort: what the kernel then refuses to the group itself is the error to tell.
    """
    runtime, parts = cpu.get("realtimeRuntime") or 0, path.split("/")
    for depth in range(1, len(parts)):
        folder = f"{mount}/{'/'.join(parts[:depth])}"
        with contextlib.suppress(OSError, ValueError), os.scandir(folder) as entries:
            below = [e.path for e in entries if e.is_dir(follow_symlinks=False) and e.name != parts[depth]]
            wanted = runtime + sum(int(files.read(f"{sub}/cpu.rt_runtime_us")) for sub in below)
            if int(files.read(f"{folder}/cpu.rt_runtime_us")) < wanted:
                files.write(f"{folder}/cpu.rt_runtime_us", str(wanted))


def plan(resources: Mapping[str, Any]) -> list[Group]:
    """The settings that resources mean, in groups that bound each other.

    :raises InvalidArgument: a value that makes no sense
    """
    return [
        *_memory(resources.get("memory") or {}),
        *_cpu(resources.get("cpu") or {}),
        *((setting,) for setting in alike.pids(resources.get("pids") or {})),
        *((setting,) for setting in _block(resources.get("blockIO") or {})),
        *((setting,) for setting in _rest(resources)),
    ]


def _memory(memory: Mapping[str, Any]) -> list[Group]:
    """Not here: ``kernel``, which kernels since 5.16 take no limit for, and ``useHierarchy``, which newer ones always
    do and older ones have from the parent group."""
    bound, swap = alike.memory(memory)
    pair = []
    if bound:
        pair.append(Setting("memory", "memory.limit_in_bytes", str(bound), "the memory limit"))
    if swap:
        # A kernel without swap accounting has no such file; Docker too goes on without.
        file = "memory.memsw.limit_in_bytes"
        pair.append(Setting("memory", file, str(swap), "the memory + swap limit", True))
    groups: list[Group] = [tuple(pair)] if pair else []
    for key, file, what in (
        ("reservation", "memory.soft_limit_in_bytes", "the memory reservation"),
        ("kernelTCP", "memory.kmem.tcp.limit_in_bytes", "the TCP buffer limit"),
    ):
        if memory.get(key):
            groups.append((Setting("memory", file, str(memory[key]), what, key == "kernelTCP"),))
    swappiness = memory.get("swappiness")
    if swappiness is not None and swappiness != (1 << 64) - 1:  # an unsigned -1: unset
        if not 0 <= swappiness <= 100:
            raise InvalidArgument(f"cannot set the swappiness to {swappiness}", "it is 0 to 100", "Choose such a value")
        groups.append((Setting("memory", "memory.swappiness", str(swappiness), "the swappiness"),))
    if memory.get("disableOOMKiller") is not None:
        disabled = str(int(bool(memory["disableOOMKiller"])))
        groups.append((Setting("memory", "memory.oom_control", disabled, "the OOM killer", disabled == "0"),))
    return groups


_CPU: tuple[tuple[tuple[str, str, str], ...], ...] = (
    (
        ("period", "cpu.cfs_period_us", "the CPU period"),
        ("quota", "cpu.cfs_quota_us", "the CPU quota"),
        ("burst", "cpu.cfs_burst_us", "the CPU burst"),
    ),
    (
        ("realtimePeriod", "cpu.rt_period_us", "the real-time period"),
        ("realtimeRuntime", "cpu.rt_runtime_us", "the real-time runtime"),
    ),
    (("shares", "cpu.shares", "the CPU shares"), ("idle", "cpu.idle", "the CPU idle policy")),
)
_ZERO_COUNTS = ("burst", "idle")  # elsewhere 0 is the same as no value


def _cpu(cpu: Mapping[str, Any]) -> list[Group]:
    groups = []
    for names in _CPU:
        group = tuple(
            Setting("cpu", file, str(cpu[key]), what, not cpu[key])
            for key, file, what in names
            if cpu.get(key) or (key in _ZERO_COUNTS and cpu.get(key) is not None)
        )
        if group:
            groups.append(group)
    return groups + alike.cpuset(cpu)


def _block(block: Mapping[str, Any]) -> list[Setting]:
    """Weights are for the disk's scheduler: BFQ, or CFQ, which kernels before 5.0 had."""
    settings = []
    if block.get("weight"):
        bfq = Setting("blkio", "blkio.bfq.weight", str(block["weight"]), "the block I/O weight")
        settings.append(bfq._replace(file="blkio.weight", otherwise=bfq))
    if block.get("leafWeight"):
        settings.append(Setting("blkio", "blkio.leaf_weight", str(block["leafWeight"]), "the block I/O leaf weight"))
    for device in block.get("weightDevice") or []:
        key = f"{device['major']}:{device['minor']}"
        if device.get("weight"):
            value, what = f"{key} {device['weight']}", "a device's I/O weight"
            bfq = Setting("blkio", "blkio.bfq.weight_device", value, what, reset=f"{key} 0")
            settings.append(bfq._replace(file="blkio.weight_device", otherwise=bfq))
        if device.get("leafWeight"):
            value, what = f"{key} {device['leafWeight']}", "a device's I/O leaf weight"
            settings.append(Setting("blkio", "blkio.leaf_weight_device", value, what, reset=f"{key} 0"))
    for field, file in _THROTTLES.items():
        for device in block.get(field) or []:
            key = f"{device['major']}:{device['minor']}"
            settings.append(Setting("blkio", file, f"{key} {device['rate']}", "a device's I/O limit", reset=f"{key} 0"))
    return settings


def _rest(resources: Mapping[str, Any]) -> list[Setting]:
    settings = alike.huge_pages(resources, "limit_in_bytes")
    network = resources.get("network") or {}
    if network.get("classID"):
        settings.append(Setting("net_cls", "net_cls.classid", str(network["classID"]), "the network class"))
    for priority in network.get("priorities") or []:
        name = priority["name"]
        value, what = f"{name} {priority['priority']}", "a network priority"
        settings.append(Setting("net_prio", "net_prio.ifpriomap", value, what, reset=f"{name} 0"))
    return settings + alike.rdma(resources.get("rdma") or {})


def freeze(layout: Layout, path: str, on: bool, timeout: float) -> None:
    """Freeze or thaw by the v1 freezer, and wait until it is done.

    :raises Unsupported: there is no freezer
    :raises Timeout: a process did not stop within ``timeout`` seconds; the group is thawed again
    """
    mount = layout.mount_of("freezer")
    if not mount:
        raise files.missing(Setting("freezer", "freezer.state", "", "the group frozen"))
    state = f"{mount}/{path}/freezer.state"
    wanted = "FROZEN" if on else "THAWED"
    deadline = time.monotonic() + timeout
    while True:
        # Written again in each round: a process forked meanwhile keeps the group in FREEZING for ever otherwise.
        files.write(state, wanted)
        if files.read(state).strip() == wanted:
            return
        if time.monotonic() > deadline:
            files.write(state, "THAWED")
            raise Timeout("the container could not be paused", "a process in it does not stop", "Try again")
        time.sleep(0.001)


def frozen(layout: Layout, path: str) -> bool:
    mount = layout.mount_of("freezer")
    return bool(mount) and files.read(f"{mount}/{path}/freezer.state").strip() != "THAWED"


def oom_kills(layout: Layout, path: str) -> int:
    """Processes killed for want of memory in the group and those below it (Linux ≥ 4.13)."""
    mount = layout.mount_of("memory")
    total = 0
    for folder in files.subfolders(f"{mount}/{path}") if mount else ():
        with contextlib.suppress(FileNotFoundError):
            total += files.fields(files.read(f"{folder}/memory.oom_control")).get("oom_kill", 0)
    return total


def enter_self(folders: Sequence[str]) -> None:
    """The calling process, of one thread, into each folder.

    By ``tasks`` and "0": a thread that moves itself needs no thread-group lock, which a write of a pid to
    ``cgroup.procs`` takes, and waits up to 10 ms for.
    """
    for folder in folders:
        files.write(f"{folder}/tasks", "0")
