"""Control groups on the real kernel, whatever version this host has."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from core import cgroups
from core.cgroups import files
from core.errors import Conflict, InUse, InvalidArgument, NotFound, WharfError
from core.kernel import mount
from core.kernel.clone import fork_into
from core.kernel.process import CLONE_NEWCGROUP, CLONE_NEWNS, unshare
from tests.engine.cgrouplab import (
    DEVICES,
    MIB,
    child,
    disk,
    fresh_path,  # noqa: F401
    needs,
    opens,
    read_disk,
    run,
    sleep,
    spin,
    value,
)
from tests.engine.netlab import soon
from tests.patience import patience

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the cgroup tree is root's")


def groups_of(pid: int) -> set[str]:
    """The groups a process is in; in /proc there are also hierarchies that are not mounted here."""
    layout = cgroups.detect()
    ours = {",".join(hierarchy.controllers) for hierarchy in layout.hierarchies} | ({""} if layout.unified else set())
    lines = (line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    return {path for _, controllers, path in lines if controllers in ours}


def test_limits_are_written(path: str) -> None:
    needs("memory", "cpu", "pids", "cpuset")
    cgroups.create(
        path,
        {
            "memory": {"limit": 64 * MIB, "swap": 64 * MIB},
            "cpu": {"quota": 50000, "period": 100000, "cpus": "0"},
            "pids": {"limit": 77},
        },
    )
    assert value(path, ("memory", "memory.limit_in_bytes"), "memory.max") == str(64 * MIB)
    assert value(path, ("cpu", "cpu.cfs_quota_us"), "cpu.max").split()[0] == "50000"
    assert value(path, ("pids", "pids.max"), "pids.max") == "77"
    assert value(path, ("cpuset", "cpuset.cpus"), "cpuset.cpus") == "0"
    cgroups.remove(path)
    assert not cgroups.exists(path)


@pytest.mark.parametrize(
    "resources",
    [{"cpu": {"cpus": "4000"}}, {"memory": {"limit": 64 * MIB}, "pids": {"limit": 1 << 40}}],
    ids=["no such CPU", "too many pids"],
)
def test_a_refused_limit_leaves_nothing(path: str, resources: dict[str, Any]) -> None:
    needs("cpuset", "memory", "pids")
    with pytest.raises(WharfError) as caught:
        cgroups.create(path, resources)
    assert isinstance(caught.value, InvalidArgument)
    assert caught.value.why
    assert caught.value.fix
    assert not cgroups.exists(path)


def test_three_ways_in(path: str) -> None:
    cgroups.create(path, {})
    with child(path, sleep) as pid:
        assert groups_of(pid) == {f"/{path}"}
        assert cgroups.pids(path) == [pid]
    other = os.fork()
    if other == 0:
        sleep()
        os._exit(0)
    try:
        cgroups.enter(path, other)
        assert groups_of(other) == {f"/{path}"}
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
    assert cgroups.pids(path) == []


def test_born_in_the_group(path: str) -> None:
    cgroups.create(path, {})
    fd = cgroups.born_in(path)
    if fd is None:
        pytest.skip("this host has no cgroup v2 tree")
    receive, send = os.pipe()
    pid = fork_into(fd)
    if pid == 0:
        code = 99
        try:
            cgroups.enter_self(path, born=True)
            os.write(send, str(os.getpid()).encode())
            code = 7
        finally:
            os._exit(code)
    os.close(fd)
    os.close(send)
    assert os.read(receive, 20) == str(pid).encode()
    os.close(receive)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_freeze_stops_and_thaw_goes_on(path: str) -> None:
    needs("cpu")
    cgroups.create(path, {})
    sampler = cgroups.Sampler()
    with child(path, spin):
        cgroups.freeze(path, True)
        assert cgroups.frozen(path)
        before = sampler.read(path).cpu_ns
        time.sleep(0.2)
        assert sampler.read(path).cpu_ns - before < 20_000_000
        cgroups.freeze(path, False)
        assert not cgroups.frozen(path)
        assert soon(lambda: sampler.read(path).cpu_ns - before > 20_000_000, 10)
    sampler.close()


def test_kill_ends_a_frozen_tree(path: str) -> None:
    cgroups.create(path, {})

    def tree() -> None:
        for _ in range(5):
            if os.fork() == 0:
                sleep()
        sleep()

    # The orphans are this process's to reap: they must not stay as zombies for the kill to wait for.
    signal_before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with child(path, tree):
            end = time.monotonic() + patience(5)
            while len(cgroups.pids(path)) < 6:
                assert time.monotonic() < end
                time.sleep(0.01)
            cgroups.freeze(path, True)
            cgroups.kill(path)
            assert cgroups.pids(path) == []
    finally:
        signal.signal(signal.SIGCHLD, signal_before)


def test_oom_is_counted(path: str) -> None:
    needs("memory")
    cgroups.create(path, {"memory": {"limit": 16 * MIB, "swap": 16 * MIB}})
    assert cgroups.oom_kills(path) == 0
    status = run(path, lambda: len(bytearray(64 * MIB)) and 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert cgroups.oom_kills(path) == 1
    assert cgroups.Sampler().read(path).oom_kills == 1
    # A group of the same name is a fresh one: the next run did not die of this.
    cgroups.create(path, {})
    assert cgroups.oom_kills(path) == 0


def test_pids_limit_holds(path: str) -> None:
    needs("pids")
    cgroups.create(path, {"pids": {"limit": 3}})

    def forks() -> int:
        for made in range(10):
            try:
                if os.fork() == 0:
                    time.sleep(0.5)
                    os._exit(0)
            except BlockingIOError:
                return made
        return 50

    assert os.waitstatus_to_exitcode(run(path, forks)) == 2


def test_quota_throttles(path: str) -> None:
    needs("cpu")
    cgroups.create(path, {"cpu": {"quota": 10000, "period": 100000}})
    sampler = cgroups.Sampler()
    begun = time.monotonic_ns()
    with child(path, spin):
        time.sleep(1.0)
        # On a busy host it takes a while until it has had so much that it is held back.
        assert soon(lambda: sampler.read(path).throttled_ns > 0, 20)
        sample, took = sampler.read(path), time.monotonic_ns() - begun
    assert 0 < sample.cpu_ns < 0.4 * took
    sampler.close()


def test_sampler_agrees_with_the_files(path: str) -> None:
    needs("memory", "cpu", "pids")
    cgroups.create(path, {"memory": {"limit": 128 * MIB}, "pids": {"limit": 50}})

    def body() -> None:
        kept = bytearray(24 * MIB)
        kept[-1] = 1
        sleep()

    with child(path, body):
        sampler = cgroups.Sampler()
        end = time.monotonic() + patience(5)
        while (sample := sampler.read(path)).memory < 24 * MIB:
            assert time.monotonic() < end, sample
            time.sleep(0.02)
        usage = int(value(path, ("memory", "memory.usage_in_bytes"), "memory.current"))
        assert abs(usage - sample.memory) < 8 * MIB
        assert sample.memory_limit == 128 * MIB
        assert sample.memory_peak >= sample.memory
        assert (sample.pids, sample.pids_limit) == (1, 50)
        assert 0 < sample.cpu_ns <= sampler.read(path).cpu_ns
    cgroups.create(path, {})  # the old group is removed, another stands in its place
    again = sampler.read(path)
    assert (again.pids, again.memory_limit) == (0, 0)
    assert again.memory < MIB
    cgroups.remove(path)
    with pytest.raises(NotFound):
        sampler.read(path)
    sampler.close()


def test_sampler_keeps_descriptors_and_gives_them_back(path: str) -> None:
    needs("memory")
    cgroups.create(path, {})
    before = len(os.listdir("/proc/self/fd"))
    sampler = cgroups.Sampler()
    sampler.read(path)
    kept = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        sampler.read(path)
    assert before < len(os.listdir("/proc/self/fd")) == kept
    sampler.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_block_io_is_counted(path: str, tmp_path: Path) -> None:
    needs("io" if cgroups.detect().version == "v2" else "blkio")
    data, _ = disk(tmp_path)
    cgroups.create(path, {})
    assert run(path, lambda: read_disk(data, 2 * MIB)) == 0
    assert cgroups.Sampler().read(path).block_read >= 2 * MIB


def test_device_rules_hold(path: str, tmp_path: Path) -> None:
    device = tmp_path / "kmsg"
    os.mknod(device, 0o600 | 0o020000, os.makedev(1, 11))
    probe = "/dev/null" if opens(str(device)) else str(device)
    if probe == "/dev/null":
        pytest.skip(f"{tmp_path} is on a file system without devices")
    cgroups.create(path, {"devices": DEVICES})
    exit_code = os.waitstatus_to_exitcode
    assert exit_code(run(path, lambda: opens("/dev/null"))) == 0
    assert exit_code(run(path, lambda: opens(probe))) == errno.EPERM

    def makes() -> int:
        os.mknod(tmp_path / "made", 0o600 | 0o020000, os.makedev(10, 200))
        try:
            os.mknod(tmp_path / "block", 0o600 | 0o060000, os.makedev(8, 0))
        except PermissionError:
            return 5
        return 0

    assert exit_code(run(path, makes)) == 5
    allowed = [*DEVICES, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}]
    cgroups.create(path, {"devices": allowed})
    assert exit_code(run(path, lambda: opens(probe))) == 0
    cgroups.create(path, {"devices": DEVICES})
    assert exit_code(run(path, lambda: opens(probe))) == errno.EPERM
    assert exit_code(run(path, lambda: opens("/dev/null"))) == 0
    cgroups.create(path, {"devices": [{"allow": True, "access": "rwm"}]})
    assert exit_code(run(path, lambda: opens(probe))) == 0


def test_a_busy_group_is_not_removed(path: str) -> None:
    cgroups.create(path, {})
    with child(path, sleep) as pid:
        with pytest.raises(InUse, match=str(pid)):
            cgroups.remove(path, timeout=0.1)
        with pytest.raises(Conflict, match="in use"):
            cgroups.create(path, {})
        assert cgroups.pids(path) == [pid]
    cgroups.remove(path)
    cgroups.remove(path)


def test_nested_groups_go_too(path: str) -> None:
    cgroups.create(path, {})
    for folder in cgroups.detect().mounts:
        os.makedirs(f"{folder}/{path}/a/b")
    cgroups.remove(path)
    assert not cgroups.exists(path)


def test_root_with_processes_is_evacuated(path: str) -> None:
    """An engine in a container: its cgroup namespace's root holds processes, and v2 wants it empty of them."""
    if cgroups.detect().version != "v2":
        pytest.skip("needs a host on cgroup v2")
    cgroups.create(path, {})
    root = f"{cgroups.detect().unified}/{path}"

    def inside() -> int:
        unshare(CLONE_NEWCGROUP | CLONE_NEWNS)
        mount.set_root_propagation(mount.MS_PRIVATE)
        tree = mount.filesystem("cgroup2")
        target = os.open("/sys/fs/cgroup", os.O_PATH)
        mount.attach(tree, target)
        assert os.path.exists("/sys/fs/cgroup/cgroup.type")
        cgroups.create("wharf/one", {"memory": {"limit": 64 * MIB}, "pids": {"limit": 9}})
        held = files.read("/sys/fs/cgroup/wharf/one/pids.max").strip()
        moved = files.read("/sys/fs/cgroup/init/cgroup.procs").split()
        return 0 if held == "9" and str(os.getpid()) in moved else 1

    assert os.waitstatus_to_exitcode(run(path, inside)) == 0
    assert files.read(f"{root}/wharf/one/pids.max").strip() == "9"
