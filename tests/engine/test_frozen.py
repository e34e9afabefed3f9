"""The v1 freezer holds even SIGKILL back: whoever waits for the end of a killed process there waits for its thaw. A
container that is paused must not hold its monitor up."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import cgroups
from core.cgroups import v1
from core.engine import Engine
from core.kernel.clone import Place, fork_sibling
from core.local import LocalEngine
from core.model import Healthcheck
from core.store.paths import Instance
from core.supervise.loop import Loop
from core.supervise.spawn import Child
from core.supervise.tasks import reap_in
from tests.conftest import needs_root
from tests.engine.test_crash import launcher, state_of
from tests.engine.test_lifecycle import sleeper, until
from tests.engine.test_starter import children
from tests.patience import patience
from tests.world import assert_world

pytestmark = [
    needs_root,
    pytest.mark.skipif(not cgroups.detect().mount_of("freezer"), reason="there is no v1 freezer"),
]


@pytest.fixture
def group(tmp_path: Path) -> Iterator[str]:
    name = f"wharf-test-{os.getpid()}/frozen"
    cgroups.create(name, {})
    yield name
    freeze(name, False)
    cgroups.kill(name)
    cgroups.remove(name)
    cgroups.remove(os.path.dirname(name))


def sleeping(group: str, line: socket.socket, place: Place | None = None) -> int:
    """A process in the group; with ``place`` one that has made a sibling there, which says that its command runs."""
    pid = os.fork()
    if pid == 0:
        cgroups.enter_self(group)
        if place is None or fork_sibling(place) == 0:
            line.send(b"R")
        line.close()
        while True:
            signal.pause()
    line.close()
    return pid


def test_the_end_of_a_frozen_process_is_not_waited_for(group: str) -> None:
    loop, (ours, theirs) = Loop(), socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = sleeping(group, theirs)
    child = Child(pid, ours)
    child.leave_to = reap_in(loop)
    child.advance()
    freeze(group)
    begun = time.monotonic()
    child.destroy()
    assert time.monotonic() - begun < patience(5)  # it would be for ever
    finish(loop, group, pid)


def test_nor_is_that_of_a_guide(group: str) -> None:
    """The monitor kills it once the command runs, after the engine has its answer: which may have paused it at once."""
    loop, (ours, theirs) = Loop(), socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    place = Place()
    guide = sleeping(group, theirs, place)
    child = Child(guide, ours, place)
    child.leave_to, child.leisurely = reap_in(loop), True
    child.advance()
    assert child.first != guide
    # Both have closed their ends: frozen before that they would not, and the news of the command never come.
    assert select.select([ours], [], [], patience(10))[0]
    freeze(group)
    begun = time.monotonic()
    assert child.advance()
    child.bury()
    assert time.monotonic() - begun < patience(5)  # it would be for ever
    finish(loop, group, guide)
    os.kill(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)
    os.close(child.pidfd)


def freeze(group: str, on: bool = True) -> None:
    """By the v1 freezer, even where the engine has a better one."""
    v1.freeze(cgroups.detect(), group, on, 5.0)


def finish(loop: Loop, group: str, pid: int) -> None:
    """It is still there, and is reaped when it is thawed."""
    assert Path(f"/proc/{pid}").exists()
    freeze(group, False)

    def look() -> None:
        if Path(f"/proc/{pid}").exists() and time.monotonic() < end:
            loop.after(0.01, look)
        else:
            loop.stop()

    end = time.monotonic() + patience(20)
    look()
    loop.run()
    loop.close()
    assert not Path(f"/proc/{pid}").exists()


async def checked(monitor: int) -> bool:
    return "sleep" in children(monitor).values()  # the container itself is a shell


async def test_a_check_too_slow_in_a_paused_container(engine: Engine, busybox_image: str, inst: Instance) -> None:
    check = Healthcheck(("CMD-SHELL", "exec sleep 1000"), interval=0.1, timeout=3.0)
    cid = await sleeper(engine, busybox_image, healthcheck=check)
    monitor, pid = state_of(inst, cid)["monitor_pid"], (await engine.container(cid)).pid
    assert pid is not None
    group = next(line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if ":freezer:" in line)
    path = group.partition(":freezer:/")[2]
    await until(lambda: checked(monitor))
    freeze(path)
    try:
        await asyncio.sleep(4.0)
        session = await asyncio.wait_for(engine.attach(cid), patience(10))  # the monitor answers
        await session.close()
    finally:
        freeze(path, False)
    await until(lambda: checked(monitor))
    await asyncio.wait_for(engine.kill(cid), patience(20))


async def test_a_monitor_that_is_killed_and_not_gone_is_replaced(
    engine: Engine, busybox_image: str, inst: Instance, group: str
) -> None:
    """On a busy host it may take its time to go. An engine that opens meanwhile must not leave the container to it."""
    cid = await sleeper(engine, busybox_image)
    state, server = state_of(inst, cid), launcher(inst, cid)
    cgroups.enter(group, state["monitor_pid"])
    freeze(group)
    for pid in (server, state["monitor_pid"], state["pid"]):
        os.kill(pid, signal.SIGKILL)
    await engine.close()

    async def ended() -> bool:
        return not (await again.container(cid)).state.live

    again = await LocalEngine.open(inst.root, inst.run)
    try:
        freeze(group, False)
        await until(ended, 20)
        assert_world(inst)
    finally:
        await again.close()
