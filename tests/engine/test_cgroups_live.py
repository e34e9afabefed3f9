"""Limits that change while processes run, joined groups, counters, the OOM killer's news, a user without privilege."""

from __future__ import annotations

import contextlib
import errno
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core import cgroups
from core.cgroups import files, layout
from core.errors import Conflict, InvalidArgument, NotFound, Unsupported
from core.kernel import bpf, mount
from core.kernel.process import CLONE_NEWNS, unshare
from tests.engine.cgrouplab import (
    DEVICES,
    MIB,
    TOP,
    child,
    disk,
    forks,
    fresh_path,  # noqa: F401
    needs,
    opens,
    read_disk,
    sleep,
    value,
    worker,
)
from tests.engine.netlab import soon
from tests.patience import patience

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the cgroup tree is root's")

ON_V2 = cgroups.detect().version == "v2"
LIMIT = (("memory", "memory.limit_in_bytes"), "memory.max")
PIDS = (("pids", "pids.max"), "pids.max")
QUOTA = (("cpu", "cpu.cfs_quota_us"), "cpu.max")
ALL_FIELDS: dict[str, Any] = {
    "memory": {"limit": 64 * MIB, "swap": 96 * MIB, "reservation": 32 * MIB, "kernel": 1, "kernelTCP": -1},
    "cpu": {"shares": 512, "quota": 40000, "period": 80000, "burst": 10000, "cpus": "0", "mems": "0"},
    "pids": {"limit": 44},
}


