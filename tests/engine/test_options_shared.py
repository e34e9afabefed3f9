"""Namespaces, cgroups and devices' rates: what a container shares with the host or with another one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.engine import Engine
from core.model import ContainerSpec, DeviceLimit, Resources, RestartPolicy, State
from core.store.paths import Instance
from tests.engine.pids import begun, is_monitor, processes, runs, zombies_of
from tests.engine.test_lifecycle import output, until
from tests.engine.test_options import host_config, inside, shell
from tests.patience import patience

CGROUPS = Path("/sys/fs/cgroup")
on_v1 = pytest.mark.skipif(not (CGROUPS / "memory").is_dir(), reason="the setting is of cgroup v1")
FOREVER = ("sh", "-c", "while :; do sleep 1 & wait $!; done")


def namespace(kind: str, pid: int | str = "self") -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


async def started(engine: Engine, image: str, *argv: str, **fields: Any) -> str:
    box = await engine.create(ContainerSpec(image, command=argv or FOREVER, **fields))
    await engine.start(box.id)
    return box.id


async def pid_of(engine: Engine, cid: str) -> int:
    return (await engine.container(cid)).pid


@pytest.mark.parametrize(("option", "kind"), [("ipc", "ipc"), ("pid", "pid"), ("uts", "uts"), ("cgroupns", "cgroup")])
async def test_a_namespace_of_its_own_or_the_hosts(engine: Engine, busybox_image: str, option: str, kind: str) -> None:
    own = await started(engine, busybox_image)
    assert namespace(kind, await pid_of(engine, own)) != namespace(kind)
    shared = await started(engine, busybox_image, **{option: "host"})
    assert namespace(kind, await pid_of(engine, shared)) == namespace(kind)
    view = await host_config(engine, shared)
    assert "host" in (view["IpcMode"], view["PidMode"], view["UTSMode"], view["CgroupnsMode"])
    # A command inside, and the end, are as ever.
    assert await inside(engine, shared, "echo", "here") == (0, "here")
    await engine.stop(shared, timeout=0.1)
    await engine.kill(own)


async def test_the_hosts_name(engine: Engine, busybox_image: str) -> None:
    before = os.uname().nodename
    assert await shell(engine, busybox_image, "hostname; cat /etc/hostname; echo $HOSTNAME", uts="host") == [before] * 3
    assert await shell(engine, busybox_image, "hostname", network="host") == [before]
    assert os.uname().nodename == before


async def test_the_hosts_ipc(engine: Engine, busybox_image: str) -> None:
    made = subprocess.run(["ipcmk", "-Q"], capture_output=True, text=True, check=True).stdout.split()[-1]
    mark = Path(f"/dev/shm/wharf-test-{os.getpid()}")
    try:
        mark.touch()
        script = "cat /proc/sysvipc/msg; ls /dev/shm; grep -E ' /dev/(shm|mqueue) ' /proc/mounts"
        lines = await shell(engine, busybox_image, script, ipc="host")
        assert made in [line.split()[1] for line in lines if len(line.split()) > 10]
        assert mark.name in lines
        shown = [line.split() for line in lines if line.startswith(("mqueue ", "tmpfs ", "shm "))]
        assert {line[1] for line in shown} == {"/dev/shm", "/dev/mqueue"}
        assert all({"nosuid", "nodev", "noexec"} <= set(line[3].split(",")) for line in shown)
        lines = await shell(engine, busybox_image, "cat /proc/sysvipc/msg; ls /dev/shm")
        assert len(lines) == 1
    finally:
        mark.unlink()
        subprocess.run(["ipcrm", "-q", made], check=True)


async def test_shared_ipc(engine: Engine, busybox_image: str) -> None:
    """One /dev/shm, one IPC namespace; and both for those who may have them only."""
    donor = await started(engine, busybox_image, ipc="shareable", name="donor", shm_size=1 << 20)
    closed = await started(engine, busybox_image, name="closed")
    other = await started(engine, busybox_image, ipc="container:donor")
    assert namespace("ipc", await pid_of(engine, other)) == namespace("ipc", await pid_of(engine, donor))
    assert await inside(engine, other, "sh", "-c", "echo word > /dev/shm/x") == (0, "")
    assert await inside(engine, donor, "cat", "/dev/shm/x") == (0, "word")
    assert "size=1024k" in (await inside(engine, other, "grep", " /dev/shm ", "/proc/mounts"))[1]
    assert namespace("mnt", await pid_of(engine, other)) != namespace("mnt", await pid_of(engine, donor))
    assert (await host_config(engine, other))["IpcMode"] == f"container:{donor}"
    with pytest.raises(errors.InvalidArgument, match="--ipc shareable"):
        await engine.create(ContainerSpec(busybox_image, ipc="container:closed"))
    with pytest.raises(errors.NotFound):
        await engine.create(ContainerSpec(busybox_image, ipc="container:nobody"))
    # What is shared lives as long as one of them does.
    await engine.kill(donor)
    await engine.wait(donor)
    assert await inside(engine, other, "cat", "/dev/shm/x") == (0, "word")
    await engine.stop(other, timeout=0.1)
    with pytest.raises(errors.Conflict, match="donor"):
        await engine.start(other)
    await engine.kill(closed)


async def test_a_restart_joins_the_same_again(engine: Engine, busybox_image: str) -> None:
    donor = await started(engine, busybox_image, ipc="shareable")
    there = namespace("ipc", await pid_of(engine, donor))
    script = "test -e /dev/shm/second && exec sleep 99; touch /dev/shm/second; exit 1"
    spec = ContainerSpec(
        busybox_image, command=("sh", "-c", script), ipc=f"container:{donor}", restart=RestartPolicy("on-failure", 3)
    )
    box = await engine.create(spec)
    await engine.start(box.id)

    async def again() -> bool:
        now = await engine.container(box.id)
        return now.state is State.RUNNING and now.restarts == 1

    await until(again)
    assert namespace("ipc", await pid_of(engine, box.id)) == there
    for cid in (donor, box.id):
        await engine.kill(cid)


async def test_no_link_leads_the_shared_memory_elsewhere(engine: Engine, busybox_image: str) -> None:
    """The donor may mount, and so may put whatever it likes at its own /dev/shm: a link there is not followed."""
    script = "busybox umount /dev/shm; busybox rmdir /dev/shm; ln -s /etc /dev/shm && echo done; exec sleep 99"
    donor = await started(
        engine,
        busybox_image,
        "sh",
        "-c",
        script,
        ipc="shareable",
        cap_add=("SYS_ADMIN",),
        security_opt=("seccomp=unconfined",),
    )

    async def done() -> bool:
        return "done" in await output(engine, donor)

    await until(done)
    box = await engine.create(ContainerSpec(busybox_image, command=("true",), ipc=f"container:{donor}"))
    with pytest.raises(errors.StartFailed, match="symbolic links"):
        await engine.start(box.id)
    await engine.kill(donor)


async def test_the_hosts_processes(engine: Engine, busybox_image: str) -> None:
    """No pid namespace: whatever the container has started ends with its first process all the same."""
    script = "(setsid sleep 98 &) ; setsid sleep 97 & cat /proc/1/comm; exec sleep 99"
    cid = await started(engine, busybox_image, "sh", "-c", script, pid="host")
    pid = await pid_of(engine, cid)
    code, text = await inside(engine, cid, "sh", "-c", "echo $$; kill -0 1 && ps -o pid,args")
    assert code == 0
    assert str(pid) in text
    group: set[int] = set()

    async def all_there() -> bool:
        group.update(processes(cid))
        return len(group) >= 3

    await until(all_there)
    await engine.stop(cid, timeout=0.1)
    assert not any(map(runs, group))
    assert (await engine.container(cid)).exit_code in (137, 143)


async def test_nothing_runs_on_until_a_restart(engine: Engine, busybox_image: str) -> None:
    """By the time its death is told: without a pid namespace the kernel does not see to that."""
    script = "(setsid sleep 98 &); exit 1"
    box = await engine.create(
        ContainerSpec(busybox_image, command=("sh", "-c", script), pid="host", restart=RestartPolicy("on-failure", 2))
    )
    since = time.time()
    await engine.start(box.id)
    async for event in engine.events(since=since):
        if event.id == box.id and event.action == "die":
            # The next run may have begun by now: of that one all processes are younger.
            assert [pid for pid in processes(box.id) if begun(pid) < event.time] == []
            break
    await engine.wait(box.id)
    assert (await engine.container(box.id)).restarts == 2


async def test_orphans_in_the_hosts_pid_namespace_are_reaped(engine: Engine, busybox_image: str) -> None:
    script = "i=0; while [ $i -lt 20 ]; do (sleep 0.1 &); i=$((i+1)); done; sleep 0.4; echo ready; exec sleep 99"
    for init in (False, True):
        cid = await started(engine, busybox_image, "sh", "-c", script, pid="host", init=init)

        async def ready(cid: str = cid) -> bool:
            return "ready" in await output(engine, cid)

        async def none_left(cid: str = cid) -> bool:
            return zombies_of(cid) == []

        await until(ready)
        await until(none_left)
        await engine.kill(cid)


async def test_joined_pid_namespace(engine: Engine, busybox_image: str) -> None:
    donor = await started(engine, busybox_image, name="donor")
    script = "cat /proc/1/comm; (setsid sleep 98 &); echo ready; exec sleep 99"
    other = await started(engine, busybox_image, "sh", "-c", script, pid="container:donor")
    assert namespace("pid", await pid_of(engine, other)) == namespace("pid", await pid_of(engine, donor))

    async def there() -> bool:
        code, text = await inside(engine, donor, "ps", "-o", "args")
        return code == 0 and "sleep 98" in text and "sleep 99" in text

    await until(there)
    assert (await inside(engine, other, "sh", "-c", "kill -0 1 && echo seen"))[1] == "seen"
    group = processes(other)
    assert len(group) >= 2
    await engine.stop(other, timeout=0.1)
    assert not any(map(runs, group))
    assert (await engine.container(donor)).state is State.RUNNING
    # With the donor's first process everything of its namespace goes, the guest's too.
    await engine.start(other)
    await engine.kill(donor)
    assert await asyncio.wait_for(engine.wait(other), patience(20)) == 137
    with pytest.raises(errors.Conflict):
        await engine.start(other)


async def test_joined_uts(engine: Engine, busybox_image: str) -> None:
    donor = await started(engine, busybox_image, name="donor", hostname="inner", cap_add=("SYS_ADMIN",))
    script = "hostname; cat /etc/hostname; echo $HOSTNAME"
    assert await shell(engine, busybox_image, script, uts="container:donor") == ["inner"] * 3
    assert await inside(engine, donor, "hostname") == (0, "inner")
    await engine.kill(donor)


async def test_ids_stand_for_names(engine: Engine, busybox_image: str) -> None:
    donor = await engine.create(ContainerSpec(busybox_image, name="donor", ipc="shareable", command=("true",)))
    shared = dict.fromkeys(("ipc", "pid", "uts", "network"), "container:donor")
    box = await engine.create(ContainerSpec(busybox_image, command=("true",), **shared))  # type: ignore[arg-type]
    found = {getattr(box.spec, name) for name in shared}
    assert found == {f"container:{donor.id}"}
    with pytest.raises(errors.Conflict, match="donor"):
        await engine.start(box.id)


async def test_a_killed_monitor_of_a_container_in_the_hosts_pid_namespace(
    engine: Engine, busybox_image: str, inst: Instance
) -> None:
    """Its successor knows as well that it has to end the others."""
    script = "(setsid sleep 98 &); exec sleep 99"
    cid = await started(engine, busybox_image, "sh", "-c", script, pid="host")
    group: set[int] = set()

    async def all_there() -> bool:
        group.update(processes(cid))
        return len(group) >= 2

    await until(all_there)
    monitors = [one for one in Path("/proc").iterdir() if one.name.isdigit() and is_monitor(one, cid)]
    os.kill(int(monitors[0].name), signal.SIGKILL)

    async def replaced() -> bool:
        now = [one for one in Path("/proc").iterdir() if one.name.isdigit() and is_monitor(one, cid)]
        return bool(now) and now != monitors

    await until(replaced)
    await engine.kill(cid)
    assert not any(map(runs, group))


# -- cgroups
@pytest.fixture
def parent(inst: Instance) -> Iterator[str]:
    """A cgroup of a test, in whatever hierarchy the engine makes it."""
    name = f"test-{os.getpid()}-{time.monotonic_ns() % 1_000_000}/below"
    yield name
    for base in [CGROUPS, *CGROUPS.iterdir()]:
        for folder in (base / name, base / os.path.dirname(name)):
            if folder.is_dir():
                folder.rmdir()


async def test_cgroup_parent(engine: Engine, busybox_image: str, parent: str) -> None:
    cid = await started(
        engine, busybox_image, cgroup_parent=parent, cgroupns="host", resources=Resources(memory=64 << 20)
    )
    code, text = await inside(engine, cid, "cat", "/proc/self/cgroup")
    assert code == 0
    assert f"/{parent}/{cid}" in text
    assert (await engine.stats([cid]))[0].memory > 0
    await engine.pause(cid)
    await engine.unpause(cid)
    assert (await host_config(engine, cid))["CgroupParent"] == parent
    await engine.stop(cid, timeout=0.1)
    assert not any((base / parent / cid).exists() for base in [CGROUPS, *CGROUPS.iterdir()])


async def test_a_parent_that_is_the_engines_own(engine: Engine, busybox_image: str, inst: Instance) -> None:
    with pytest.raises(errors.InvalidArgument):
        await engine.create(ContainerSpec(busybox_image, cgroup_parent=f"{inst.cgroup}/x"))


async def test_host_cgroup_namespace_shows_the_path(engine: Engine, busybox_image: str, inst: Instance) -> None:
    lines = await shell(engine, busybox_image, "cat /proc/self/cgroup", cgroupns="host")
    assert any(f"/{inst.cgroup}/" in line for line in lines)
    lines = await shell(engine, busybox_image, "cat /proc/self/cgroup")
    assert not any(inst.cgroup in line for line in lines)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    """A block device of its own."""
    image = tmp_path / "disk"
    image.write_bytes(bytes(1 << 20))
    made = subprocess.run(["losetup", "-f", "--show", image], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    yield made.stdout.strip()
    subprocess.run(["losetup", "-d", made.stdout.strip()], check=True)


@on_v1
async def test_limits_of_cgroup_v1(engine: Engine, busybox_image: str, disk: str, inst: Instance) -> None:
    limits = Resources(
        memory=64 << 20,
        memory_swappiness=7,
        memory_reservation=32 << 20,
        oom_kill_disable=True,
        cpu_shares=512,
        device_read_bps=(DeviceLimit(disk, 1 << 20),),
        device_write_iops=(DeviceLimit(disk, 50),),
    )
    cid = await started(engine, busybox_image, resources=limits)
    number = os.stat(disk).st_rdev
    name = f"{os.major(number)}:{os.minor(number)}"
    found = {
        file: (CGROUPS / file.partition(".")[0] / inst.cgroup / cid / file).read_text().split("\n")
        for file in (
            "memory.swappiness",
            "memory.soft_limit_in_bytes",
            "memory.oom_control",
            "cpu.shares",
            "blkio.throttle.read_bps_device",
            "blkio.throttle.write_iops_device",
        )
    }
    assert found["memory.swappiness"][0] == "7"
    assert found["memory.soft_limit_in_bytes"][0] == str(32 << 20)
    assert found["memory.oom_control"][0] == "oom_kill_disable 1"
    assert found["cpu.shares"][0] == "512"
    assert f"{name} {1 << 20}" in found["blkio.throttle.read_bps_device"]
    assert f"{name} 50" in found["blkio.throttle.write_iops_device"]
    view = await host_config(engine, cid)
    assert view["BlkioDeviceReadBps"] == [{"Path": disk, "Rate": 1 << 20}]
    assert view["MemorySwappiness"] == 7
    await engine.kill(cid)


async def test_real_time(engine: Engine, busybox_image: str, inst: Instance) -> None:
    wanted = Resources(cpu_rt_period=1_000_000, cpu_rt_runtime=10_000)
    box = await engine.create(ContainerSpec(busybox_image, command=FOREVER, resources=wanted))
    if not (CGROUPS / "cpu/cpu.rt_runtime_us").exists():
        with pytest.raises(errors.Unsupported, match="real-time"):
            await engine.start(box.id)
        return
    await engine.start(box.id)
    assert (CGROUPS / "cpu" / inst.cgroup / box.id / "cpu.rt_runtime_us").read_text() == "10000\n"
    await engine.kill(box.id)
