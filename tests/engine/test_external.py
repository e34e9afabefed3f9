"""Containers made by other OCI runtimes: the same bundle, the same monitor, the same words. Each test runs with every
runtime that is installed; the oracle runs after each (tests/world.py)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from core import errors
from core.engine import Engine
from core.kernel import process
from core.model import ContainerSpec, ExecSpec, Healthcheck, Mount, PortMapping, Resources, RestartPolicy, State
from core.store.paths import Instance
from tests.engine.test_lifecycle import output, run, sleeper, until
from tests.world import assert_world

COUNT = "i=0; while :; do i=$((i+1)); echo $i; usleep 20000; done"


@pytest.fixture(params=["runc", "crun"])
def runtime(request: pytest.FixtureRequest) -> str:
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
    await asyncio.sleep(0.1)
    before = len(await output(engine, box.id))
    await asyncio.sleep(0.3)
    assert len(await output(engine, box.id)) == before
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
    assert await asyncio.wait_for(engine.wait(box.id), 20) == 5
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
    script = "echo run >> /count; wc -l < /count; trap 'exit 6' TERM; while :; do sleep 0.05; done"
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


async def test_user_by_name(engine: Engine, busybox_image: str, runtime: str, inst: Instance) -> None:
    script = "id -u; id -g; id -G; echo $HOME; echo x > /dev/stdout"
    code, lines = await run(engine, busybox_image, "sh", "-c", script, user="app", runtime=runtime)
    assert (code, lines[:2], lines[3:]) == (0, ["1000", "1000"], ["/home", "x"])
    assert set(lines[2].split()) == {"1000", "2000"}
    box = await engine.create(ContainerSpec(busybox_image, command=("id",), user="nobody-here", runtime=runtime))
    with pytest.raises(errors.StartFailed, match="unknown user"):
        await engine.start(box.id)
    assert_world(inst)


async def test_mounts(engine: Engine, busybox_image: str, runtime: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    mounts = (
        Mount("bind", str(tmp_path), "/data", read_only=True),
        Mount("volume", "keep", "/keep"),
        Mount("tmpfs", "", "/scratch"),
    )
    script = (
        "cat /data/file; touch /data/x 2>/dev/null || echo read-only; echo kept > /keep/f; touch /scratch/x && echo ok"
    )
    code, lines = await run(engine, busybox_image, "sh", "-c", script, mounts=mounts, runtime=runtime)
    assert (code, lines) == (0, ["from the host", "read-only", "ok"])
    _, lines = await run(engine, busybox_image, "cat", "/keep/f", mounts=mounts)
    assert lines == ["kept"]


async def test_published_port(engine: Engine, busybox_image: str, runtime: str) -> None:
    spec = ContainerSpec(
        busybox_image,
        command=("sh", "-c", "while :; do echo hello | nc -l -p 80; done"),
        ports=(PortMapping(80),),
        runtime=runtime,
    )
    box = await engine.start((await engine.create(spec)).id)

    async def answers() -> bool:
        return await asyncio.to_thread(_first_line, box.ports[0].host_port) == b"hello\n"

    await until(answers)
    other = await sleeper(engine, busybox_image, network=f"container:{box.id}", runtime=runtime)
    assert box.endpoints[0].ip in (await executed(engine, other, "ip", "-4", "addr"))[1]


def _first_line(port: int) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as sock:
            return sock.recv(100)
    except OSError:
        return b""


async def test_namespaces_of_others(engine: Engine, busybox_image: str, runtime: str, inst: Instance) -> None:
    first = await sleeper(engine, busybox_image, ipc="shareable", hostname="first")
    assert (await executed(engine, first, "sh", "-c", "echo hello > /dev/shm/file"))[0] == 0
    place = f"container:{first}"
    spec = ContainerSpec(
        busybox_image,
        command=("sh", "-c", "cat /dev/shm/file; hostname; trap 'exit 3' TERM; while :; do sleep 0.05; done"),
        ipc=place,
        pid=place,
        uts=place,
        network=place,
        restart=RestartPolicy("on-failure"),
        runtime=runtime,
    )
    box = await engine.create(spec)
    await engine.start(box.id)
    await until(shows(engine, box.id, "first"))
    assert "while :; do sleep 1" in (await executed(engine, box.id, "ps"))[1]
    await monitor_replaced(engine, inst, box.id)
    await engine.kill(box.id, "TERM")

    async def again() -> bool:
        return await output(engine, box.id) == ["hello", "first"] * 2

    await until(again)
    assert (await engine.stop(box.id, timeout=5)).exit_code == 3


async def test_orphans_in_the_hosts_pid_namespace_are_reaped(
    engine: Engine, busybox_image: str, runtime: str, inst: Instance
) -> None:
    command = ("sh", "-c", "sh -c 'sleep 0.3 & echo $!' ; exec sleep 60")
    box = await engine.create(ContainerSpec(busybox_image, command=command, pid="host", runtime=runtime))
    await engine.start(box.id)

    async def told() -> list[str]:
        return await output(engine, box.id)

    await until(told)
    orphan = Path("/proc") / (await told())[0]

    async def gone() -> bool:
        return not orphan.exists()

    await until(gone)
    assert (await engine.container(box.id)).state is State.RUNNING
    assert (await engine.stop(box.id)).exit_code == 143


async def test_limits_hold_and_are_metered(engine: Engine, busybox_image: str, runtime: str) -> None:
    limits = Resources(memory=32 << 20, memory_swap=32 << 20, nano_cpus=500_000_000, pids_limit=20)
    cid = await sleeper(engine, busybox_image, resources=limits, runtime=runtime)
    (sample,) = await engine.stats([cid])
    assert (sample.memory_limit, sample.pids_limit) == (32 << 20, 20)
    assert 0 < sample.pids <= 3
    assert 0 < sample.memory < 32 << 20
    script = "x=$(yes | tr '\\n' x | head -c 200000000); echo survived"
    small = Resources(memory=16 << 20, memory_swap=16 << 20)
    box = await engine.create(
        ContainerSpec(busybox_image, command=("sh", "-c", script), resources=small, runtime=runtime)
    )
    await engine.start(box.id)
    assert await asyncio.wait_for(engine.wait(box.id), 60) != 0
    assert (await engine.container(box.id)).oom_killed


async def test_it_is_as_confined_as_under_our_own(engine: Engine, busybox_image: str, runtime: str) -> None:
    script = (
        "exec 2>&1; grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status; wc -c < /proc/timer_list; "
        "mount -t tmpfs x /tmp; touch /sys/x /x; echo x > /proc/sys/kernel/core_pattern; ls /sys/firmware | wc -l; "
        "ls /dev | grep -v core; ls /proc/self/fd | wc -l"
    )
    fields: dict[str, object] = {"read_only": True, "security_opt": ("no-new-privileges",), "cap_drop": ("MKNOD",)}
    ours, theirs = [
        await run(engine, busybox_image, "sh", "-c", script, runtime=name, **fields) for name in ("wharf", runtime)
    ]
    assert theirs == ours


async def test_failed_starts_leave_nothing(
    engine: Engine, busybox_image: str, runtime: str, inst: Instance, tmp_path: Path
) -> None:
    async def fails(kind: type[errors.WharfError], *argv: str, **fields: object) -> errors.WharfError:
        spec = ContainerSpec(busybox_image, command=argv, **{"runtime": runtime, **fields})  # type: ignore[arg-type]
        box = await engine.create(spec)
        with pytest.raises(kind) as caught:
            await engine.start(box.id)
        assert_world(inst)
        assert (await engine.container(box.id)).state is State.CREATED
        return caught.value

    assert (await fails(errors.CommandNotFound, "nothing-here")).exit_code == 127
    assert (await fails(errors.CommandNotFound, "/nothing/here")).exit_code == 127
    assert (await fails(errors.CommandNotExecutable, "/etc/notexec")).exit_code == 126
    sysctl = await fails(errors.StartFailed, "true", sysctls={"net.no_such_thing": "1"})
    assert runtime in str(sysctl)
    assert "no_such_thing" in str(sysctl)
    stranger = await fails(errors.StartFailed, "true", runtime=shutil.which("true"))
    assert "true has made no process" in str(stranger)
    assert (await fails(errors.StartFailed, "true", runtime=shutil.which("env"))).exit_code == 125
    gone = tmp_path / "moved"
    shutil.copy(shutil.which(runtime) or "", gone)
    box = await engine.create(ContainerSpec(busybox_image, command=("true",), runtime=str(gone)))
    await engine.start(box.id)
    assert await engine.wait(box.id) == 0
    gone.unlink()
    with pytest.raises(errors.Unsupported, match="not installed"):
        await engine.start(box.id)


def slow_to_create(folder: Path, runtime: str) -> str:
    """A program that is ``runtime``, but takes a minute to end after it has made a container."""
    path = folder / "slow"
    path.write_text(f"#!/bin/sh\n{runtime} \"$@\" || exit\ncase $* in *' create '*) exec sleep 60;; esac\n")
    path.chmod(0o755)
    return str(path)


async def made(inst: Instance, cid: str) -> int:
    """The pid of the first process once the runtime has made it; 0 before."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int((inst.container_run(cid) / "init.pid").read_text())
    return 0