def forked(work: Callable[[], int]) -> int:
    """Exit code of ``work`` done in a process of its own; 99 where it raises."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def all_of(path: str) -> list[str]:
    """What stands in the files of the limits that ``ALL_FIELDS`` sets."""
    names = [
        (("memory", "memory.limit_in_bytes"), "memory.max"),
        (("memory", "memory.soft_limit_in_bytes"), "memory.low"),
        (("cpu", "cpu.shares"), "cpu.weight"),
        (("cpu", "cpu.cfs_quota_us"), "cpu.max"),
        (("cpu", "cpu.cfs_period_us"), "cpu.max"),
        (("cpu", "cpu.cfs_burst_us"), "cpu.max.burst"),
        (("cpuset", "cpuset.cpus"), "cpuset.cpus"),
        (("cpuset", "cpuset.mems"), "cpuset.mems"),
        (("pids", "pids.max"), "pids.max"),
    ]
    return [value(path, v1, v2) for v1, v2 in names]


def test_every_field_arrives(path: str) -> None:
    needs("memory", "cpu", "pids", "cpuset")
    cgroups.create(path, {})
    cgroups.update(path, ALL_FIELDS)
    limits = [str(64 * MIB), str(32 * MIB)]
    if ON_V2:
        expected = [*limits, "59", "40000 80000", "40000 80000", "10000", "0", "0", "44"]
    else:
        expected = [*limits, "512", "40000", "80000", "10000", "0", "0", "44"]
    assert all_of(path) == expected


def test_only_what_is_given_changes(path: str) -> None:
    needs("memory", "cpu", "pids", "cpuset")
    cgroups.create(path, ALL_FIELDS)
    before = all_of(path)
    cgroups.update(path, {"pids": {"limit": 20}})
    assert all_of(path) == [*before[:-1], "20"]
    cgroups.update(path, {"cpu": {"quota": 30000}})
    assert value(path, *QUOTA).split()[0] == "30000"
    cgroups.update(path, {"cpu": {"period": 90000}})
    assert value(path, *QUOTA).split()[0] == "30000"
    assert value(path, ("cpu", "cpu.cfs_period_us"), "cpu.max").split()[-1] == "90000"
    cgroups.update(path, {"cpu": {"quota": -1, "burst": 0}, "memory": {"limit": -1}, "pids": {"limit": -1}})
    assert value(path, *PIDS) == "max"
    assert value(path, *QUOTA).split()[0] == ("max" if ON_V2 else "-1")
    assert value(path, *LIMIT) == ("max" if ON_V2 else str((1 << 63) - 4096))


@pytest.mark.parametrize(
    "wrong",
    [{"cpu": {"cpus": "4000"}}, {"blockIO": {"throttleReadBpsDevice": [{"major": 250, "minor": 99, "rate": 1}]}}],
    ids=["no such CPU", "no such disk"],
)
def test_a_refused_change_takes_all_back(path: str, wrong: dict[str, Any]) -> None:
    needs("memory", "cpu", "pids", "cpuset", "io" if ON_V2 else "blkio")
    cgroups.create(path, ALL_FIELDS)
    before = all_of(path)
    change = {"memory": {"limit": 80 * MIB, "swap": 200 * MIB}, "cpu": {"quota": 50000}, "pids": {"limit": 9}}
    with pytest.raises(InvalidArgument, match=r"4000|250:99"):
        cgroups.update(path, {**change, **wrong, "cpu": {**change["cpu"], **wrong.get("cpu", {})}})
    assert all_of(path) == before


def test_memory_goes_up_and_down_with_swap(path: str) -> None:
    """On v1 one of the two may not pass the other: up, swap goes first, down, memory does."""
    needs("memory")
    cgroups.create(path, {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}})
    for size in (256 * MIB, 32 * MIB, 128 * MIB):
        cgroups.update(path, {"memory": {"limit": size, "swap": size}})
        assert value(path, *LIMIT) == str(size)
    if ON_V2:
        cgroups.update(path, {"memory": {"swap": 200 * MIB}})
        assert value(path, *LIMIT) == str(128 * MIB)
        assert value(path, LIMIT[0], "memory.swap.max") == str(72 * MIB)


def test_a_limit_below_what_is_in_use_is_refused(path: str) -> None:
    needs("memory")
    cgroups.create(path, {"memory": {"limit": 128 * MIB, "swap": 128 * MIB}})

    def body() -> None:
        kept = bytearray(48 * MIB)
        kept[-1] = 1
        sleep()

    with child(path, body):
        end = time.monotonic() + patience(20)
        while cgroups.stats(path)["memory"]["usage"]["usage"] < 48 * MIB:
            assert time.monotonic() < end
            time.sleep(0.02)
        with pytest.raises(Conflict, match=f"{8 * MIB}"):
            cgroups.update(path, {"memory": {"limit": 8 * MIB, "swap": 8 * MIB, "checkBeforeUpdate": True}})
        assert value(path, *LIMIT) == str(128 * MIB)
        assert cgroups.oom_kills(path) == 0


def test_pids_limit_changes_under_a_running_process(path: str) -> None:
    needs("pids")
    cgroups.create(path, {})
    with worker(path, forks) as may_fork:
        assert may_fork() == 1
        cgroups.update(path, {"pids": {"limit": 1}})
        assert may_fork() == 0
        cgroups.update(path, {"pids": {"limit": -1}})
        assert may_fork() == 1


def test_cpus_change_under_a_running_process(path: str) -> None:
    needs("cpuset")
    if (os.cpu_count() or 1) < 2:
        pytest.skip("needs two processors")
    cgroups.create(path, {})
    with child(path, sleep) as pid:
        for cpus, expected in (("1", {1}), ("0-1", {0, 1}), ("0", {0})):
            cgroups.update(path, {"cpu": {"cpus": cpus}})
            assert os.sched_getaffinity(pid) == expected


def test_idle_and_back(path: str) -> None:
    needs("cpu")
    cgroups.create(path, {"cpu": {"shares": 512, "idle": 1}})
    idle = (("cpu", "cpu.idle"), "cpu.idle")
    assert value(path, *idle) == "1"
    cgroups.update(path, {"cpu": {"shares": 2048, "idle": 0}})
    assert value(path, *idle) == "0"
    assert value(path, ("cpu", "cpu.shares"), "cpu.weight") == ("174" if ON_V2 else "2048")


def test_devices_change_under_a_running_process(path: str, tmp_path: Path) -> None:
    device = tmp_path / "kmsg"
    os.mknod(device, 0o600 | 0o020000, os.makedev(1, 11))
    if opens(str(device)):
        pytest.skip(f"{tmp_path} is on a file system without devices")
    cgroups.create(path, {"devices": DEVICES})
    more = [*DEVICES, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}]
    anything = [{"allow": True, "access": "rwm"}]
    all_but = [*anything, {"allow": False, "type": "c", "major": 1, "minor": 11, "access": "rw"}]
    with worker(path, lambda: opens(str(device))) as ask:
        assert ask() == errno.EPERM
        for rules, expected in ((more, 0), (DEVICES, errno.EPERM), (anything, 0), (all_but, errno.EPERM), (more, 0)):
            cgroups.update(path, {"devices": rules})
            assert ask() == expected
    if not cgroups.detect().mount_of("devices"):
        group = os.open(f"{cgroups.detect().unified}/{path}", os.O_RDONLY)
        assert len(bpf.device_programs(group)) == 1
        os.close(group)


def test_what_stays_allowed_is_never_forbidden_in_between(path: str) -> None:
    cgroups.create(path, {"devices": DEVICES})
    more = [*DEVICES, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}]

    def open_for_a_while() -> int:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            if failed := opens("/dev/null"):
                return failed
        return 0

    with child(path, open_for_a_while) as pid:
        ended, status = 0, 0
        while not ended:
            for rules in (more, DEVICES):
                cgroups.update(path, {"devices": rules})
            ended, status = os.waitpid(pid, os.WNOHANG)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_malformed_rule_changes_nothing(path: str) -> None:
    cgroups.create(path, {"devices": DEVICES, "pids": {"limit": 7}})
    with worker(path, lambda: opens("/dev/null")) as ask:
        with pytest.raises(InvalidArgument, match="device rule"):
            cgroups.update(path, {"pids": {"limit": 8}, "devices": [{"allow": False}, {"allow": True, "type": "z"}]})
        assert value(path, *PIDS) == "7"
        assert ask() == 0


def test_reads_are_throttled_and_let_go(path: str, tmp_path: Path) -> None:
    needs("io" if ON_V2 else "blkio")
    data, numbers = disk(tmp_path)
    major, minor = (int(number) for number in numbers.split(":"))

    def seconds() -> int:
        """Tenths of a second."""
        begin = time.monotonic()
        read_disk(data, 4 * MIB)
        return min(int((time.monotonic() - begin) * 10), 255)

    def rate(number: int) -> dict[str, Any]:
        return {"blockIO": {"throttleReadBpsDevice": [{"major": major, "minor": minor, "rate": number}]}}

    cgroups.create(path, rate(4 * MIB))
    with worker(path, seconds) as take:
        assert take() >= 7
        cgroups.update(path, rate(0))
        assert soon(lambda: take() < 7, 20)  # a disk that others use is slow now and then


def test_block_weights(path: str) -> None:
    needs("io" if ON_V2 else "blkio")
    try:
        cgroups.create(path, {"blockIO": {"weight": 300}})
    except Unsupported as exc:
        pytest.skip(f"this kernel has no scheduler with weights: {exc.why}")
    held = []
    for file in ("blkio.weight", "blkio.bfq.weight", "io.bfq.weight", "io.weight"):
        with contextlib.suppress(FileNotFoundError):
            held.append(value(path, ("blkio", file), file).split()[-1])
    assert set(held) <= {"300", "2930"}
    assert held


def test_huge_pages(path: str) -> None:
    needs("hugetlb")
    cgroups.create(path, {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}]})
    tree = cgroups.detect()
    mount_v1 = tree.mount_of("hugetlb")
    name = "limit_in_bytes" if mount_v1 else "max"
    for kind in ("", "rsvd."):
        assert files.read(f"{mount_v1 or tree.unified}/{path}/hugetlb.2MB.{kind}{name}").strip() == str(4 * MIB)
    assert cgroups.stats(path)["hugetlb"]["2MB"]["usage"] == 0
    with pytest.raises(Unsupported, match=r"hugetlb\.3MB"):
        cgroups.update(path, {"hugepageLimits": [{"pageSize": "3MB", "limit": 0}]})


def test_raw_v2_values(path: str) -> None:
    if ON_V2:
        needs("memory")
        cgroups.create(path, {"unified": {"memory.high": "33554432", "pids.max": "12"}})
        assert value(path, LIMIT[0], "memory.high") == "33554432"
        with pytest.raises(InvalidArgument, match=r"memory\.high"):
            cgroups.update(path, {"unified": {"pids.max": "13", "memory.high": "much"}})
        assert value(path, *PIDS) == "12"
        with pytest.raises(Unsupported, match="nonesuch"):
            cgroups.update(path, {"unified": {"nonesuch.max": "1"}})
        return
    with pytest.raises(Unsupported, match="memory"):
        cgroups.create(path, {"unified": {"memory.high": "33554432"}})
    assert not cgroups.exists(path)


def test_real_time(path: str) -> None:
    tree = cgroups.detect()
    if not tree.mount_of("cpu") or not os.path.exists(f"{tree.mount_of('cpu')}/cpu.rt_runtime_us"):
        with pytest.raises(Unsupported, match="real-time"):
            cgroups.create(path, {"cpu": {"realtimeRuntime": 10000}})
        return
    cgroups.create(path, {"cpu": {"realtimeRuntime": 10000, "realtimePeriod": 1000000}})
    cgroups.create(f"{TOP}/other", {"cpu": {"realtimeRuntime": 5000}})
    assert value(path, ("cpu", "cpu.rt_runtime_us"), "") == "10000"
    assert value(f"{TOP}/other", ("cpu", "cpu.rt_runtime_us"), "") == "5000"


def test_network_classes(path: str) -> None:
    """Few hosts mount these two: the test does, where nobody else sees it."""
    if ON_V2:
        with pytest.raises(Unsupported, match="cgroup v2 has no such setting"):
            cgroups.create(path, {"network": {"classID": 1048577}})
        return

    place = f"/sys/fs/cgroup/systemd/{TOP}-net"
    mounts = f"mount -t cgroup -o net_cls,net_prio net {place} 2>/dev/null"
    before = Path("/proc/self/cgroup").read_text()

    def inside() -> int:
        unshare(CLONE_NEWNS)
        mount.set_root_propagation(mount.MS_PRIVATE)
        if os.system(mounts):
            return 77
        layout.host.cache_clear()
        layout.detect.cache_clear()
        cgroups.create(path, {"network": {"classID": 1048577, "priorities": [{"name": "lo", "priority": 5}]}})
        held = value(path, ("net_cls", "net_cls.classid"), ""), value(path, ("net_prio", "net_prio.ifpriomap"), "")
        cgroups.remove(path)
        cgroups.remove(TOP)
        return 0 if held[0] == "1048577" and "lo 5" in held[1].splitlines() else 1

    def away() -> int:
        unshare(CLONE_NEWNS)
        mount.set_root_propagation(mount.MS_PRIVATE)
        return os.system(f"{mounts} && umount {place}")

    os.mkdir(place)
    code = forked(inside)
    # A hierarchy goes when it is unmounted and empty, which a group just removed may keep it from for a while.
    end = time.monotonic() + patience(3)
    while Path("/proc/self/cgroup").read_text() != before and time.monotonic() < end:
        time.sleep(0.2)
        forked(away)
    os.rmdir(place)
    if code == 77:
        pytest.skip("this kernel has no net_cls and net_prio, or they are mounted elsewhere")
    assert code == 0


def test_what_is_missing_is_named(path: str) -> None:
    here = "rdma" in cgroups.detect().controllers
    with pytest.raises(InvalidArgument if here else Unsupported, match="mlx5_1" if here else "rdma"):
        cgroups.create(path, {"rdma": {"mlx5_1": {"hcaHandles": 3}}})


def test_update_of_nothing(path: str) -> None:
    with pytest.raises(NotFound):
        cgroups.update(path, {"pids": {"limit": 1}})
    cgroups.create(path, {})
    cgroups.update(path, {})
