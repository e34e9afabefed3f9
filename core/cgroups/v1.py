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

from core.cgroups import devices, files
from core.cgroups.files import Setting
from core.cgroups.layout import Hierarchy, Layout
from core.errors import Timeout, Unsupported

_THROTTLES = {
    "throttleReadBpsDevice": "blkio.throttle.read_bps_device",
    "throttleWriteBpsDevice": "blkio.throttle.write_bps_device",
    "throttleReadIOPSDevice": "blkio.throttle.read_iops_device",
    "throttleWriteIOPSDevice": "blkio.throttle.write_iops_device",
}


def make(layout: Layout, path: str) -> None:
    """Make the group's folder in every v1 hierarchy.

    :raises FileExistsError: one is there already
    """
    for hierarchy in layout.hierarchies:
        folder = f"{hierarchy.mount}/{path}"
        try:
            os.mkdir(folder, 0o755)
        except FileNotFoundError:
            _make_parents(hierarchy, path)
            os.mkdir(folder, 0o755)
        if "cpuset" in hierarchy.controllers:
            _fill_cpuset(hierarchy.mount, path)


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


def limit(layout: Layout, path: str, resources: Mapping[str, Any]) -> None:
    """Write the OCI ``linux.resources`` given into a fresh group.

    :raises WharfError: see :func:`core.cgroups.files.apply`
    """
    if resources.get("unified"):
        raise Unsupported(
            "cannot set raw cgroup v2 values",
            "this host's controllers are on cgroup v1",
            "Boot with systemd.unified_cgroup_hierarchy=1, or use the limits that have options of their own",
        )
    for group in plan(resources):
        mount = layout.mount_of(group[0].controller)
        if mount:
            files.apply_group(f"{mount}/{path}", group)
        elif not group[0].optional:
            raise files.missing(group[0])
    rules = resources.get("devices")
    if rules:
        mount = layout.mount_of("devices")
        if mount:
            devices.apply_v1(f"{mount}/{path}", rules)
        elif layout.unified:
            devices.apply_v2(f"{layout.unified}/{path}", rules)
        else:
            raise files.missing(Setting("devices", "devices.allow", "", "the device rules"))


def plan(resources: Mapping[str, Any]) -> list[tuple[Setting, ...]]:
    """The settings that resources mean, in groups that bound each other."""
    return [
        *_memory(resources.get("memory") or {}),
        *_cpu(resources.get("cpu") or {}),
        *_pids(resources.get("pids") or {}),
        *_block(resources.get("blockIO") or {}),
        *_rest(resources),
    ]


def _memory(memory: Mapping[str, Any]) -> list[tuple[Setting, ...]]:
    pair = []
    for key, file, what, optional in (
        ("limit", "memory.limit_in_bytes", "the memory limit", False),
        # A kernel without swap accounting has no such file; Docker too goes on without.
        ("swap", "memory.memsw.limit_in_bytes", "the memory + swap limit", True),
    ):
        if memory.get(key):
            pair.append(Setting("memory", file, str(memory[key]), what, optional))
    groups: list[tuple[Setting, ...]] = [tuple(pair)] if pair else []
    for key, file, what in (
        ("reservation", "memory.soft_limit_in_bytes", "the memory reservation"),
        ("kernelTCP", "memory.kmem.tcp.limit_in_bytes", "the TCP buffer limit"),
        ("swappiness", "memory.swappiness", "the swappiness"),
    ):
        if memory.get(key) is not None and (memory[key] or key == "swappiness"):
            groups.append((Setting("memory", file, str(memory[key]), what),))
    if memory.get("disableOOMKiller") is not None:
        disabled = str(int(bool(memory["disableOOMKiller"])))
        groups.append((Setting("memory", "memory.oom_control", disabled, "the OOM killer", disabled == "0"),))
    return groups


def _cpu(cpu: Mapping[str, Any]) -> list[tuple[Setting, ...]]:
    groups: list[tuple[Setting, ...]] = []
    for names in (
        (("period", "cpu.cfs_period_us", "the CPU period"), ("quota", "cpu.cfs_quota_us", "the CPU quota")),
        (
            ("realtimePeriod", "cpu.rt_period_us", "the real-time period"),
            ("realtimeRuntime", "cpu.rt_runtime_us", "the real-time runtime"),
        ),
        (("shares", "cpu.shares", "the CPU shares"),),
        (("burst", "cpu.cfs_burst_us", "the CPU burst"),),
        (("idle", "cpu.idle", "the CPU idle policy"),),
    ):
        settings = tuple(Setting("cpu", file, str(cpu[key]), what) for key, file, what in names if cpu.get(key))
        if settings:
            groups.append(settings)
    for key, what in (("cpus", "the CPUs"), ("mems", "the memory nodes")):
        if cpu.get(key):
            groups.append((Setting("cpuset", f"cpuset.{key}", str(cpu[key]), what),))
    return groups


def _pids(pids: Mapping[str, Any]) -> list[tuple[Setting, ...]]:
    count = pids.get("limit")
    if count is None:
        return []
    # No limit asked for: nothing is lost where the controller is missing.
    return [(Setting("pids", "pids.max", str(count) if count > 0 else "max", "the pids limit", count <= 0),)]


def _block(block: Mapping[str, Any]) -> list[tuple[Setting, ...]]:
    groups: list[tuple[Setting, ...]] = []
    if block.get("weight"):
        groups.append((Setting("blkio", "blkio.bfq.weight", str(block["weight"]), "the block I/O weight"),))
    for device in block.get("weightDevice") or []:
        value = f"{device['major']}:{device['minor']} {device['weight']}"
        groups.append((Setting("blkio", "blkio.bfq.weight_device", value, "a device's I/O weight"),))
    for key, file in _THROTTLES.items():
        for device in block.get(key) or []:
            value = f"{device['major']}:{device['minor']} {device['rate']}"
            groups.append((Setting("blkio", file, value, "a device's I/O limit"),))
    return groups


def _rest(resources: Mapping[str, Any]) -> list[tuple[Setting, ...]]:
    groups: list[tuple[Setting, ...]] = []
    for page in resources.get("hugepageLimits") or []:
        file = f"hugetlb.{page['pageSize']}.limit_in_bytes"
        groups.append((Setting("hugetlb", file, str(page["limit"]), "the huge pages limit"),))
    network = resources.get("network") or {}
    if network.get("classID"):
        groups.append((Setting("net_cls", "net_cls.classid", str(network["classID"]), "the network class"),))
    for priority in network.get("priorities") or []:
        value = f"{priority['name']} {priority['priority']}"
        groups.append((Setting("net_prio", "net_prio.ifpriomap", value, "a network priority"),))
    return groups


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
