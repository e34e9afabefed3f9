"""kill −9 at any moment: containers run on, nothing leaks, exit codes are exact (faults of the kind that users report:
podman#10003-like ghosts, moby live-restore). Each test ends with the oracle (tests/world.py)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.engine import Engine
from core.kernel import process
from core.local import LocalEngine
from core.model import ContainerSpec, PortMapping, State
from core.store.paths import Instance
from core.supervise import client
from tests.engine.test_lifecycle import output, sleeper, until
from tests.patience import patience
from tests.world import assert_world

NUMBERS = "i=0; while :; do i=$((i+1)); echo $i; usleep 2000; done"


def state_of(inst: Instance, cid: str) -> dict[str, int]:
    data: dict[str, int] = json.loads((inst.container_run(cid) / "state.json").read_text())
    return data


def launcher(inst: Instance, cid: str) -> int:
    """The launcher's pid: the parent of the container's monitor."""
    monitor = state_of(inst, cid)["monitor_pid"]
    return int(Path(f"/proc/{monitor}/stat").read_text().rpartition(")")[2].split()[1])


async def in_sequence(engine: Engine, cid: str) -> int:
    """How many numbered lines there are; fails on a gap or a repeat."""
    lines = [int(text) for text in await output(engine, cid)]
    assert lines == list(range(1, len(lines) + 1))
    return len(lines)


async def goes_on(engine: Engine, cid: str) -> None:
    """It counts on from where it is now."""
    before = await in_sequence(engine, cid)

    async def more() -> bool:
        return await in_sequence(engine, cid) > before

    await until(more)


async def counter(engine: Engine, image: str) -> str:
    box = await engine.create(ContainerSpec(image, command=("sh", "-c", NUMBERS)))
    await engine.start(box.id)
    return box.id


def pidfds_tell() -> bool:
    """Does the kernel tell who is no parent how a process has ended (Linux 6.15)?"""
    pid = os.fork()
    if pid == 0:
        os._exit(3)
    pidfd = os.pidfd_open(pid)
    os.waitpid(pid, 0)
    try:
        return process.exit_status(pidfd) is not None
    finally:
        os.close(pidfd)


@contextlib.asynccontextmanager
async def silenced(engine: Engine, inst: Instance, cid: str) -> AsyncIterator[None]:
    """The counter writes nothing meanwhile, and all before is in the log: a monitor that is killed takes with it what
    it has read and not written yet."""
    state = state_of(inst, cid)
    os.kill(state["pid"], signal.SIGSTOP)
    count, now = -1, 0
    # Whoever has something to read or to write does not sleep.
    while count != now or not sleeps(state["monitor_pid"]):
        count, now = now, len(await output(engine, cid))
        await asyncio.sleep(patience(0.1))
    yield
    os.kill(state["pid"], signal.SIGCONT)


def sleeps(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


async def test_engine_closed_and_reopened(engine: Engine, busybox_image: str, inst: Instance) -> None:
    cid = await counter(engine, busybox_image)
    await asyncio.sleep(0.2)
    pid = (await engine.container(cid)).pid
    await engine.close()
    await asyncio.sleep(0.3)
    again = await LocalEngine.open(inst.root, inst.run)
    try:
        box = await again.container(cid)
        assert (box.state, box.pid) == (State.RUNNING, pid)
        await goes_on(again, cid)
    finally:
        await again.close()


async def test_exit_while_no_engine_runs(engine: Engine, busybox_image: str, inst: Instance) -> None:
    spec = ContainerSpec(busybox_image, command=("sh", "-c", "sleep 1.3; exit 9"), ports=(PortMapping(80),))
    box = await engine.create(spec)
    begun = time.time()
    await engine.start(box.id)
    await engine.close()
    # Nobody listens: the monitor's one-shot clean-up must release the address and the port by itself.
    end = time.monotonic() + patience(10)
    while inst.container_run(box.id).exists():
        assert time.monotonic() < end
        await asyncio.sleep(0.05)
    assert_world(inst)
    again = await LocalEngine.open(inst.root, inst.run)
    try:
        found = await again.container(box.id)
        assert (found.state, found.exit_code) == (State.EXITED, 9)
        assert begun <= found.started < found.finished - 0.3 < time.time()
    finally:
        await again.close()


async def test_monitor_killed(engine: Engine, busybox_image: str, inst: Instance) -> None:
    cid = await counter(engine, busybox_image)
    await asyncio.sleep(0.2)
    first = state_of(inst, cid)
    async with silenced(engine, inst, cid):
        os.kill(first["monitor_pid"], signal.SIGKILL)

    async def adopted() -> bool:
        with contextlib.suppress(ValueError, FileNotFoundError):
            return state_of(inst, cid)["monitor_pid"] != first["monitor_pid"]
        return False

    await until(adopted)
    assert (await engine.container(cid)).pid == first["pid"]
    await goes_on(engine, cid)
    assert (await engine.stop(cid, timeout=0.2)).exit_code == 137


async def test_exit_code_after_adoption_is_exact(engine: Engine, busybox_image: str, inst: Instance) -> None:
    box = await engine.create(ContainerSpec(busybox_image, command=("sh", "-c", "sleep 1; exit 42")))
    await engine.start(box.id)
    os.kill(state_of(inst, box.id)["monitor_pid"], signal.SIGKILL)
    assert await asyncio.wait_for(engine.wait(box.id), patience(20)) in (42, -1)
    found = await engine.container(box.id)
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if release >= (6, 15):  # PIDFD_GET_INFO tells the exit status to others than the parent
        assert (found.state, found.exit_code) == (State.EXITED, 42)
    else:
        assert found.exit_code in (42, None)


def spares(parent: int) -> list[int]:
    """Monitors that a launcher has made beforehand."""
    found = []
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            parents = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parents == parent and (path / "cmdline").read_bytes().startswith(b"wharf-spare"):
                found.append(int(path.name))
    return found


async def test_a_start_that_another_engine_sees(engine: Engine, busybox_image: str, inst: Instance) -> None:
    """Broken off, and not undone yet."""
    box = await engine.create(ContainerSpec(busybox_image, command=("sleep", "1000")))
    await engine.close()
    argv = [sys.executable, "-c", CUT, str(inst.root), str(inst.run), box.id, "after the row"]
    reader = await LocalEngine.open(inst.root, inst.run)
    try:
        assert (await reader.container(box.id)).state is State.CREATED
        done = await asyncio.create_subprocess_exec(*argv, cwd=Path(__file__).parents[2])
        assert await done.wait() == 77
        assert (await reader.container(box.id)).state is State.STARTING
        assert await reader.recover() == []
        assert (await reader.container(box.id)).state is State.CREATED
        assert_world(inst)
    finally:
        await reader.close()


async def test_launcher_and_monitor_killed(engine: Engine, busybox_image: str, inst: Instance) -> None:
    cid = await counter(engine, busybox_image)
    pid = state_of(inst, cid)["pid"]
    async with silenced(engine, inst, cid):
        for one in (launcher(inst, cid), state_of(inst, cid)["monitor_pid"]):
            os.kill(one, signal.SIGKILL)
    await engine.close()
    again = await LocalEngine.open(inst.root, inst.run)
    try:
        assert (await again.container(cid)).pid == pid
        await asyncio.sleep(0.3)
        await in_sequence(again, cid)
        ended = await again.stop(cid, timeout=0.2)
        # Its parent is the host's init now; whether anyone else can ask how it ended is up to the kernel.
        assert ended.exit_code == 137 or (ended.state is State.UNKNOWN and not pidfds_tell())
    finally:
        await again.close()


async def test_everything_killed_at_once(engine: Engine, busybox_image: str, inst: Instance) -> None:
    cid = await counter(engine, busybox_image)
    state = state_of(inst, cid)
    for one in (launcher(inst, cid), state["monitor_pid"], state["pid"]):
        os.kill(one, signal.SIGKILL)
    await engine.close()
    again = await LocalEngine.open(inst.root, inst.run)
    try:

        async def ended() -> bool:
            """One that has been killed may be there for a while yet: whoever finds it so watches it to its end."""
            return not (await again.container(cid)).state.live

        await until(ended, 20)
        box = await again.container(cid)
        assert box.state is State.UNKNOWN or box.exit_code == 137
        assert_world(inst)
        await again.start(cid)
        assert (await again.container(cid)).state is State.RUNNING
    finally:
        await again.close()


CUT = """
import asyncio, os, sys
from pathlib import Path
from core.local import LocalEngine
from core.store import journal
from core.ops import bundle, start, records
from core.supervise import client

