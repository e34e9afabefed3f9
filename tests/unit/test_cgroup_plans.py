"""What limits become on cgroup v1 and v2: which files, which values, which order; device rules folded."""

from __future__ import annotations

from typing import Any

import pytest

from core.cgroups import devices, files, resctrl, v1, v2
from core.cgroups.layout import Hierarchy, check_path, parse_mountinfo, resolve
from core.errors import Conflict, InvalidArgument, Unsupported

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


def test_the_path_of_a_configuration() -> None:
    assert resolve("/my/box", "x") == resolve("my/box/", "x") == resolve("//my/./box", "x") == "my/box"
    assert resolve("", "wharf/ID") == "wharf/ID"
    assert resolve("/odd:name:here", "x") == "odd:name:here"
    for wrong in ("/", ".", "/a/../../b", ".."):
        with pytest.raises(InvalidArgument, match="cgroupsPath"):
            resolve(wrong, "x")
    with pytest.raises(Unsupported, match="cgroupfs"):
        resolve("system.slice:docker:0123", "x")


RESOURCES: dict[str, Any] = {
    "memory": {"limit": 64 << 20, "swap": 128 << 20, "reservation": 32 << 20, "kernel": 1 << 20, "useHierarchy": True},
    "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "burst": 20000, "cpus": "0-1", "mems": "0"},
    "pids": {"limit": 100},
    "blockIO": {
        "weight": 500,
        "weightDevice": [{"major": 8, "minor": 0, "weight": 300}],
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1048576}],
        "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 2097152}],
        "throttleReadIOPSDevice": [{"major": 8, "minor": 16, "rate": 100}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 0}],
    },
    "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
    "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}, "rxe3": {"hcaObjects": 7}},
}


def written(plan: list[tuple[files.Setting, ...]]) -> list[tuple[str, str]]:
    return [(s.file, s.value) for group in plan for s in group]


def test_v1_files() -> None:
    only_v1 = {
        "memory": {**RESOURCES["memory"], "kernelTCP": -1, "swappiness": 0, "disableOOMKiller": True},
        "cpu": {**RESOURCES["cpu"], "realtimeRuntime": 900, "realtimePeriod": 1000, "idle": 1},
        "blockIO": {
            **RESOURCES["blockIO"],
            "leafWeight": 10,
            "weightDevice": [{"major": 8, "minor": 0, "weight": 300, "leafWeight": 200}],
        },
        "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 5}, {"name": "lo", "priority": 6}]},
    }
    assert written(v1.plan({**RESOURCES, **only_v1})) == [
        ("memory.limit_in_bytes", "67108864"),
        ("memory.memsw.limit_in_bytes", "134217728"),
        ("memory.soft_limit_in_bytes", "33554432"),
        ("memory.kmem.tcp.limit_in_bytes", "-1"),
        ("memory.swappiness", "0"),
        ("memory.oom_control", "1"),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "50000"),
        ("cpu.cfs_burst_us", "20000"),
        ("cpu.rt_period_us", "1000"),
        ("cpu.rt_runtime_us", "900"),
        ("cpu.shares", "1024"),
        ("cpu.idle", "1"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("pids.max", "100"),
        ("blkio.weight", "500"),
        ("blkio.leaf_weight", "10"),
        ("blkio.weight_device", "8:0 300"),
        ("blkio.leaf_weight_device", "8:0 200"),
        ("blkio.throttle.read_bps_device", "8:0 1048576"),
        ("blkio.throttle.write_bps_device", "8:0 2097152"),
        ("blkio.throttle.read_iops_device", "8:16 100"),
        ("blkio.throttle.write_iops_device", "8:16 0"),
        ("hugetlb.2MB.limit_in_bytes", "0"),
        ("hugetlb.2MB.rsvd.limit_in_bytes", "0"),
        ("net_cls.classid", "1048577"),
        ("net_prio.ifpriomap", "eth0 5"),
        ("net_prio.ifpriomap", "lo 6"),
        ("rdma.max", "mlx5_1 hca_handle=3 hca_object=10000"),
        ("rdma.max", "rxe3 hca_object=7"),
    ]


