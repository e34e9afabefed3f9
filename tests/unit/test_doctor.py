"""Doctor and host figures against what other tools say of the same host."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from core import cgroups
from core.cli import main
from core.kernel import caps
from core.model import Check
from core.ops import probes
from core.ops.doctor import doctor
from core.ops.hostinfo import host_info, host_sample
from core.store.paths import Instance

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts and links are tried")


@pytest.fixture
def place(tmp_path: Path) -> Instance:
    """An instance whose folders do not exist: doctor must not make them."""
    return Instance(tmp_path / "root", tmp_path / "run")


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_every_gap_says_what_follows_and_how_to_mend_it(place: Instance) -> None:
    checks = doctor(place)
    assert {check.status for check in checks} <= {"ok", "warn", "fail"}
    for check in checks:
        assert check.name
        assert check.found
        assert check.status == "ok" or (check.consequence and check.fix), check
    wanted = {"capabilities", "cgroups", "overlay", "disk", "bridge and veth", "nftables", "ip_forward", "firewall"}
    wanted |= {"kernel", "user namespaces", "time namespace", "pressure (PSI)", "pidfd info", "seccomp"}
    assert wanted <= set(by_name(checks))


@needs_root
def test_it_is_quick_and_leaves_no_trace(place: Instance) -> None:
    def traces() -> tuple[bool, bool, list[str]]:
        links, mounts = (Path(f"/proc/self/{name}").read_text() for name in ("net/dev", "mountinfo"))
        return "probe" in links, "wharf-doctor" in mounts, os.listdir("/proc/self/fd")

    doctor(place)
    before, taken = traces(), []
    for _ in range(3):
        begun = time.process_time()
        doctor(place)
        taken.append(time.process_time() - begun)
    assert traces() == before
    assert before[:2] == (False, False)
    assert list(place.root.parent.iterdir()) == []
    assert min(taken) < 0.2


def test_it_agrees_with_the_host(place: Instance) -> None:
    checks = by_name(doctor(place))
    layout = cgroups.detect()
    if layout.controllers:
        assert checks["cgroups"].found.startswith(layout.version) or checks["cgroups"].status != "ok"
    assert checks["kernel"].found.startswith(os.uname().release)
    forwarding = Path("/proc/sys/net/ipv4/ip_forward").read_text().strip()
    assert checks["ip_forward"].found == forwarding
    assert (checks["time namespace"].status == "ok") == os.path.exists("/proc/self/ns/time")


@needs_root
def test_missing_capabilities_are_named(place: Instance) -> None:
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            held = set(caps.bounding()) - {"CAP_NET_ADMIN", "CAP_SYS_RESOURCE"}
            caps.limit_bounding(caps.mask(held))
            found = [[check.status, check.found] for check in doctor(place) if check.name == "capabilities"]
            os.write(send, json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(pid, 0)
    assert ["fail", "missing: NET_ADMIN"] in answer
    assert ["warn", "missing: SYS_RESOURCE"] in answer


@needs_root
def test_a_file_system_that_cannot_carry_layers_is_told(tmp_path: Path) -> None:
    with probes.user_namespace() as (namespace, reason):
        result = probes.overlay(tmp_path, namespace)
        assert (namespace is None) == bool(reason)
        on_tmpfs = probes.overlay(Path("/dev/shm"), namespace)
    assert on_tmpfs.legacy == ""
    kind = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True).stdout
    assert bool(result.legacy) == ("overlay" in kind)  # a layer on a layer: refused
    with pytest.raises(OSError, match="doctor"):
        probes.overlay(Path("/proc"), None)


def test_host_sample_agrees_with_psutil(place: Instance) -> None:
    def looked() -> tuple[float, float, float, float]:
        times = psutil.cpu_times()
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(place.root.parent))
        return times.idle + times.iowait, memory.total - memory.available, disk.used, os.getloadavg()[0]

    # Between two looks, as the machine goes on with other work.
    before = looked()
    sample = host_sample(place)
    after = looked()
    assert sample.cpus == psutil.cpu_count()
    assert sample.memory_total == psutil.virtual_memory().total
    assert sample.disk_total == pytest.approx(psutil.disk_usage(str(place.root.parent)).total, rel=0.01)
    found = (sample.cpu_total - sample.cpu_busy, sample.memory_used, sample.disk_used, sample.load1)
    slack = (2.0, 256 << 20, before[2] // 20, 0.5)
    for value, first, last, more in zip(found, before, after, slack, strict=True):
        assert min(first, last) - more <= value <= max(first, last) + more


def test_host_sample_moves(place: Instance) -> None:
    first = host_sample(place)
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        pass
    second = host_sample(place)
    assert second.time > first.time
    assert 0.1 <= second.cpu_busy - first.cpu_busy <= second.cpu_total - first.cpu_total + 0.02


def test_host_info(place: Instance) -> None:
    info = host_info(place, containers=3, running=1, stopped=2, images=4, engine_version="1.2")
    assert (info.containers, info.running, info.stopped, info.images, info.engine_version) == (3, 1, 2, 4, "1.2")
    assert info.kernel == os.uname().release
    assert info.cgroup_version == cgroups.detect().version
    assert info.data_root == str(place.root)
    assert info.memory == psutil.virtual_memory().total


def test_where_the_engine_cannot_be_opened_it_tells_all_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    words = ["--root", str(tmp_path / "file"), "--run", str(tmp_path / "run"), "doctor", "--format", "json"]
    assert main(words) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found[0]["name"], found[0]["status"]) == ("engine", "fail")
    assert str(tmp_path / "file") in found[0]["found"]
    assert {"cgroups", "kernel"} <= {check["name"] for check in found}