where = sys.argv[4]

def die(*args, **kwargs):
    os._exit(77)

async def die_later(*args):
    await asyncio.sleep(0.5)
    die()

async def main():
    engine = await LocalEngine.open(Path(sys.argv[1]), Path(sys.argv[2]))
    if where == "before wiring":
        start.wire = die
    elif where == "amid the network":
        client.Launching.ahead = die_later
    elif where == "before launch":
        client.Launching.go = die
    elif where == "at the row":
        records.save_start = die
    elif where == "after the row":
        client.Launching.go = die_later
    elif where == "before the bundle":
        bundle.write_rest = die
    elif where == "after the launch":
        journal.Journal.__aexit__ = die
    elif where == "never":
        pass
    await engine.start(sys.argv[3])
    await engine.close()

asyncio.run(main())
"""


PLACES = [
    "before wiring", "amid the network", "before launch", "at the row", "before the bundle", "after the row",
    "after the launch", "never",
]  # fmt: skip


@pytest.mark.parametrize("where", PLACES)
async def test_engine_killed_inside_start(engine: Engine, busybox_image: str, inst: Instance, where: str) -> None:
    spec = ContainerSpec(busybox_image, command=("sh", "-c", NUMBERS), ports=(PortMapping(80),))
    box = await engine.create(spec)
    await engine.close()
    since = time.time()
    argv = [sys.executable, "-c", CUT, str(inst.root), str(inst.run), box.id, where]
    done = subprocess.run(argv, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == (0 if where == "never" else 77)
    again = await LocalEngine.open(inst.root, inst.run)
    try:
        assert_world(inst)
        dead = [event async for event in again.events(since=since, until=time.time()) if event.action == "die"]
        assert ("128" in [event.attributes["exitCode"] for event in dead]) is (where != "never")
        found = await again.container(box.id)
        assert found.state is (State.RUNNING if where == "never" else State.CREATED)
        if not found.state.live:
            assert (await again.start(box.id)).state is State.RUNNING
        for name in ("hosts", "resolv.conf", "hostname"):
            path = inst.container_dir(box.id) / name
            assert path.read_text() == path.with_name(f"{name}.ours").read_text() != ""
    finally:
        await again.close()


async def test_a_reused_pid_is_never_signalled(engine: Engine, busybox_image: str, inst: Instance) -> None:
    cid = await sleeper(engine, busybox_image)
    run = client.read_state(inst, cid)
    assert run is not None
    with subprocess.Popen(["sleep", "60"]) as bystander:
        # What the file would say if the container had ended and its pid were another process's now.
        stale = run._replace(pid=bystander.pid)
        assert not client.alive(stale)
        assert not client.signal(stale, signal.SIGKILL)
        assert bystander.poll() is None
        bystander.kill()


async def test_a_stop_that_was_broken_off_is_finished(engine: Engine, busybox_image: str, inst: Instance) -> None:
    script = "trap '' TERM; echo ready; while :; do sleep 1; done"
    box = await engine.create(ContainerSpec(busybox_image, command=("sh", "-c", script)))
    await engine.start(box.id)
    stopping = asyncio.create_task(engine.stop(box.id, timeout=60))

    async def asked() -> bool:
        return (await engine.container(box.id)).state is State.STOPPING

    await until(asked)
    stopping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await stopping
    await engine.close()
    # As it is a minute later: the time that the stop would have waited has passed.
    with contextlib.closing(sqlite3.connect(inst.root / "wharf.db")) as con:
        saved = json.loads(con.execute("SELECT state FROM container").fetchone()[0])
        con.execute("UPDATE container SET state = ?", (json.dumps({**saved, "stop_by": 1.0}),))
        con.commit()
    again = await LocalEngine.open(inst.root, inst.run)
    try:
        assert (await again.container(box.id)).exit_code == 137
    finally:
        await again.close()
