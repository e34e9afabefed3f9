"""What limits become on cgroup v1 and v2: which files, which values, which order; device rules folded."""

from __future__ import annotations

from typing import Any

import pytest

from core.cgroups import devices, v1, v2
from core.cgroups.layout import Hierarchy, check_path, parse_mountinfo
from core.errors import InvalidArgument, Unsupported

V1 = """\
25 1 0:20 / / rw - ext4 /dev/vda rw
30 25 0:25 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:7 - cgroup cgroup rw,cpu,cpuacct
31 25 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
32 25 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd
40 25 0:26 /box /mnt/with\\040space/memory rw - cgroup cgroup rw,memory
"""
UNIFIED = "33 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"


def test_layouts() -> None:
    layout = parse_mountinfo(V1)
    assert layout.version == "v1"
    assert Hierarchy("/sys/fs/cgroup/cpu,cpuacct", ("cpu", "cpuacct")) in layout.hierarchies
    assert layout.mount_of("cpuacct") == "/sys/fs/cgroup/cpu,cpuacct"
    assert layout.mount_of("memory") == "/sys/fs/cgroup/memory"
    assert layout.mount_of("name=systemd") == "/sys/fs/cgroup/systemd"
    assert layout.mount_of("pids") == ""
    assert parse_mountinfo(V1 + UNIFIED).version == "hybrid"
    assert parse_mountinfo(V1 + UNIFIED).mounts[-1] == "/sys/fs/cgroup/unified"
    assert parse_mountinfo(UNIFIED).version == "v2"
    with pytest.raises(Unsupported, match="no cgroups"):
        parse_mountinfo("25 1 0:20 / / rw - ext4 /dev/vda rw\n")


@pytest.mark.parametrize("path", ["", "/wharf", "a//b", "../x", "a/..", "a/./b", "a/"])
def test_paths_stay_below_the_mount(path: str) -> None:
    with pytest.raises(InvalidArgument, match="cgroup path"):
        check_path(path)


RESOURCES: dict[str, Any] = {
    "memory": {"limit": 64 << 20, "swap": 128 << 20, "reservation": 32 << 20},
    "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-1"},
    "pids": {"limit": 100},
    "blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1048576}]},
    "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
}


def test_v1_files() -> None:
    written = [(s.file, s.value) for group in v1.plan(RESOURCES) for s in group]
    assert written == [
        ("memory.limit_in_bytes", "67108864"),
        ("memory.memsw.limit_in_bytes", "134217728"),
        ("memory.soft_limit_in_bytes", "33554432"),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "50000"),
        ("cpu.shares", "1024"),
        ("cpuset.cpus", "0-1"),
        ("pids.max", "100"),
        ("blkio.bfq.weight", "500"),
        ("blkio.throttle.read_bps_device", "8:0 1048576"),
        ("hugetlb.2MB.limit_in_bytes", "0"),
    ]


def test_v2_files() -> None:
    assert [(s.file, s.value) for s in v2.plan(RESOURCES)] == [
        ("memory.max", "67108864"),
        ("memory.swap.max", "67108864"),
        ("memory.low", "33554432"),
        ("cpu.weight", "100"),
        ("cpu.max", "50000 100000"),
        ("cpuset.cpus", "0-1"),
        ("pids.max", "100"),
        ("io.weight", "default 4950"),
        ("io.max", "8:0 rbps=1048576"),
        ("hugetlb.2MB.max", "0"),
    ]


@pytest.mark.parametrize(
    ("memory", "swap"),
    [({"limit": 100, "swap": 100}, "0"), ({"limit": 100, "swap": -1}, "max"), ({"limit": 100, "swap": 300}, "200")],
)
def test_v2_counts_swap_alone(memory: dict[str, int], swap: str) -> None:
    assert {s.file: s.value for s in v2.plan({"memory": memory})}["memory.swap.max"] == swap


def test_nothing_asked_is_nothing_written() -> None:
    empty: dict[str, Any] = {"memory": {}, "cpu": None, "pids": {}, "devices": []}
    assert v1.plan(empty) == [] == v2.plan(empty)
    (unlimited,) = v2.plan({"pids": {"limit": -1}})
    assert (unlimited.value, unlimited.optional) == ("max", True)


def test_shares_keep_both_ends_and_the_default() -> None:
    assert [v2.weight_of_shares(n) for n in (0, 2, 1024, 262144, 1 << 20)] == [1, 1, 100, 10000, 10000]
    weights = [v2.weight_of_shares(n) for n in range(2, 262145, 997)]
    assert weights == sorted(weights)


@pytest.mark.parametrize(
    "resources",
    [
        {"memory": {"disableOOMKiller": True}},
        {"memory": {"swappiness": 10}},
        {"cpu": {"realtimeRuntime": 1000}},
        {"network": {"classID": 1}},
    ],
)
def test_what_v2_lacks_is_said(resources: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="cgroup v2 has no such setting"):
        v2.plan(resources)


@pytest.mark.parametrize("name", ["../memory.max", "cgroup/x", "procs"])
def test_raw_v2_names_stay_in_the_group(name: str) -> None:
    with pytest.raises(InvalidArgument):
        v2.plan({"unified": {name: "1"}})


DENY_ALL = {"allow": False, "access": "rwm"}
NULL = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}


def test_device_rules_fold_as_the_kernel_folds_them() -> None:
    assert devices.fold([]) == devices.Policy(True, {})
    assert devices.fold([DENY_ALL]) == devices.Policy(False, {})
    assert devices.fold([NULL, DENY_ALL]) == devices.Policy(False, {})
    assert devices.fold([DENY_ALL, NULL]) == devices.Policy(False, {("c", 1, 3): 7})
    part = {"allow": False, "type": "c", "major": 1, "minor": 3, "access": "w"}
    assert devices.fold([DENY_ALL, NULL, part]) == devices.Policy(False, {("c", 1, 3): 3})
    assert devices.fold([part]) == devices.Policy(True, {("c", 1, 3): 4})
    any_minor = {"allow": True, "type": "b", "major": 8, "access": "r"}
    assert devices.fold([DENY_ALL, any_minor]) == devices.Policy(False, {("b", 8, -1): 2})
    read, write = ({**NULL, "access": access} for access in "rw")
    assert devices.fold([DENY_ALL, read, write]) == devices.Policy(False, {("c", 1, 3): 6})


@pytest.mark.parametrize("rule", [{"allow": True, "type": "x"}, {"allow": True, "type": "c", "access": "rx"}])
def test_malformed_device_rules(rule: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="device rule"):
        devices.fold([rule])
