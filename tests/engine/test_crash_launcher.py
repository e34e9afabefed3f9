"""The launcher is killed, and what it has beforehand: its containers run on, and whoever comes next knows all that it
knew. Each test ends with the oracle (tests/world.py)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from core.engine import Engine
from core.model import ContainerSpec, RestartPolicy, State
from core.store.paths import Instance
from core.supervise import client
from tests.engine.test_crash import counter, goes_on, launcher, spares, state_of
from tests.engine.test_lifecycle import sleeper, until
from tests.world import processes


async def test_launcher_killed(engine: Engine, busybox_image: str, inst: Instance) -> None:
    cid = await counter(engine, busybox_image)
    os.kill(launcher(inst, cid), signal.SIGKILL)
    await asyncio.sleep(0.2)
    assert (await engine.container(cid)).state is State.RUNNING
    other = await sleeper(engine, busybox_image)
    assert (await engine.container(other)).state is State.RUNNING
    await goes_on(engine, cid)


async def test_launcher_killed_and_then_a_restart_by_policy(engine: Engine, busybox_image: str, inst: Instance) -> None:
    """The monitor has nobody to give copies to, which must not end it."""
    spec = ContainerSpec(busybox_image, command=("sh", "-c", "sleep 0.3; exit 1"), restart=RestartPolicy("always"))
    box = await engine.create(spec)
    await engine.start(box.id)
    monitor = state_of(inst, box.id)["monitor_pid"]
    os.kill(launcher(inst, box.id), signal.SIGKILL)

    async def again() -> bool:
        state = await asyncio.to_thread(client.read_state, inst, box.id)
        return state is not None and state.restarts >= 2

    await until(again)
    assert state_of(inst, box.id)["monitor_pid"] == monitor
    assert Path(f"/proc/{monitor}").exists()


async def test_spare_monitor_killed(engine: Engine, busybox_image: str, inst: Instance) -> None:
    cid = await sleeper(engine, busybox_image)
    pid = launcher(inst, cid)

    async def one() -> bool:
        return len(spares(pid)) == 1

    await until(one)
    [spare] = spares(pid)
    other = await sleeper(engine, busybox_image)
    assert state_of(inst, other)["monitor_pid"] == spare
    await until(one)
    [spare] = spares(pid)
    os.kill(spare, signal.SIGKILL)

    async def gone() -> bool:
        """When a zombie without a launcher is reaped is the host's affair."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return Path(f"/proc/{spare}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        return True

    await until(gone)
    third = await sleeper(engine, busybox_image)
    assert (await engine.container(third)).state is State.RUNNING
    await until(one)
    [spare] = spares(pid)
    os.kill(pid, signal.SIGKILL)
    await until(gone)


async def test_the_next_launcher_hears_of_what_changes(engine: Engine, busybox_image: str, inst: Instance) -> None:
    """It has asked the monitor for copies once; of another run, and of an input that has ended, it must know too."""
    script = "cat >/dev/null; exit 3"
    spec = ContainerSpec(busybox_image, command=("sh", "-c", script), stdin_open=True, restart=RestartPolicy("always"))
    box = await engine.create(spec)
    await engine.start(box.id)
    os.kill(launcher(inst, box.id), signal.SIGKILL)
    await sleeper(engine, busybox_image)  # there is another launcher now
    session = await engine.attach(box.id)
    await session.close_stdin()
    await session.close()

    async def again() -> bool:
        state = await asyncio.to_thread(client.read_state, inst, box.id)
        return state is not None and state.restarts == 1 and client.alive(state)

    await until(again)
    second = state_of(inst, box.id)
    os.kill(second["monitor_pid"], signal.SIGKILL)

    async def replaced() -> bool:
        return state_of(inst, box.id)["monitor_pid"] != second["monitor_pid"]

    await until(replaced)
    found = await engine.container(box.id)
    assert (found.state, found.pid, found.restarts) == (State.RUNNING, second["pid"], 1)


async def test_no_process_outlives_its_use(engine: Engine, busybox_image: str, inst: Instance) -> None:
    cid = await sleeper(engine, busybox_image)
    assert len(processes(inst)) >= 1
    await engine.remove(cid, force=True)

    async def only_the_launcher() -> bool:
        return len(processes(inst)) <= 1

    await until(only_the_launcher)
