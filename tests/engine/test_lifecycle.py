"""Verbs on real containers, through the Engine protocol. The oracle runs after each test (tests/world.py)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from core import errors
from core.engine import Engine
from core.model import ContainerSpec, ExecSpec, Mount, PortMapping, Resources, State
from core.store.paths import Instance
from tests.patience import patience
from tests.ports import free_port
from tests.world import assert_world


async def output(engine: Engine, ref: str) -> list[str]:
    return [line.text async for line in engine.logs(ref)]


async def run(engine: Engine, image: str, *argv: str, **fields: object) -> tuple[int, list[str]]:
    """Run to the end; the exit code and the lines."""
    box = await engine.create(ContainerSpec(image, command=argv, **fields))  # type: ignore[arg-type]
    await engine.start(box.id)
    code = await asyncio.wait_for(engine.wait(box.id), patience(20))
    lines = await output(engine, box.id)
    await engine.remove(box.id)
    return code, lines


async def sleeper(engine: Engine, image: str, **fields: object) -> str:
    """A container that runs until it is ended."""
    script = "trap 'exit 0' TERM; echo ready; while :; do sleep 1 & wait $!; done"
    spec = ContainerSpec(image, command=("sh", "-c", script), **fields)  # type: ignore[arg-type]
    box = await engine.create(spec)
    await engine.start(box.id)
    return box.id


async def until(check: object, seconds: float = 10.0) -> None:
    """Wait for a condition that another process brings about."""
    end = time.monotonic() + patience(seconds)
    while not await check():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not come about in time"
        await asyncio.sleep(0.02)


async def at_rest(engine: Engine, cid: str, seconds: float = 20.0) -> int:
    """How many lines there are of a container that has stopped to write: what was in its pipes comes a little later.

    One that went on would write some at least in the time that is looked at.
    """
    end, count = time.monotonic() + patience(seconds), -1
    while count != (now := len(await output(engine, cid))):
        assert time.monotonic() < end, "it goes on"
        count = now
        await asyncio.sleep(0.4)
    return count


async def test_output_and_exit_code(engine: Engine, busybox_image: str) -> None:
    code, lines = await run(engine, busybox_image, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert code == 7
    assert sorted(lines) == ["err", "out"]


async def test_signal_death_is_128_plus_signal(engine: Engine, busybox_image: str) -> None:
    cid = await sleeper(engine, busybox_image)
    await engine.kill(cid)
    assert await engine.wait(cid) == 137
    box = await engine.container(cid)
    assert (box.state, box.exit_code, box.oom_killed) == (State.EXITED, 137, False)
    await engine.remove(cid)


async def test_inside_looks_like_a_machine_of_its_own(engine: Engine, busybox_image: str) -> None:
    script = "hostname; ps -o pid,comm; id -u; pwd; cat /proc/1/status | grep CapInh"
    box = await engine.create(ContainerSpec(busybox_image, command=("sh", "-c", script), hostname="inner"))
    await engine.start(box.id)
    await engine.wait(box.id)
    text = "\n".join(await output(engine, box.id))
    assert text.startswith("inner\n")
    assert str(os.getpid()) not in text.split()
    assert "CapInh:\t0000000000000000" in text
    await engine.remove(box.id)


async def test_defaults_masked_and_read_only(engine: Engine, busybox_image: str) -> None:
    script = (
        "wc -c < /proc/timer_list; echo x > /proc/sys/kernel/core_pattern || echo ro-sys; "
        "mount -t tmpfs x /tmp 2>/dev/null || echo no-mount; ls /sys/firmware | wc -l; touch /sys/x || echo ro"
    )
    code, lines = await run(engine, busybox_image, "sh", "-c", script)
    assert code == 0
    assert [line for line in lines if "can't create" not in line and "touch" not in line] == [
        "0",
        "ro-sys",
        "no-mount",
        "0",
        "ro",
    ]


async def test_writes_stay_in_the_container(engine: Engine, busybox_image: str) -> None:
    code, lines = await run(engine, busybox_image, "sh", "-c", "echo hi > /etc/new; cat /etc/new")
    assert (code, lines) == (0, ["hi"])
    _, lines = await run(engine, busybox_image, "ls", "/etc")
    assert "new" not in lines


async def test_no_such_command_is_127_and_leaves_nothing(engine: Engine, busybox_image: str, inst: Instance) -> None:
    box = await engine.create(ContainerSpec(busybox_image, command=("nothing-here",)))
    with pytest.raises(errors.CommandNotFound, match="nothing-here") as caught:
        await engine.start(box.id)
    assert caught.value.exit_code == 127
    assert_world(inst)
    assert (await engine.container(box.id)).state is State.CREATED
    await engine.remove(box.id)


async def test_not_executable_is_126(engine: Engine, busybox_image: str, inst: Instance) -> None:
    box = await engine.create(ContainerSpec(busybox_image, command=("/etc/notexec",)))
    with pytest.raises(errors.CommandNotExecutable) as caught:
        await engine.start(box.id)
    assert caught.value.exit_code == 126
    assert_world(inst)


async def test_stop_by_signal_and_by_force(engine: Engine, busybox_image: str) -> None:
    polite = await sleeper(engine, busybox_image)
    await until(lambda: _has(engine, polite, "ready"))
    begun = time.monotonic()
    assert (await engine.stop(polite)).exit_code == 0
    assert time.monotonic() - begun < patience(5)  # not the ten seconds after which it is killed
    deaf = await engine.create(ContainerSpec(busybox_image, command=("sh", "-c", "trap '' TERM; sleep 1000")))
    await engine.start(deaf.id)
    await asyncio.sleep(0.1)
    stopped = await engine.stop(deaf.id, timeout=0.3)
    assert (stopped.state, stopped.exit_code) == (State.EXITED, 137)


async def _has(engine: Engine, cid: str, text: str) -> bool:
    return text in await output(engine, cid)


async def test_ps_inspect_logs_do_not_wait_for_a_stop(engine: Engine, busybox_image: str) -> None:
    deaf = await engine.create(ContainerSpec(busybox_image, command=("sh", "-c", "trap '' TERM; sleep 1000")))
    await engine.start(deaf.id)
    stopping = asyncio.create_task(engine.stop(deaf.id, timeout=1000))

    async def under_way() -> bool:
        return (await engine.containers())[0].state is State.STOPPING

    await until(under_way)
    await engine.inspect(deaf.id)
    await output(engine, deaf.id)
    await engine.stats()
    assert not stopping.done()
    await engine.kill(deaf.id)
    await stopping


async def test_pause_and_unpause(engine: Engine, busybox_image: str) -> None:
    script = "i=0; while :; do echo $i; i=$((i+1)); usleep 20000; done"
    box = await engine.create(ContainerSpec(busybox_image, command=("sh", "-c", script)))
    await engine.start(box.id)
    await until(lambda: _has(engine, box.id, "2"))
    await engine.pause(box.id)
    assert (await engine.container(box.id)).state is State.PAUSED
    before = await at_rest(engine, box.id)
    with pytest.raises(errors.Conflict):
        await engine.pause(box.id)
    await engine.unpause(box.id)
    await until(lambda: _has(engine, box.id, str(before + 3)))
    await engine.pause(box.id)
    assert (await engine.stop(box.id, timeout=1)).state is State.EXITED


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
async def test_ports_are_free_when_it_has_ended(engine: Engine, busybox_image: str, protocol: str) -> None:
    """Whoever is told of the end can have them at once: neither its monitor, nor the launcher, nor a process that this
    is just forking has them still."""
    number = free_port()
    ports = (PortMapping(80, number, protocol),)
    box = await engine.create(ContainerSpec(busybox_image, command=("sleep", "1000"), ports=ports))
    for end in (engine.kill, lambda cid: engine.stop(cid, timeout=0)) * 5:
        await engine.start(box.id)
        await end(box.id)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM) as other:
            other.bind(("0.0.0.0", number))


async def test_restart_keeps_the_file_system(engine: Engine, busybox_image: str) -> None:
    script = "echo run >> /count; wc -l < /count; trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"
    box = await engine.create(ContainerSpec(busybox_image, command=("sh", "-c", script)))
    await engine.start(box.id)
    await until(lambda: _has(engine, box.id, "1"))
    await engine.restart(box.id)
    await until(lambda: _has(engine, box.id, "2"))


async def test_exec(engine: Engine, busybox_image: str) -> None:
    cid = await sleeper(engine, busybox_image, env=("COLOUR=blue",), hostname="inner")
    session = await engine.exec(cid, ExecSpec(("sh", "-c", "hostname; echo $COLOUR; cat; exit 3"), stdin=True))
    await session.write(b"typed\n")
    await session.close_stdin()
    got = b""
    while (chunk := await session.read()) is not None:
        got += chunk[1]
    assert got == b"inner\nblue\ntyped\n"
    assert await session.wait() == 3
    await session.close()


async def test_exec_with_a_terminal(engine: Engine, busybox_image: str) -> None:
    cid = await sleeper(engine, busybox_image)
    session = await engine.exec(cid, ExecSpec(("sh", "-c", "test -t 0 && stty size; read x; echo got $x"), tty=True))
    await session.resize(33, 99)
    await session.write(b"hello\n")
    got = b""
    while (chunk := await session.read()) is not None:
        got += chunk[1]
    assert b"got hello" in got
    assert await session.wait() == 0
    await session.close()


async def test_exec_errors(engine: Engine, busybox_image: str) -> None:
    cid = await sleeper(engine, busybox_image)
    with pytest.raises(errors.CommandNotFound):
        await engine.exec(cid, ExecSpec(("no-such-thing",)))
    await engine.kill(cid)
    with pytest.raises(errors.Conflict):
        await engine.exec(cid, ExecSpec(("true",)))


async def test_attached_from_the_first_byte(engine: Engine, busybox_image: str) -> None:
    box = await engine.create(ContainerSpec(busybox_image, command=("sh", "-c", "cat; echo end >&2"), stdin_open=True))
    session = await engine.start_attached(box.id, stdin=True)
    await session.write(b"one\ntwo\n")
    await session.close_stdin()
    got: dict[str, bytes] = {"stdout": b"", "stderr": b""}
    while (chunk := await session.read()) is not None:
        got[chunk[0]] += chunk[1]
    assert got == {"stdout": b"one\ntwo\n", "stderr": b"end\n"}
    assert await session.wait() == 0


async def test_limits_are_real(engine: Engine, busybox_image: str) -> None:
    limits = Resources(memory=32 << 20, memory_swap=32 << 20, nano_cpus=500_000_000, pids_limit=20)
    cid = await sleeper(engine, busybox_image, resources=limits)
    (sample,) = await engine.stats([cid])
    assert (sample.memory_limit, sample.pids_limit) == (32 << 20, 20)
    assert 0 < sample.pids <= 3
    assert 0 < sample.memory < 32 << 20


async def test_cpu_quota_holds(engine: Engine, busybox_image: str) -> None:
    spec = ContainerSpec(
        busybox_image, command=("sh", "-c", "while :; do :; done"), resources=Resources(nano_cpus=200_000_000)
    )
    box = await engine.create(spec)
    await engine.start(box.id)
    (first,) = await engine.stats([box.id])
    second = first

    async def measured() -> bool:
        """Over two seconds at least; and it was held back, which on a busy host comes later."""
        nonlocal second
        (second,) = await engine.stats([box.id])
        return second.time - first.time > 2 and second.throttled_ns > first.throttled_ns

    await until(measured, 30)
    used = (second.cpu_ns - first.cpu_ns) / 1e9 / (second.time - first.time)
    assert 0 < used < 0.3


async def test_out_of_memory_is_told(engine: Engine, busybox_image: str) -> None:
    spec = ContainerSpec(
        busybox_image,
        command=("sh", "-c", "x=$(yes | tr '\\n' x | head -c 200000000); echo survived"),
        resources=Resources(memory=16 << 20, memory_swap=16 << 20),
    )
    box = await engine.create(spec)
    await engine.start(box.id)
    code = await asyncio.wait_for(engine.wait(box.id), patience(60))
    assert code != 0
    assert (await engine.container(box.id)).oom_killed


async def test_mounts(engine: Engine, busybox_image: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    mounts = (
        Mount("bind", str(tmp_path), "/data", read_only=True),
        Mount("volume", "keep", "/keep"),
        Mount("tmpfs", "", "/scratch"),
    )
    script = (
        "cat /data/file; touch /data/x 2>/dev/null || echo read-only; echo kept > /keep/f; touch /scratch/x && echo ok"
    )
    code, lines = await run(engine, busybox_image, "sh", "-c", script, mounts=mounts)
    assert (code, lines) == (0, ["from the host", "read-only", "ok"])
    _, lines = await run(engine, busybox_image, "cat", "/keep/f", mounts=mounts)
    assert lines == ["kept"]


async def test_user_and_groups(engine: Engine, busybox_image: str) -> None:
    code, lines = await run(engine, busybox_image, "sh", "-c", "id -u; id -g; id -G", user="app")
    assert (code, lines[:2]) == (0, ["1000", "1000"])
    assert set(lines[2].split()) == {"1000", "2000"}
    box = await engine.create(ContainerSpec(busybox_image, command=("id",), user="nobody-here"))
    with pytest.raises(errors.StartFailed, match="unknown user"):
        await engine.start(box.id)
    for wrong in ("4294967296", "-1"):
        with pytest.raises(errors.InvalidArgument):
            await engine.create(ContainerSpec(busybox_image, command=("id",), user=wrong))


async def test_names_and_references(engine: Engine, busybox_image: str) -> None:
    box = await engine.create(ContainerSpec(busybox_image, name="web", command=("true",)))
    with pytest.raises(errors.NameTaken, match="web"):
        await engine.create(ContainerSpec(busybox_image, name="web", command=("true",)))
    assert (await engine.container("web")).id == box.id
    assert (await engine.container(box.id[:6])).id == box.id
    with pytest.raises(errors.NotFound):
        await engine.container("other")
    with pytest.raises(errors.NotFound):
        await engine.create(ContainerSpec("no-such-image:1"))
    with pytest.raises(errors.InvalidArgument):
        await engine.create(ContainerSpec(busybox_image, name="a/b"))


async def test_image_in_use_is_not_removed(engine: Engine, busybox_image: str) -> None:
    box = await engine.create(ContainerSpec(busybox_image, name="user", command=("true",)))
    with pytest.raises(errors.InUse, match="user"):
        await engine.remove_image(busybox_image)
    await engine.remove(box.id)
    done = await engine.remove_image(busybox_image)
    assert any(line.startswith("Deleted: ") for line in done)
    assert await engine.images() == []


async def test_events_tell_the_story(engine: Engine, busybox_image: str) -> None:
    begun = time.time()
    await run(engine, busybox_image, "sh", "-c", "exit 2")
    story = [event async for event in engine.events(since=begun, until=time.time())]
    words = [event.action for event in story if event.kind == "container"]
    assert words == ["create", "start", "die", "destroy"]
    assert next(event for event in story if event.action == "die").attributes["exitCode"] == "2"


async def test_config_is_oci(engine: Engine, busybox_image: str) -> None:
    cid = await sleeper(engine, busybox_image)
    box = await engine.container(cid)
    config = json.loads((Path(box.bundle) / "config.json").read_text())
    assert config["ociVersion"].startswith("1.")
    assert {space["type"] for space in config["linux"]["namespaces"]} >= {"pid", "mount", "uts", "ipc", "network"}
    assert config["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"


async def test_many_at_once(engine: Engine, busybox_image: str) -> None:
    boxes = [await sleeper(engine, busybox_image) for _ in range(3)]
    boxes += await asyncio.gather(*(sleeper(engine, busybox_image) for _ in range(7)))
    found = await engine.containers(all=False)
    assert len(found) == 10
    assert len({end.ip for box in found for end in box.endpoints}) == 10
    await asyncio.gather(*(engine.remove(cid, force=True) for cid in boxes))
    assert await engine.containers() == []


async def test_network_modes(engine: Engine, busybox_image: str) -> None:
    _, lines = await run(engine, busybox_image, "ls", "/sys/class/net", network="none")
    assert lines == ["lo"]
    _, lines = await run(engine, busybox_image, "ls", "/sys/class/net", network="host")
    assert set(lines) >= {path.name for path in Path("/sys/class/net").iterdir() if path.name == "lo"}
    cid = await sleeper(engine, busybox_image)
    _, lines = await run(engine, busybox_image, "ip", "-4", "addr", "show", "eth0", network=f"container:{cid}")
    (end,) = (await engine.container(cid)).endpoints
    assert any(end.ip in line for line in lines)


def test_signals_have_names() -> None:
    from core.ops.kill import parse_signal

    assert parse_signal("SIGHUP") == parse_signal("hup") == parse_signal("1") == signal.SIGHUP
    assert parse_signal("RTMIN+3") == signal.SIGRTMIN + 3
    with pytest.raises(errors.InvalidArgument):
        parse_signal("NOPE")