async def test_monitor_killed_while_the_runtime_works(
    engine: Engine, busybox_image: str, runtime: str, inst: Instance, tmp_path: Path
) -> None:
    box = await engine.create(
        ContainerSpec(busybox_image, command=("sleep", "77"), runtime=slow_to_create(tmp_path, runtime))
    )
    starting = asyncio.create_task(engine.start(box.id))
    await until(lambda: made(inst, box.id), 60)
    pid = await made(inst, box.id)
    monitor = next(
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdigit() and f"wharf-monitor {box.id}".encode() in _title(path)
    )
    os.kill(monitor, signal.SIGKILL)
    with pytest.raises(errors.StartFailed):
        await starting
    end = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
        await asyncio.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}")
    assert_world(inst)


def _title(folder: Path) -> bytes:
    try:
        return (folder / "cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return b""


async def test_cancelled_start_leaves_nothing(
    engine: Engine, busybox_image: str, runtime: str, inst: Instance, tmp_path: Path
) -> None:
    box = await engine.create(
        ContainerSpec(busybox_image, command=("sleep", "77"), runtime=slow_to_create(tmp_path, runtime))
    )
    starting = asyncio.create_task(engine.start(box.id))
    await until(lambda: made(inst, box.id), 60)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert_world(inst)
    assert (await engine.container(box.id)).state is State.CREATED


async def test_choosing(
    engine: Engine, busybox_image: str, runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(kind: type[errors.WharfError], **fields: object) -> str:
        with pytest.raises(kind) as caught:
            await engine.create(ContainerSpec(busybox_image, command=("true",), **fields))  # type: ignore[arg-type]
        return str(caught.value)

    file = tmp_path / "config.toml"
    monkeypatch.setenv("WHARF_CONFIG", str(file))
    place = shutil.which(runtime)
    argument = {"runc": "--debug", "crun": "--cgroup-manager=cgroupfs"}[runtime]
    file.write_text(
        f'runtime = "mine"\n[runtimes.mine]\npath = "{place}"\nargs = ["{argument}"]\n[runtimes.gone]\npath = "/x"\n'
    )
    box = await engine.create(ContainerSpec(busybox_image, command=("sh", "-c", "echo by default")))
    assert box.spec.runtime == "mine"
    await engine.start(box.id)
    assert await engine.wait(box.id) == 0
    assert await output(engine, box.id) == ["by default"]
    assert (await engine.create(ContainerSpec(busybox_image, command=("true",), runtime="wharf"))).spec.runtime == ""
    info = await engine.info()
    assert (info.runtime, info.runtimes["mine"], info.runtimes[runtime]) == ("mine", place, place)
    assert "gone" not in info.runtimes
    assert any(check.name == "runtimes" and f"mine ({place})" in check.found for check in await engine.doctor())
    assert "no program /x" in await refused(errors.Unsupported, runtime="gone")
    assert "Did you mean mine?" in await refused(errors.InvalidArgument, runtime="mien")
    assert "absolute" in await refused(errors.InvalidArgument, runtime="./runc")
    assert "there is no program /etc/passwd" in await refused(errors.Unsupported, runtime="/etc/passwd")
    assert "--init" in await refused(errors.InvalidArgument, init=True)
    shared = (Mount("bind", str(tmp_path), "/data", options=("rshared",)),)
    assert "shared" in await refused(errors.InvalidArgument, mounts=shared)
    file.write_text("runtime = 3\n")
    assert "line 1: runtime must be" in await refused(errors.InvalidArgument)
    (failed,) = [check for check in await engine.doctor() if check.status == "fail" and check.name == "runtimes"]
    assert "line 1" in failed.found
    assert any("line 1" in text for text in (await engine.info()).warnings)
    # A name that nobody has is nowhere installed, whatever this machine has.
    monkeypatch.setattr("core.ops.runtimes._FOLDERS", (str(tmp_path),))
    file.unlink()
    assert f"there is no runsc in {tmp_path}" in await refused(errors.Unsupported, runtime="runsc")


async def test_our_own_by_its_command_line(engine: Engine, busybox_image: str, tmp_path: Path) -> None:
    """`wharf runtime` is such a runtime as well."""
    home = Path(__file__).parents[2]
    program = tmp_path / "own"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={home} exec {sys.executable} -m tui runtime "$@"\n')
    program.chmod(0o755)
    script = "echo out; trap 'exit 4' TERM; while :; do sleep 0.05; done"
    box = await engine.create(ContainerSpec(busybox_image, command=("sh", "-c", script), runtime=str(program)))
    await engine.start(box.id)
    await until(shows(engine, box.id, "out"))
    assert await executed(engine, box.id, "sh", "-c", "id -un; exit 3", user="app") == (3, "app\n")
    assert await executed(engine, box.id, "sh", "-c", "test -t 0 && echo yes", tty=True) == (0, "yes\n")
    with pytest.raises(errors.CommandNotFound):
        await engine.exec(box.id, ExecSpec(("no-such-thing",)))
    await engine.pause(box.id)
    await engine.unpause(box.id)
    assert (await engine.stop(box.id)).exit_code == 4
