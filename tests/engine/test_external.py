"""Containers made by other OCI runtimes: the same bundle, the same monitor, the same words. Each test runs with every
runtime that is installed; the oracle runs after each (tests/world.py)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from core import errors
from core.engine import Engine
from core.kernel import process
from core.model import ContainerSpec, ExecSpec, Healthcheck, RestartPolicy, State
from core.store.paths import Instance
from tests.engine.test_lifecycle import at_rest, output, run, sleeper, until
from tests.patience import patience
from tests.world import assert_world

COUNT = "i=0; while :; do i=$((i+1)); echo $i; usleep 20000; done"


@pytest.fixture(name="runtime", params=["runc", "crun"])
def other_runtime(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"needs {name} from Debian")
    return name


def state_of(inst: Instance, cid: str) -> dict[str, int]:
    data: dict[str, int] = json.loads((inst.container_run(cid) / "state.json").read_text())
    return data


def shows(engine: Engine, cid: str, text: str) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return text in await output(engine, cid)

    return check


async def executed(engine: Engine, cid: str, *argv: str, **fields: object) -> tuple[int, str]:
    """Exit code and output of a command inside."""
    session = await engine.exec(cid, ExecSpec(argv, **fields))  # type: ignore[arg-type]
    got = b""
    while (chunk := await session.read()) is not None:
        got += chunk[1]
    code = await session.wait()
    await session.close()
    return code, got.decode().replace("\r\n", "\n")


async def monitor_replaced(engine: Engine, inst: Instance, cid: str) -> None:
    """Kill the monitor and wait for the next one."""
    first = state_of(inst, cid)["monitor_pid"]
    os.kill(first, signal.SIGKILL)

    async def adopted() -> bool:
        with contextlib.suppress(ValueError, FileNotFoundError):
            return state_of(inst, cid)["monitor_pid"] != first
        return False

    await until(adopted)


async def test_output_exit_code_and_surroundings(engine: Engine, busybox_image: str, runtime: str) -> None:
    script = "echo err >&2; hostname; dirname x; cat /proc/sys/kernel/domainname; pwd; ulimit -n; umask; exit 7"
    code, lines = await run(
        engine,
        busybox_image,
        "sh",
        "-c",
        script,
        runtime=runtime,
        hostname="inner",
        domainname="example",
        working_dir="/new/folder",
    )
    assert code == 7
    assert sorted(lines) == sorted(["err", "inner", ".", "example", "/new/folder", "1024", "0022"])


async def test_inspect_names_it_and_the_host_sees_no_mount(
    engine: Engine, busybox_image: str, runtime: str, inst: Instance
) -> None:
    cid = await sleeper(engine, busybox_image, runtime=runtime)
    view = await engine.inspect(cid)
    assert view["HostConfig"]["Runtime"] == runtime  # type: ignore[index]
    assert_world(inst)
    # Debian's runtimes write their state where they are told to: nowhere else.
    assert not [path for path in Path(f"/run/{runtime}").glob("*") if path.name == cid]


async def test_attached_from_the_first_byte(engine: Engine, busybox_image: str, runtime: str) -> None:
    spec = ContainerSpec(busybox_image, command=("sh", "-c", "cat; echo end >&2"), stdin_open=True, runtime=runtime)
    session = await engine.start_attached((await engine.create(spec)).id, stdin=True)
    await session.write(b"one\ntwo\n")
    await session.close_stdin()
    got = {"stdout": b"", "stderr": b""}
    while (chunk := await session.read()) is not None:
        got[chunk[0]] += chunk[1]
    assert got == {"stdout": b"one\ntwo\n", "stderr": b"end\n"}
    assert await session.wait() == 0


async def test_terminal(engine: Engine, busybox_image: str, runtime: str) -> None:
    command = ("sh", "-c", "read x; stty size; echo got $x; test -c /dev/console; exit $?")
    box = await engine.create(ContainerSpec(busybox_image, command=command, tty=True, stdin_open=True, runtime=runtime))
    session = await engine.start_attached(box.id, stdin=True)
    await session.resize(33, 99)
    await session.write(b"hello\n")
    got = b""
    while (chunk := await session.read()) is not None:
        got += chunk[1]
    assert b"33 99" in got
    assert b"got hello" in got
    assert await session.wait() == 0


async def test_exec(engine: Engine, busybox_image: str, runtime: str) -> None:
    cid = await sleeper(engine, busybox_image, runtime=runtime, env=("COLOUR=blue",), umask="027")
    session = await engine.exec(
        cid, ExecSpec(("sh", "-c", "echo $COLOUR $MORE; cat; exit 3"), stdin=True, env=("MORE=x",))
    )
    await session.write(b"typed\n")
    await session.close_stdin()
    got = b""
    while (chunk := await session.read()) is not None:
        got += chunk[1]
    assert (got, await session.wait()) == (b"blue x\ntyped\n", 3)
    await session.close()
    code, text = await executed(
        engine, cid, "sh", "-c", "id -u; id -G; echo $HOME; pwd; umask", user="app", working_dir="/tmp"
    )
    assert (code, text.split("\n")[0], text.split("\n")[2:5]) == (0, "1000", ["/home", "/tmp", "0027"])
    assert set(text.split("\n")[1].split()) == {"1000", "2000"}


async def test_exec_with_a_terminal(engine: Engine, busybox_image: str, runtime: str) -> None:
    cid = await sleeper(engine, busybox_image, runtime=runtime)
    session = await engine.exec(cid, ExecSpec(("sh", "-c", "read x; stty size; echo got $x; exit 9"), tty=True))
    await session.resize(33, 99)
    await session.write(b"hello\n")
    got = b""
    while (chunk := await session.read()) is not None:
        got += chunk[1]
    assert b"33 99" in got
    assert b"got hello" in got
    assert await session.wait() == 9
    await session.close()


async def test_exec_errors_leave_nobody(engine: Engine, busybox_image: str, runtime: str, inst: Instance) -> None:
    cid = await sleeper(engine, busybox_image, runtime=runtime)
    with pytest.raises(errors.CommandNotFound, match="no-such-thing") as missing:
        await engine.exec(cid, ExecSpec(("no-such-thing",)))
    assert missing.value.exit_code == 127
    with pytest.raises(errors.CommandNotExecutable):
        await engine.exec(cid, ExecSpec(("/etc/notexec",)))
    with pytest.raises(errors.StartFailed, match="unknown user"):
        await engine.exec(cid, ExecSpec(("true",), user="nobody-here"))
    assert not [path.name for path in inst.container_run(cid).glob("*.log")]
    # A dead child that nobody takes would keep the pid namespace, and so the container, from ending.
    await engine.kill(cid)
    assert (await engine.container(cid)).exit_code == 137
    with pytest.raises(errors.Conflict):
        await engine.exec(cid, ExecSpec(("true",)))


async def test_stop_and_kill(engine: Engine, busybox_image: str, runtime: str) -> None:
    script = "trap 'echo hup' HUP; trap 'exit 5' TERM; echo ready; while :; do sleep 1 & wait $!; done"
    box = await engine.create(ContainerSpec(busybox_image, command=("sh", "-c", script), runtime=runtime))
    await engine.start(box.id)
    await until(shows(engine, box.id, "ready"))
    await engine.kill(box.id, "HUP")
    await until(shows(engine, box.id, "hup"))
    assert (await engine.stop(box.id)).exit_code == 5
    await engine.start(box.id)
    await engine.kill(box.id)
    assert await engine.wait(box.id) == 137


async def test_pause(engine: Engine, busybox_image: str, runtime: str) -> None:
    box = await engine.create(ContainerSpec(busybox_image, command=("sh", "-c", COUNT), runtime=runtime))
    await engine.start(box.id)
    await until(shows(engine, box.id, "2"))
    await engine.pause(box.id)
    assert (await engine.container(box.id)).state is State.PAUSED
    before = await at_rest(engine, box.id)
    with pytest.raises(errors.Conflict, match="paused"):
        await engine.exec(box.id, ExecSpec(("true",)))
    await engine.unpause(box.id)
    await until(shows(engine, box.id, str(before + 3)))
    await engine.pause(box.id)
    assert (await engine.stop(box.id, timeout=0.5)).state is State.EXITED


async def test_restart_policy(engine: Engine, busybox_image: str, runtime: str) -> None:
    spec = ContainerSpec(
        busybox_image,
        command=("sh", "-c", "echo run >> /count; wc -l < /count; exit 5"),
        restart=RestartPolicy("on-failure", 2),
        runtime=runtime,
    )
    box = await engine.create(spec)
    await engine.start(box.id)
    assert await asyncio.wait_for(engine.wait(box.id), patience(20)) == 5
    assert await output(engine, box.id) == ["1", "2", "3"]
    assert (await engine.container(box.id)).restarts == 2


async def test_monitor_killed(engine: Engine, busybox_image: str, runtime: str, inst: Instance) -> None:
    script = "echo run >> /count; trap 'exit 6' TERM; wc -l < /count; while :; do sleep 0.05; done"
    spec = ContainerSpec(
        busybox_image,
        command=("sh", "-c", script),
        restart=RestartPolicy("on-failure"),
        network="none",
        runtime=runtime,
    )
    box = await engine.create(spec)
    await engine.start(box.id)
    await until(shows(engine, box.id, "1"))
    pid = (await engine.container(box.id)).pid
    await monitor_replaced(engine, inst, box.id)
    assert (await engine.container(box.id)).pid == pid
    assert await executed(engine, box.id, "sh", "-c", "id -un; cat /count", user="app") == (0, "app\nrun\n")
    await engine.pause(box.id)
    await engine.unpause(box.id)
    # Its end is known, and the next run has the same files: the new monitor has the mount namespace of the old one.
    await engine.kill(box.id, "TERM")
    await until(shows(engine, box.id, "2"))
    assert (await engine.container(box.id)).restarts == 1
    await monitor_replaced(engine, inst, box.id)
    stopped = await engine.stop(box.id, timeout=5)
    assert (stopped.state, stopped.exit_code) == (State.EXITED, 6)


async def test_launcher_and_monitor_killed(engine: Engine, busybox_image: str, runtime: str, inst: Instance) -> None:
    script = "echo run >> /count; trap 'exit 6' TERM; wc -l < /count; while :; do sleep 0.05; done"
    spec = ContainerSpec(
        busybox_image, command=("sh", "-c", script), restart=RestartPolicy("on-failure"), runtime=runtime
    )
    box = await engine.create(spec)
    await engine.start(box.id)
    await until(shows(engine, box.id, "1"))
    state = state_of(inst, box.id)
    monitor = state["monitor_pid"]
    launcher = int(Path(f"/proc/{monitor}/stat").read_text().rpartition(")")[2].split()[1])
    for pid in (launcher, monitor):
        os.kill(pid, signal.SIGKILL)

    async def dead() -> bool:
        return not process.is_running(monitor, state["monitor_start"])

    await until(dead)
    await engine.recover()

    async def adopted() -> bool:
        return state_of(inst, box.id)["monitor_pid"] != monitor

    await until(adopted)
    # Nobody has kept the mount namespace: names are looked up through the container, the next run gets a new one.
    assert await executed(engine, box.id, "id", "-un", user="app") == (0, "app\n")
    await engine.kill(box.id, "TERM")
    await until(shows(engine, box.id, "2"))
    assert (await engine.stop(box.id, timeout=5)).exit_code == 6


async def test_health(engine: Engine, busybox_image: str, runtime: str) -> None:
    check = Healthcheck(("CMD-SHELL", "test -e /ok"), interval=0.2, timeout=5, retries=2)
    cid = await sleeper(engine, busybox_image, healthcheck=check, runtime=runtime)

    def is_health(word: str) -> Callable[[], Awaitable[bool]]:
        async def found() -> bool:
            return (await engine.container(cid)).health == word

        return found

    await until(is_health("unhealthy"))
    assert (await executed(engine, cid, "touch", "/ok"))[0] == 0
    await until(is_health("healthy"))
    slow = Healthcheck(("CMD-SHELL", "sleep 60"), interval=0.2, timeout=0.5, retries=1)
    cid = await sleeper(engine, busybox_image, healthcheck=slow, runtime=runtime)
    await until(is_health("unhealthy"))
