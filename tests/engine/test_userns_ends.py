"""User namespaces per container whatever happens: restarts, broken, cancelled and killed starts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest

from core import errors
from core.engine import Engine
from core.model import ContainerSpec, RestartPolicy, State
from core.store.paths import Instance
from tests.engine.test_crash import launcher, state_of
from tests.engine.test_lifecycle import sleeper, until
from tests.engine.test_options import inside
from tests.engine.test_userns import CREATE, disjoint, span

pytestmark = pytest.mark.usefixtures("mappable")


# -- whatever happens
async def test_automatic_restart_keeps_everything(engine: Engine, busybox_image: str, inst: Instance) -> None:
    policy = RestartPolicy("always")
    cid = await sleeper(engine, busybox_image, userns="auto", restart=policy)
    box = await engine.container(cid)
    spaces = [os.readlink(f"/proc/{box.pid}/ns/{kind}") for kind in ("user", "net")]
    os.kill(launcher(inst, cid), signal.SIGKILL)  # with its copies; and then the monitor, with its own
    first = state_of(inst, cid)
    os.kill(first["monitor_pid"], signal.SIGKILL)

    async def adopted() -> bool:
        await engine.recover()  # each time: it may not be dead yet
        with contextlib.suppress(ValueError, FileNotFoundError):
            return state_of(inst, cid)["monitor_pid"] != first["monitor_pid"]
        return False

    await until(adopted)
    os.kill(box.pid, signal.SIGKILL)

    async def restarted() -> bool:
        now = await engine.container(cid)
        return now.state is State.RUNNING and now.pid not in (0, box.pid)

    await until(restarted)
    again = await engine.container(cid)
    assert [os.readlink(f"/proc/{again.pid}/ns/{kind}") for kind in ("user", "net")] == spaces
    assert again.ids == box.ids
    assert await inside(engine, cid, "sh", "-c", "echo out > /dev/stdout; ls /sys/class/net") == (0, "out\neth0\nlo")
    await engine.stop(cid, timeout=1)


async def test_broken_start_leaves_nothing(engine: Engine, busybox_image: str) -> None:
    box = await engine.create(ContainerSpec(busybox_image, command=("/nothing",), userns="auto"))
    for _ in range(2):
        with pytest.raises(errors.CommandNotFound):
            await engine.start(box.id)
    await engine.remove(box.id)
    assert await engine.containers() == []


async def test_cancelled_start_leaves_nothing(engine: Engine, busybox_image: str) -> None:
    """At whatever moment; the descriptors are counted when the test is over."""
    box = await engine.create(ContainerSpec(busybox_image, command=("sleep", "100"), userns="auto"))
    for milliseconds in (1, 5, 10, 15, 20, 30, 45, 60, 90):
        starting = asyncio.create_task(engine.start(box.id))
        await asyncio.sleep(milliseconds / 1000)
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        if (await engine.container(box.id)).state.live:  # it was too late
            await engine.kill(box.id)
    await engine.start(box.id)
    await engine.remove(box.id, force=True)


async def test_killed_while_it_creates(engine: Engine, busybox_image: str, inst: Instance) -> None:
    """At whatever moment: the rows that are there have ranges, and these do not overlap."""
    argv = [sys.executable, "-c", CREATE, str(inst.root), str(inst.run), busybox_image]
    for delay in (0.3, 0.45, 0.6):
        worker = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        await asyncio.sleep(delay)
        worker.kill()
        worker.wait()
    await engine.recover()
    assert disjoint([await span(engine, box.id) for box in await engine.containers()])


async def test_command_line(engine: Engine, busybox_image: str, instance_env: dict[str, str]) -> None:
    def wharf(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "tui", *argv], capture_output=True, text=True, env=instance_env)

    done = await asyncio.to_thread(wharf, "run", "--name", "r", "--userns=auto:size=500", busybox_image, "id", "-u")
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
    view = json.loads((await asyncio.to_thread(wharf, "inspect", "r")).stdout)[0]
    assert view["HostConfig"]["UsernsMode"] == "auto:size=500"
    assert "auto" in (await asyncio.to_thread(wharf, "run", "--help")).stdout
    done = await asyncio.to_thread(wharf, "run", "--userns=auto", "--privileged", busybox_image)
    assert done.returncode == 125
    assert "--privileged contradicts --userns" in done.stderr
