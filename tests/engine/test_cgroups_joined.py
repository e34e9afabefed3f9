"""Groups that are joined, read, listened to, or not ours to make."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core import cgroups
from core.cgroups import files, layout
from core.errors import Conflict, NoPrivilege, NotFound, WharfError
from core.kernel import libc, userns
from core.kernel.process import CLONE_NEWUSER, unshare
from tests.engine.cgrouplab import (
    DEVICES,
    MIB,
    child,
    disk,
    forks,
    fresh_path,  # noqa: F401
    needs,
    opens,
    read_disk,
    run,
    sleep,
    spin,
    value,
)
from tests.engine.test_cgroups_live import ON_V2, PIDS, forked
from tests.patience import patience

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the cgroup tree is root's")


def test_joined_group_stays(path: str) -> None:
    needs("pids")
    made = cgroups.create(path, {"pids": {"limit": 50}})
    assert len(made) == len(cgroups.detect().mounts)
    with child(path, sleep) as pid:
        with pytest.raises(Conflict, match="in use"):
            cgroups.create(path, {})
        joined = cgroups.create(path, {}, join=True)
        assert joined == ()
        assert value(path, *PIDS) == "50"
        assert cgroups.create(path, {"pids": {"limit": 60}}, join=True) == ()
        assert value(path, *PIDS) == "60"
        with pytest.raises(WharfError):
            cgroups.create(path, {"pids": {"limit": 70}, "cpu": {"cpus": "4000"}}, join=True)
        assert value(path, *PIDS) == "60"
        cgroups.remove(path, folders=joined)
        assert cgroups.pids(path) == [pid]
    cgroups.remove(path, folders=made)
    assert not cgroups.exists(path)


def test_only_the_missing_half_is_made(path: str) -> None:
    mounts = cgroups.detect().mounts
    if len(mounts) < 2:
        pytest.skip("needs several hierarchies")
    os.makedirs(f"{mounts[0]}/{path}")
    made = cgroups.create(path, {}, join=True)
    assert made == tuple(f"{place}/{path}" for place in mounts[1:])
    assert run(path, lambda: 5) == 5 << 8
    cgroups.remove(path, folders=made)
    assert os.path.isdir(f"{mounts[0]}/{path}")


def test_a_frozen_group_is_not_joined(path: str) -> None:
    cgroups.create(path, {})
    with child(path, sleep):
        cgroups.freeze(path, True)
        with pytest.raises(Conflict, match="frozen"):
            cgroups.create(path, {}, join=True)
        cgroups.freeze(path, False)


def test_a_parent_with_processes_is_left_alone(path: str) -> None:
    if not ON_V2:
        pytest.skip("needs a host on cgroup v2")
    cgroups.create(path, {})
    with child(path, sleep) as pid:
        with pytest.raises(Conflict, match="has processes"):
            cgroups.create(f"{path}/below", {"pids": {"limit": 5}})
        assert cgroups.pids(path) == [pid]
        assert cgroups.children(path) == []


def test_a_joined_group_gets_its_controllers(path: str) -> None:
    if not ON_V2:
        pytest.skip("needs a host on cgroup v2")
    needs("pids")
    os.makedirs(f"{cgroups.detect().unified}/{path}")
    assert cgroups.create(path, {"pids": {"limit": 5}}, join=True) == ()
    assert value(path, *PIDS) == "5"


def test_counters_are_the_kernels(path: str, tmp_path: Path) -> None:
    needs("memory", "cpu", "pids")
    data, _ = disk(tmp_path)
    slow = {"quota": 10000, "period": 100000, "cpus": "0"}
    cgroups.create(path, {"memory": {"limit": 128 * MIB, "swap": 128 * MIB}, "cpu": slow, "pids": {"limit": 44}})

    def body() -> None:
        kept = bytearray(24 * MIB)
        kept[-1] = 1
        read_disk(data, MIB)
        spin()

    with child(path, body):
        end = time.monotonic() + patience(60)
        while not _at_work(found := cgroups.stats(path)):
            assert time.monotonic() < end, found
            time.sleep(0.1)
        sample = cgroups.Sampler().read(path)
    usage = found["cpu"]["usage"]
    assert 0 < usage["total"] <= sample.cpu_ns
    assert found["cpu"]["throttling"]["throttledPeriods"] > 0
    assert found["memory"]["usage"]["limit"] == 128 * MIB
    assert 24 * MIB <= found["memory"]["usage"]["usage"] <= 128 * MIB
    assert found["memory"]["raw"]["pgfault"] > 0
    assert found["pids"] == {"current": 1, "limit": 44}
    if not ON_V2:
        # Read one after the other of a process that goes on.
        assert usage["total"] <= sum(usage["percpu"]) <= sample.cpu_ns
        assert found["cpuset"]["cpus"] == [0]
    if os.path.exists("/proc/pressure/cpu"):
        assert set(found["memory"]["psi"]["some"]) == {"avg10", "avg60", "avg300", "total"}
    cgroups.remove(path)
    with pytest.raises(NotFound):
        cgroups.stats(path)


def _at_work(found: dict[str, Any]) -> bool:
    """User time is taken by the tick and throttled time when it is over: both may be late."""
    read = sum(e["value"] for e in found["blkio"].get("ioServiceBytesRecursive", ()) if e["op"] == "Read")
    return read >= MIB and found["cpu"]["throttling"]["throttledTime"] > 0 and found["cpu"]["usage"]["user"] > 0


def test_the_oom_killer_is_heard_of(path: str) -> None:
    needs("memory")
    cgroups.create(path, {"memory": {"limit": 16 * MIB, "swap": 16 * MIB}})
    with cgroups.oom_watch(path) as watch:
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        assert poll.poll(50) == []
        assert watch.news() == 0
        assert run(path, lambda: len(bytearray(64 * MIB)) and 0) == 9
        assert poll.poll(patience(5) * 1000)
        end = time.monotonic() + patience(5)
        while (killed := watch.news()) == 0:
            assert time.monotonic() < end
        assert killed == 1
        assert watch.news() == 0
        cgroups.remove(path)
        assert poll.poll(patience(5) * 1000)
        assert watch.news() is None
    with pytest.raises(NotFound):
        cgroups.oom_watch(path)


def as_user(work: Callable[[], int]) -> int:
    """Exit code of ``work`` done by an ordinary user, who looks at the host anew."""

    def changed() -> int:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        libc.prctl(4, 1)  # PR_SET_DUMPABLE: its own /proc files are its own again
        layout.host.cache_clear()
        layout.detect.cache_clear()
        return work()

    return forked(changed)


def test_a_user_without_delegation() -> None:
    def work() -> int:
        assert not cgroups.usable()
        assert cgroups.create("wharf/one", {"pids": {"limit": -1}, "devices": DEVICES}) == ()
        cgroups.enter_self("wharf/one")
        assert cgroups.born_in("wharf/one") is None
        assert not cgroups.exists("wharf/one")
        assert cgroups.pids("wharf/one") == cgroups.children("wharf") == []
        assert not cgroups.frozen("wharf/one")
        assert cgroups.oom_kills("wharf/one") == 0
        cgroups.kill("wharf/one")
        cgroups.remove("wharf/one")
        for refused in (
            lambda: cgroups.create("wharf/one", {"memory": {"limit": MIB}}),
            lambda: cgroups.create("wharf/one", {"unified": {"memory.high": "1"}}),
            lambda: cgroups.update("wharf/one", {"pids": {"limit": 1}}),
            lambda: cgroups.freeze("wharf/one", True),
        ):
            with pytest.raises(NoPrivilege, match="delegated"):
                refused()
        return 0

    assert as_user(work) == 0


def test_root_of_a_user_namespace_is_no_root() -> None:
    def work() -> int:
        try:
            unshare(CLONE_NEWUSER)
        except OSError:
            return 77
        userns.deny_setgroups()
        for kind in ("uid", "gid"):
            userns.write_own(kind, [userns.Range(0, 65534, 1)])
        assert os.geteuid() == 0
        assert cgroups.create("wharf/one", {"devices": DEVICES}) == ()
        with pytest.raises(NoPrivilege, match="delegated"):
            cgroups.create("wharf/one", {"pids": {"limit": 5}})
        return 0

    code = as_user(work)
    if code == 77:
        pytest.skip("this host has no user namespaces for ordinary users")
    assert code == 0


def test_a_user_with_a_delegated_part(path: str) -> None:
    if not ON_V2:
        pytest.skip("needs a host on cgroup v2")
    needs("pids", "memory")
    cgroups.create(path, {"pids": {"limit": 100}})
    cgroups.give(path, 65534, 65534)

    def work() -> int:
        assert cgroups.usable()
        assert cgroups.detect().own == path
        assert cgroups.resolve(f"/{path}/mine/a", "x") == "mine/a"
        with pytest.raises(NoPrivilege, match="delegated"):
            cgroups.resolve("/elsewhere", "x")
        cgroups.create("mine/a", {"pids": {"limit": 5}, "memory": {"limit": 64 * MIB}, "devices": DEVICES})
        assert run("mine/a", forks) == 1 << 8
        assert opens("/dev/null") == 0
        cgroups.update("mine/a", {"pids": {"limit": 1}})
        assert run("mine/a", forks) == 0
        assert cgroups.stats("mine/a")["pids"]["limit"] == 1
        # Its own limit is not the user's to change.
        with pytest.raises(PermissionError):
            files.write(f"{cgroups.detect().unified}/pids.max", "200")
        # A later session finds the same part, although it was moved to make room.
        layout.detect.cache_clear()
        assert cgroups.detect().own == path
        cgroups.remove("mine/a")
        return 0

    def inside() -> int:
        cgroups.enter_self(path)
        return as_user(work)

    assert forked(inside) == 0
