"""``update``: limits and restart policies of containers at work and at rest."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from core import errors
from core.engine import Engine
from core.model import Change, ContainerSpec, Resources, RestartPolicy, State
from core.ops import records, update
from core.ops.open import open_context
from core.runtime import limits
from core.store.paths import Instance
from tests.engine.pids import is_monitor
from tests.engine.test_cli import Wharf
from tests.engine.test_lifecycle import sleeper, until
from tests.engine.test_options import host_config, inside
from tests.engine.test_options_shared import pid_of

CGROUPS = Path("/sys/fs/cgroup")
MIB = 1 << 20


@pytest.fixture
def wharf(instance_env: dict[str, str], busybox_image: str) -> Wharf:
    return Wharf(instance_env, busybox_image)


def limit(inst: Instance, cid: str, v1: str, v2: str) -> str:
    """What the kernel has; files by ``controller/file`` on v1 and by name on v2."""
    controller, _, file = v1.partition("/")
    if (CGROUPS / controller).is_dir():
        return (CGROUPS / controller / inst.cgroup / cid / file).read_text().strip()
    return (CGROUPS / inst.cgroup / cid / v2).read_text().strip()


def memory(inst: Instance, cid: str) -> int:
    return int(limit(inst, cid, "memory/memory.limit_in_bytes", "memory.max"))


def pids(inst: Instance, cid: str) -> str:
    return limit(inst, cid, "pids/pids.max", "pids.max")


async def test_update_of_one_that_runs(engine: Engine, busybox_image: str, inst: Instance) -> None:
    cid = await sleeper(engine, busybox_image, resources=Resources(memory=64 * MIB, pids_limit=50, cpu_shares=512))
    box = await engine.update(cid, Change(Resources(memory=128 * MIB, pids_limit=70)))
    assert (memory(inst, cid), pids(inst, cid)) == (128 * MIB, "70")
    assert box.spec.resources == Resources(memory=128 * MIB, pids_limit=70, cpu_shares=512)
    view = await host_config(engine, cid)
    assert (view["Memory"], view["PidsLimit"], view["CpuShares"]) == (128 * MIB, 70, 512)
    # Lower again, no limit at all, and through a stop and a start.
    await engine.update(cid, Change(Resources(memory=32 * MIB, pids_limit=-1)))
    assert (memory(inst, cid), pids(inst, cid)) == (32 * MIB, "max")
    await engine.restart(cid, timeout=0.1)
    assert (memory(inst, cid), pids(inst, cid)) == (32 * MIB, "max")
    assert await inside(engine, cid, "echo", "here") == (0, "here")


async def test_update_of_one_at_rest(engine: Engine, busybox_image: str, inst: Instance) -> None:
    box = await engine.create(ContainerSpec(busybox_image, command=("sleep", "99")))
    await engine.update(box.id, Change(Resources(memory=64 * MIB), RestartPolicy("always")))
    assert (await host_config(engine, box.id))["RestartPolicy"]["Name"] == "always"
    await engine.start(box.id)
    assert memory(inst, box.id) == 64 * MIB


async def test_an_automatic_restart_has_the_new_limits(engine: Engine, busybox_image: str, inst: Instance) -> None:
    cid = await sleeper(engine, busybox_image, restart=RestartPolicy("no"))
    await engine.update(cid, Change(Resources(memory=64 * MIB), RestartPolicy("on-failure", 5)))
    await end_first(engine, cid)
    assert memory(inst, cid) == 64 * MIB


async def end_first(engine: Engine, cid: str) -> None:
    """Kill the first process behind the engine's back, and see it started again."""
    before = await engine.container(cid)
    os.kill(before.pid, signal.SIGKILL)

    async def again() -> bool:
        now = await engine.container(cid)
        return now.state is State.RUNNING and now.restarts == before.restarts + 1

    await until(again)


async def test_a_new_monitor_knows_the_change(engine: Engine, busybox_image: str, inst: Instance) -> None:
    cid = await sleeper(engine, busybox_image)
    await engine.update(cid, Change(Resources(memory=64 * MIB), RestartPolicy("always")))

    def monitors() -> list[str]:
        return [one.name for one in Path("/proc").iterdir() if one.name.isdigit() and is_monitor(one, cid)]

    old = monitors()
    os.kill(int(old[0]), signal.SIGKILL)

    async def replaced() -> bool:
        return bool(monitors()) and monitors() != old

    await until(replaced)
    await end_first(engine, cid)
    assert memory(inst, cid) == 64 * MIB


async def test_update_of_a_paused_one(engine: Engine, busybox_image: str, inst: Instance) -> None:
    cid = await sleeper(engine, busybox_image)
    await engine.pause(cid)
    await engine.update(cid, Change(Resources(pids_limit=33)))
    assert pids(inst, cid) == "33"
    assert (await engine.container(cid)).state is State.PAUSED
    await engine.kill(cid)


async def test_a_refused_change_changes_nothing(engine: Engine, busybox_image: str, inst: Instance) -> None:
    cid = await sleeper(engine, busybox_image, resources=Resources(memory=64 * MIB, nano_cpus=10**9))
    before = await engine.container(cid)
    for change in (
        Change(),
        Change(Resources(memory=4096)),
        Change(Resources(memory_swap=32 * MIB)),
        Change(Resources(cpu_quota=5000)),
        Change(Resources(cpuset_cpus="4095")),
        Change(restart=RestartPolicy("sometimes")),
    ):
        with pytest.raises(errors.InvalidArgument):
            await engine.update(cid, change)
    with pytest.raises(errors.WharfError):  # more memory is in use than that: found out by the kernel only
        await engine.update(cid, Change(Resources(memory=7 * MIB, blkio_weight=500, cpu_rt_runtime=999_999)))
    assert (await engine.container(cid)).spec == before.spec
    assert memory(inst, cid) == 64 * MIB
    box = await engine.create(ContainerSpec(busybox_image, auto_remove=True, command=("true",)))
    with pytest.raises(errors.InvalidArgument):
        await engine.update(box.id, Change(restart=RestartPolicy("always")))


async def test_what_breaks_off_goes_back_to_the_row(engine: Engine, busybox_image: str, inst: Instance) -> None:
    """As after a crash between the kernel's part and the row's."""
    cid = await sleeper(engine, busybox_image, resources=Resources(memory=64 * MIB))
    ctx = await open_context(inst.root, inst.run)
    try:
        record = await records.find(ctx, cid)
        spec = replace(record.spec, resources=Resources(memory=32 * MIB, pids_limit=20))
        await update._apply(ctx, record, spec, limits.cgroup_limits(spec.resources))
        assert (memory(inst, cid), pids(inst, cid)) == (32 * MIB, "20")
        await ctx.undos["update.undo"](cid)
    finally:
        await ctx.close()
    assert (memory(inst, cid), pids(inst, cid)) == (64 * MIB, "max")


async def test_update_by_the_command_line(engine: Engine, wharf: Wharf, inst: Instance) -> None:
    cid = await wharf.background("box")
    assert await wharf.ok("update", "--memory", "64m", "--restart", "unless-stopped", "box") == "box\n"
    assert memory(inst, cid) == 64 * MIB
    done = await wharf("update", "box")
    assert (done.code, "nothing to update" in done.err) == (1, True)
    assert await pid_of(engine, cid)
    await wharf.ok("rm", "-f", "box")