def test_v2_files() -> None:
    assert written(v2.plan({**RESOURCES, "unified": {"memory.high": "5", "misc.max": "a 1\nb 2"}})) == [
        ("memory.swap.max", "67108864"),
        ("memory.max", "67108864"),
        ("memory.low", "33554432"),
        ("cpu.weight", "100"),
        ("cpu.max", "50000 100000"),
        ("cpu.max.burst", "20000"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("pids.max", "100"),
        ("io.bfq.weight", "500"),
        ("io.weight", "default 4950"),
        ("io.bfq.weight", "8:0 300"),
        ("io.max", "8:0 rbps=1048576"),
        ("io.max", "8:0 wbps=2097152"),
        ("io.max", "8:16 riops=100"),
        ("io.max", "8:16 wiops=max"),
        ("hugetlb.2MB.max", "0"),
        ("hugetlb.2MB.rsvd.max", "0"),
        ("rdma.max", "mlx5_1 hca_handle=3 hca_object=10000"),
        ("rdma.max", "rxe3 hca_object=7"),
        ("memory.high", "5"),
        ("misc.max", "a 1\nb 2"),
    ]


def test_weights_go_to_the_scheduler_that_is_there() -> None:
    """BFQ first; its name in v1 is not CFQ's, and v2's cost model counts otherwise."""
    block = {"blockIO": {"weight": 1000, "weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}}
    old = [(s.otherwise.file, s.otherwise.value) for (s,) in v1.plan(block) if s.otherwise]
    assert old == [("blkio.bfq.weight", "1000"), ("blkio.bfq.weight_device", "8:0 10")]
    new = [(s.otherwise.file, s.otherwise.value) for (s,) in v2.plan(block) if s.otherwise]
    assert new == [("io.weight", "default 10000"), ("io.weight", "8:0 1")]


@pytest.mark.parametrize(
    ("memory", "swap"),
    [
        ({"limit": 100, "swap": 100}, "0"),
        ({"limit": 100, "swap": -1}, "max"),
        ({"limit": 100, "swap": 300}, "200"),
        ({"limit": -1, "swap": 300}, "300"),
        ({"limit": -1}, "max"),
    ],
)
def test_v2_counts_swap_alone(memory: dict[str, int], swap: str) -> None:
    assert dict(written(v2.plan({"memory": memory})))["memory.swap.max"] == swap


def test_unlimited_memory_unlimits_swap_on_v1() -> None:
    """Without that the kernel refuses: memory may not exceed memory + swap."""
    assert dict(written(v1.plan({"memory": {"limit": -1}})))["memory.memsw.limit_in_bytes"] == "-1"


@pytest.mark.parametrize("plan", [v1.plan, v2.plan])
def test_swap_below_memory_is_refused_in_words(plan: Any) -> None:
    with pytest.raises(InvalidArgument, match="the sum of both"):
        plan({"memory": {"limit": 200, "swap": 100}})


def test_swap_alone_needs_a_limit_on_v2() -> None:
    with pytest.raises(InvalidArgument, match="no memory limit"):
        v2.plan({"memory": {"swap": 100}})


def test_swappiness_has_a_range() -> None:
    with pytest.raises(InvalidArgument, match="0 to 100"):
        v1.plan({"memory": {"swappiness": 101}})


def test_nothing_asked_is_nothing_written() -> None:
    empty: dict[str, Any] = {"memory": {}, "cpu": None, "pids": {}, "devices": []}
    zero: dict[str, Any] = {"memory": {"limit": 0, "swap": 0, "kernel": 5}, "cpu": {"shares": 0, "quota": 0}}
    assert v1.plan(empty) == [] == v2.plan(empty)
    assert v1.plan(zero) == [] == v2.plan(zero)
    ((unlimited,),) = v2.plan({"pids": {"limit": -1}})
    assert (unlimited.value, unlimited.optional) == ("max", True)


def test_zero_is_a_value_where_it_turns_something_off() -> None:
    off = {"cpu": {"burst": 0, "idle": 0}}
    assert written(v1.plan(off)) == [("cpu.cfs_burst_us", "0"), ("cpu.idle", "0")]
    assert written(v2.plan(off)) == [("cpu.idle", "0"), ("cpu.max.burst", "0")]
    # The kernel may lack these files: then they are off already.
    assert all(s.optional for plan in (v1.plan, v2.plan) for group in plan(off) for s in group)
    assert written(v2.plan({"pids": {"limit": 0}})) == [("pids.max", "1")]


def test_a_quota_alone_keeps_the_period_on_v2() -> None:
    assert written(v2.plan({"cpu": {"quota": 20000}})) == [("cpu.max", "20000")]
    assert written(v2.plan({"cpu": {"quota": -1}})) == [("cpu.max", "max")]
    assert written(v2.plan({"cpu": {"period": 50000}})) == [("cpu.max", "max 50000")]


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
        {"blockIO": {"leafWeight": 10}},
        {"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 10}]}},
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


def test_the_kernels_list_is_read_back() -> None:
    assert devices._listed("a *:* rwm\n") == devices.Policy(True, {})
    assert devices._listed("") == devices.Policy(False, {})
    listed = devices._listed("c 1:3 rwm\nb *:* m\nc 136:* rw\n")
    assert listed == devices.Policy(False, {("c", 1, 3): 7, ("b", -1, -1): 1, ("c", 136, -1): 6})


@pytest.mark.parametrize("rule", [{"allow": True, "type": "x"}, {"allow": True, "type": "c", "access": "rx"}])
def test_malformed_device_rules(rule: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="device rule"):
        devices.fold([rule])


def test_intel_rdt_read() -> None:
    full = {"closID": "gold", "memBwSchema": "MB:0=20", "l3CacheSchema": "L3:0=7f0;1=1f", "schemata": ["L2:0=f"]}
    assert resctrl.plan(full, "box") == resctrl.Plan("gold", True, False, ("L3:0=7f0;1=1f", "MB:0=20", "L2:0=f"), False)
    assert resctrl.plan({"closID": "gold"}, "box") == resctrl.Plan("gold", True, True, (), False)
    assert resctrl.plan({"enableMonitoring": True}, "box") == resctrl.Plan("box", False, False, (), True)
    assert resctrl.plan({"closID": "/"}, "box").name == ""


@pytest.mark.parametrize(
    "rdt", [{"closID": "../info"}, {"closID": ".."}, {"memBwSchema": "0=20"}, {"schemata": ["L3:0=f\nMB:0=20"]}]
)
def test_malformed_intel_rdt(rdt: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        resctrl.plan(rdt, "box")


def test_a_class_that_is_there_must_agree() -> None:
    wanted = resctrl.plan({"closID": "gold", "l3CacheSchema": "L3:0=7f0;1=1F"}, "box")
    resctrl.compare(wanted, "    MB:0=100;1=100\n    L3:0=07f0;1=001f\n")
    for other in ("L3:0=7f0;1=ff\n", "L3:0=7f0\n", "MB:0=1\n"):
        with pytest.raises(Conflict, match="other values"):
            resctrl.compare(wanted, other)


def test_without_intel_rdt_the_error_names_it() -> None:
    with open("/proc/self/mountinfo", encoding="ascii") as file:
        if resctrl.mount_point(file.read()):
            pytest.skip("this host has a resctrl file system")
    with pytest.raises(Unsupported, match="Intel RDT is not available: no resctrl"):
        resctrl.apply({"closID": "gold"}, "box", 1)
    with pytest.raises(Unsupported, match="Intel RDT is not available: no resctrl"):
        resctrl.update({"l3CacheSchema": "L3:0=f"}, "box")


def test_resctrl_is_found() -> None:
    line = "25 30 0:23 / /sys/fs/resctrl rw,relatime shared:9 - resctrl resctrl rw\n"
    assert resctrl.mount_point(V1 + line) == "/sys/fs/resctrl"
    assert resctrl.mount_point(V1) == ""
