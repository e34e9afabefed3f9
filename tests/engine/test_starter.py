"""Processes made beforehand: the spare monitor's starter, which becomes the container's first process; and the lowest
layer, which has its mount points ready."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import signal
import stat
from pathlib import Path

import pytest

from core import errors
from core.engine import Engine
from core.kernel import mount, process
from core.kernel.hop import can_hop
from core.model import ContainerSpec, RestartPolicy, State
from core.ops import bundle
from core.runtime import early
from core.runtime.points import lowest_layer
from core.runtime.task import Rootfs
from core.store.paths import Instance
from tests.conftest import needs_root
from tests.engine.test_crash import launcher, spares, state_of
from tests.engine.test_lifecycle import output, sleeper, until
from tests.engine.test_networks import inside

pytestmark = pytest.mark.skipif(not can_hop(), reason="there is no code for this machine, or it may not be executed")


def children(parent: int) -> dict[int, str]:
    """pid → title."""
    found = {}
    for pid in map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # reaped meanwhile
            found[pid] = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]
    return found


async def ready(inst: Instance, cid: str) -> tuple[int, int]:
    """Pids of the spare monitor and of its starter, once both are there."""
    found: list[tuple[int, int]] = []

    async def there() -> bool:
        for spare in spares(launcher(inst, cid)):
            starters = [pid for pid, title in children(spare).items() if title == "wharf-starter"]
            found[:] = [(spare, pid) for pid in starters]
        return bool(found)

    await until(there)
    return found[0]


async def alone(monitor: int, pid: int) -> None:
    """Wait until ``pid`` is its only child."""

    async def there() -> bool:
        return list(children(monitor)) == [pid]

    await until(there)


async def test_the_starter_becomes_the_first_process(engine: Engine, busybox_image: str, inst: Instance) -> None:
    spare, starter = await ready(inst, await sleeper(engine, busybox_image))
    cid = await sleeper(engine, busybox_image)
    box = await engine.container(cid)
    assert state_of(inst, cid)["monitor_pid"] == spare
    await alone(spare, box.pid)  # the starter is gone, and reaped, soon after the engine has its answer
    assert not Path(f"/proc/{starter}").exists()


async def test_a_starter_that_was_killed_is_done_without(engine: Engine, busybox_image: str, inst: Instance) -> None:
    spare, starter = await ready(inst, await sleeper(engine, busybox_image))
    os.kill(starter, signal.SIGKILL)
    cid = await sleeper(engine, busybox_image)
    box = await engine.container(cid)
    assert state_of(inst, cid)["monitor_pid"] == spare
    await alone(spare, box.pid)


async def test_the_starter_goes_with_its_monitor(engine: Engine, busybox_image: str, inst: Instance) -> None:
    spare, starter = await ready(inst, await sleeper(engine, busybox_image))
    os.kill(spare, signal.SIGKILL)

    async def gone() -> bool:
        return not Path(f"/proc/{starter}").exists()

    await until(gone)


@pytest.mark.usefixtures("mappable")
async def test_a_start_with_a_user_namespace(engine: Engine, busybox_image: str, inst: Instance) -> None:
    await starts(engine, busybox_image, inst, {"userns": "auto"})


@pytest.mark.parametrize("more", [{"init": True}, {"pid": "host"}, {"runtime": "runc"}])
async def test_starts_of_another_kind(
    engine: Engine, busybox_image: str, inst: Instance, more: dict[str, object]
) -> None:
    await starts(engine, busybox_image, inst, more)


async def starts(engine: Engine, busybox_image: str, inst: Instance, more: dict[str, object]) -> None:
    if more.get("runtime") == "runc" and not any(Path(p, "runc").exists() for p in os.environ["PATH"].split(":")):
        pytest.skip("runc is not installed")
    spare, _ = await ready(inst, await sleeper(engine, busybox_image))
    spec = ContainerSpec(busybox_image, command=("sleep", "1000"), stop_timeout=0, **more)  # type: ignore[arg-type]
    box = await engine.create(spec)
    await engine.start(box.id)
    box = await engine.container(box.id)
    assert box.state is State.RUNNING
    assert state_of(inst, box.id)["monitor_pid"] == spare

    async def gone() -> bool:
        return "wharf-starter" not in children(spare).values()

    await until(gone)


async def links(engine: Engine, inst: Instance, cid: str) -> tuple[str, list[str], list[str]]:
    """Its network namespace, what sysfs shows of it, and its addresses."""
    shown = await inside(engine, cid, "sh", "-c", "ls /sys/class/net; ip -o -4 addr")
    words = [line.split() for line in shown.splitlines()]
    names = [line[0] for line in words if len(line) == 1]
    here = os.readlink(f"/proc/{state_of(inst, cid)['pid']}/ns/net")
    return here, names, [line[3] for line in words if len(line) > 1]


@pytest.mark.parametrize("killed", [False, True])
async def test_an_isolated_container_has_lo_alone(
    engine: Engine, busybox_image: str, inst: Instance, killed: bool
) -> None:
    """The first one's namespace is made when it starts, the second one's before; without a starter by itself."""
    found = []
    for _ in range(2):
        cid = await sleeper(engine, busybox_image, network="none")
        found.append(await links(engine, inst, cid))
        _, starter = await ready(inst, cid)
        if killed:
            started = process.start_time(starter)
            os.kill(starter, signal.SIGKILL)  # which takes its time on a busy machine
            while process.is_running(starter, started):
                await asyncio.sleep(0.01)
    spaces = {os.readlink("/proc/self/ns/net"), *(space for space, _, _ in found)}
    assert len(spaces) == 3
    assert [names for _, names, _ in found] == [["lo"], ["lo"]]
    assert [addresses for _, _, addresses in found] == [["127.0.0.1/8"], ["127.0.0.1/8"]]
    # The spare one expects another of that kind.
    cid = await sleeper(engine, busybox_image, ipc="host")
    _, names, addresses = await links(engine, inst, cid)
    assert names == ["eth0", "lo"]
    assert len(addresses) == 2
    assert os.readlink(f"/proc/{state_of(inst, cid)['pid']}/ns/ipc") == os.readlink("/proc/self/ns/ipc")


async def test_the_next_run_of_an_isolated_container_is_in_the_same_network(
    engine: Engine, busybox_image: str, inst: Instance
) -> None:
    """Another container may have joined it."""
    cid = await sleeper(engine, busybox_image, network="none", restart=RestartPolicy("always"))
    first = state_of(inst, cid)["pid"]
    space = os.readlink(f"/proc/{first}/ns/net")
    descriptors = Path(f"/proc/{state_of(inst, cid)['monitor_pid']}/fd")

    async def is_kept() -> bool:  # by then, nobody could have joined it before
        for each in descriptors.iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since
                if os.readlink(each) == space:
                    return True
        return False

    await until(is_kept)
    os.kill(first, signal.SIGKILL)

    async def again() -> bool:
        return state_of(inst, cid)["pid"] not in (0, first)

    await until(again)
    assert await links(engine, inst, cid) == (space, ["lo"], ["127.0.0.1/8"])


async def test_mounts_are_listed_after_what_they_are_on(engine: Engine, busybox_image: str, inst: Instance) -> None:
    """Whichever were made beforehand: programs read the list from top to bottom (proc_pid_mountinfo(5))."""
    await ready(inst, await sleeper(engine, busybox_image))
    cid = await sleeper(engine, busybox_image)
    lines = (await inside(engine, cid, "cat", "/proc/self/mountinfo")).splitlines()
    places = [line.split()[4] for line in lines]
    assert places[0] == "/"
    ours = [place for place in places if place not in ("/proc", "/sys")]
    above = [
        max((p for p in ours[:n] if place.startswith(f"{p}/")), key=len, default="/") for n, place in enumerate(ours)
    ]
    assert [above[ours.index(f"/dev/{name}")] for name in ("pts", "shm", "mqueue")] == ["/dev", "/dev", "/dev"]
    assert all(ours.index("/sys/fs/cgroup") <= ours.index(p) for p in ours if p.startswith("/sys/fs/cgroup"))


async def test_a_start_that_fails_after_it_was_told_all(engine: Engine, busybox_image: str, inst: Instance) -> None:
    await ready(inst, await sleeper(engine, busybox_image))
    box = await engine.create(ContainerSpec(busybox_image, command=("/no/such/thing",)))
    with pytest.raises(errors.CommandNotFound):
        await engine.start(box.id)
    assert (await engine.container(box.id)).state in (State.CREATED, State.EXITED)


async def test_a_root_that_cannot_be_mounted_says_so(engine: Engine, busybox_image: str, inst: Instance) -> None:
    """The starter meets it first, and leaves the word to the step that has a name."""
    await ready(inst, await sleeper(engine, busybox_image))
    box = await engine.create(ContainerSpec(busybox_image, command=("true",)))
    (inst.container_dir(box.id) / "work").rmdir()
    with pytest.raises(errors.StartFailed, match="root file system"):
        await engine.start(box.id)
    (inst.container_dir(box.id) / "work").mkdir()


def test_the_lowest_layer_is_whole_whoever_is_at_work(inst: Instance) -> None:
    """Several engines make it at once, while one of them empties the trash, and one was killed half way."""
    inst.trash.mkdir(parents=True, exist_ok=True)
    inst.base.mkdir(parents=True)
    (inst.base / "etc").mkdir(mode=0o700)
    pids = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:
            os.umask(0o077)
            try:
                for _ in range(50 if number else 1):
                    lowest_layer.cache_clear()
                    lowest_layer(inst.base)
                    for path in inst.trash.iterdir():
                        shutil.rmtree(path, ignore_errors=True)
                os._exit(0)
            finally:
                os._exit(1)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    modes = {str(path.relative_to(inst.base)): stat.S_IMODE(path.stat().st_mode) for path in inst.base.rglob("*")}
    assert modes == dict.fromkeys(("dev", "etc", "proc", "sys"), 0o755) | dict.fromkeys(
        ("etc/hostname", "etc/hosts", "etc/resolv.conf"), 0o644
    )


def as_before_6_8(monkeypatch: pytest.MonkeyPatch, *, old: bool) -> None:
    if mount.overlay_needs_place() and not old:
        pytest.skip("needs Linux 6.8: overlayfs does not take its layers one by one")
    monkeypatch.setattr(mount, "overlay_needs_place", lambda: old)


@needs_root
@pytest.mark.parametrize("old", [False, True])
def test_an_image_may_have_as_many_layers_as_overlayfs_takes(
    inst: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    as_before_6_8(monkeypatch, old=old)
    for name in ("upper", "work", *map(str, range(500))):
        (tmp_path / name).mkdir()
    layers = tuple(str(tmp_path / str(number)) for number in range(500))
    pid = os.fork()
    if pid == 0:
        process.unshare(process.CLONE_NEWNS)
        mount.set_root_propagation(mount.MS_PRIVATE)
        for some in (layers, layers[:499], layers[:1]):
            mount.overlay(bundle.lower(inst, some), str(tmp_path / "upper"), str(tmp_path / "work"))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


@needs_root
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("deep", [1, 300])
def test_a_containers_root_is_known_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deep: int, old: bool
) -> None:
    """Where there are no cgroups, what outlives the first process of a container is found by it."""
    as_before_6_8(monkeypatch, old=old)
    above = tmp_path / ("x" * (deep // 2)) / ("y" * (deep // 2)) / "c0ffee"
    (tmp_path / "lower").mkdir()
    for name in ("upper", "work"):
        (above / name).mkdir(parents=True)
    pid = os.fork()
    if pid == 0:
        process.unshare(process.CLONE_NEWNS)
        mount.set_root_propagation(mount.MS_PRIVATE)
        made = mount.overlay([str(tmp_path / "lower")], str(above / "upper"), str(above / "work"))
        place = os.open(tmp_path, os.O_PATH)
        mount.attach(made, place)
        with open("/proc/self/mountinfo") as file:
            os._exit("/c0ffee/upper" not in file.read())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@needs_root
def test_nothing_is_mounted_on_the_host_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The starter is in the host's mount namespace, and before Linux 6.8 an overlay needs a place for a moment."""
    monkeypatch.setattr(mount, "overlay_needs_place", lambda: True)
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    stack = Rootfs([str(tmp_path / "lower")], str(tmp_path / "upper"), str(tmp_path / "work"))
    dev = {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}
    pid = os.fork()
    if pid == 0:
        process.unshare(process.CLONE_NEWNS)
        mount.set_root_propagation(mount.MS_PRIVATE)
        with open("/proc/self/mountinfo") as file:
            file.read()
            changes = select.poll()  # proc_pid_mountinfo(5): a change of the mounts is an event
            changes.register(file, select.POLLPRI)
            made = early.make({"mounts": [dev]}, stack)
            os._exit(bool(changes.poll(0)) + 2 * (list(made.mounts) != [0]))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


async def test_no_mount_point_is_made_in_the_containers_layer(
    engine: Engine, busybox_image: str, inst: Instance
) -> None:
    cid = await sleeper(engine, busybox_image)
    assert os.listdir(inst.container_dir(cid) / "upper") == []
    command = ("sh", "-c", "ls -ld /etc /proc/self /dev/null; cat /etc/hosts")
    box = await engine.create(ContainerSpec(busybox_image, command=command))
    await engine.start(box.id)
    assert await engine.wait(box.id) == 0
    assert any("localhost" in line for line in await output(engine, box.id))
    # What is its own is its own: a file beside the mount points is a change.
    box = await engine.create(ContainerSpec(busybox_image, command=("touch", "/etc/mine")))
    await engine.start(box.id)
    assert await engine.wait(box.id) == 0
    await asyncio.sleep(0)
    assert os.listdir(inst.container_dir(box.id) / "upper/etc") == ["mine"]
    assert not (inst.base / "etc/mine").exists()
