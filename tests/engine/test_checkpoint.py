"""Checkpoint and restore, with the CRIU of this host (``$WHARF_CRIU`` names another one)."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from core import errors
from core.engine import Engine
from core.kernel import caps
from core.model import (
    CheckpointOptions,
    ContainerSpec,
    ExecSpec,
    Healthcheck,
    Mount,
    PortMapping,
    Resources,
    RestartPolicy,
    State,
)
from core.store.paths import Instance
from core.supervise import criu
from core.supervise.records import load_state
from tests.criu import needs_criu
from tests.patience import patience
from tests.ports import free_port

COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"


@pytest.fixture
def works() -> None:
    needs_criu()


async def start(engine: Engine, image: str, script: str = COUNT, **fields: object) -> str:
    """A container that counts."""
    box = await engine.create(ContainerSpec(image, command=("sh", "-c", script), **fields))  # type: ignore[arg-type]
    await engine.start(box.id)
    await until(lambda: last(engine, box.id), 3)
    return box.id


async def numbers(engine: Engine, cid: str) -> list[int]:
    return [int(line.text) async for line in engine.logs(cid) if line.text.isdigit()]


async def last(engine: Engine, cid: str) -> int:
    return (await numbers(engine, cid) or [0])[-1]


async def until(value: Callable[[], Awaitable[int]], least: int) -> None:
    """Wait until something has counted up to ``least``."""
    end = time.monotonic() + patience(20)
    while await value() < least:
        assert time.monotonic() < end, f"it does not go on: {await value()} < {least}"
        await asyncio.sleep(0.02)


async def goes_on(engine: Engine, cid: str) -> None:
    """It counts on from where it was, without a gap and without saying anything twice."""
    here = await last(engine, cid)
    await until(lambda: last(engine, cid), here + 3)
    found = await numbers(engine, cid)
    assert found == list(range(1, len(found) + 1))


async def inside(engine: Engine, cid: str, line: str) -> str:
    session = await engine.exec(cid, ExecSpec(argv=("sh", "-c", line)))
    text = b""
    while chunk := await session.read():
        text += chunk[1]
    await session.close()
    return text.decode()


# -- in the store
@pytest.mark.usefixtures("works")
async def test_it_goes_on_with_what_it_had(engine: Engine, busybox_image: str) -> None:
    script = f"echo kept >/tmp/f; exec 7</tmp/f; echo memory >/dev/shm/m; export A=b; cd /tmp; {COUNT}"
    cid = await start(engine, busybox_image, script, env=("X=y",), hostname="inner")
    before = await engine.container(cid)
    made = await engine.checkpoint(cid, "one")
    assert (made.name, made.container) == ("one", cid)
    assert made.size > 0
    box = await engine.container(cid)
    assert (box.state, box.exit_code) == (State.EXITED, 137)
    again = await engine.restore(cid, "one")
    assert again.state is State.RUNNING
    assert [end.ip for end in again.endpoints] == [end.ip for end in before.endpoints]
    await goes_on(engine, cid)
    words = await inside(engine, cid, "cat /dev/shm/m; readlink /proc/1/fd/7; readlink /proc/1/cwd; hostname")
    assert words.split() == ["memory", "/tmp/f", "/tmp", "inner"]
    assert "Seccomp:\t2" in await inside(engine, cid, "cat /proc/1/status")
    assert await inside(engine, cid, "cat /proc/1/cgroup | sed 's/.*://' | sort -u") == "/\n"
    await engine.kill(cid)
    assert await engine.wait(cid) == 137


@pytest.mark.usefixtures("works")
async def test_it_may_do_no_more_than_before(engine: Engine, busybox_image: str) -> None:
    cid = await start(
        engine,
        busybox_image,
        network="none",
        security_opt=("no-new-privileges",),
        cap_drop=("CHOWN",),
        cap_add=("NET_ADMIN",),
        ulimits=("nofile=100:200",),
        oom_score_adj=500,
        resources=Resources(memory=32 << 20, pids_limit=20),
    )
    line = "cd /proc/1; grep -E 'Cap|Seccomp|NoNew|Groups|Uid|Gid' status; cat limits oom_score_adj; ulimit -n"
    before = await inside(engine, cid, line)
    sample = (await engine.stats([cid]))[0]
    await engine.checkpoint(cid, "one")
    await engine.restore(cid, "one")
    assert await inside(engine, cid, line) == before
    after = (await engine.stats([cid]))[0]
    assert (after.memory_limit, after.pids_limit) == (sample.memory_limit, sample.pids_limit)
    assert after.memory > 0
    assert await inside(engine, cid, "for i in $(seq 30); do sleep 1 & done 2>&1 | grep -c fork") != "0\n"


@pytest.mark.usefixtures("works")
async def test_leave_running_then_go_back(engine: Engine, busybox_image: str) -> None:
    cid = await start(engine, busybox_image, network="none")
    await engine.checkpoint(cid, "a", leave_running=True)
    taken = await last(engine, cid)
    assert (await engine.container(cid)).state is State.RUNNING
    await until(lambda: last(engine, cid), taken + 4)
    await engine.stop(cid, timeout=0)
    at_stop = len(await numbers(engine, cid))
    await engine.restore(cid)
    await until(lambda: count_lines(engine, cid), at_stop + 2)
    assert (await numbers(engine, cid))[at_stop] <= taken + 1, "it went on from the end, not from the checkpoint"
    assert [one.name for one in await engine.checkpoints(cid)] == ["a"]
    await engine.remove_checkpoint(cid, "a")
    assert await engine.checkpoints(cid) == []


async def count_lines(engine: Engine, cid: str) -> int:
    return len(await numbers(engine, cid))


@pytest.mark.usefixtures("works")
async def test_terminal_and_its_keys_come_back(engine: Engine, busybox_image: str) -> None:
    script = "i=0; while read word; do i=$((i+1)); echo $i:$word; done"
    box = await engine.create(
        ContainerSpec(busybox_image, command=("sh", "-c", script), tty=True, stdin_open=True, network="none")
    )
    await engine.start(box.id)
    for word in ("one", "two"):
        session = await engine.attach(box.id)
        await session.resize(40, 100)
        await session.write(f"{word}\n".encode())
        await said(engine, box.id, f":{word}")
        await session.close()
        await engine.checkpoint(box.id, word)
        await engine.restore(box.id, word)
    assert await inside(engine, box.id, "stty size </dev/console") == "40 100\n"
    lines = [line.text.strip() async for line in engine.logs(box.id)]
    assert [line for line in lines if ":" in line] == ["1:one", "2:two"]


async def said(engine: Engine, cid: str, words: str) -> None:
    end = time.monotonic() + patience(10)
    while not [line async for line in engine.logs(cid) if words in line.text]:
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


@pytest.mark.usefixtures("works")
async def test_input_that_was_open_is_open_and_one_that_ended_has_ended(engine: Engine, busybox_image: str) -> None:
    command = ("sh", "-c", "cat; echo end; trap 'cat; echo twice' USR1; while :; do sleep 0.1; done")
    box = await engine.create(ContainerSpec(busybox_image, command=command, stdin_open=True, network="none"))
    await engine.start(box.id)
    await engine.checkpoint(box.id, "open")
    await engine.restore(box.id, "open")
    session = await engine.attach(box.id)
    await session.write(b"hello\n")
    await said(engine, box.id, "hello")
    await session.close_stdin()
    await said(engine, box.id, "end")
    await session.close()
    await engine.checkpoint(box.id, "ended")
    await engine.restore(box.id, "ended")
    await engine.kill(box.id, "USR1")
    await said(engine, box.id, "twice")


@pytest.mark.usefixtures("works")
async def test_restart_policy_and_health_checks_stand_still(engine: Engine, busybox_image: str) -> None:
    cid = await start(
        engine,
        busybox_image,
        f"trap 'exit 3' TERM; {COUNT}",
        network="none",
        restart=RestartPolicy("always"),
        healthcheck=Healthcheck(("CMD", "true"), interval=0.05),
    )
    await engine.checkpoint(cid, "one")
    await asyncio.sleep(0.3)
    assert (await engine.container(cid)).state is State.EXITED
    await engine.restore(cid, "one")
    await goes_on(engine, cid)
    before = len(await numbers(engine, cid))
    await engine.kill(cid, "TERM")  # the policy holds again, and starts it from the beginning
    await until(lambda: count_lines(engine, cid), before + 3)
    assert (await numbers(engine, cid)).count(1) == 2
    assert (await engine.container(cid)).restarts == 1


@pytest.mark.usefixtures("works")
async def test_its_monitor_is_replaced_like_any_other(engine: Engine, busybox_image: str, inst: Instance) -> None:
    cid = await start(engine, busybox_image, network="none")
    await engine.checkpoint(cid, "one")
    await engine.restore(cid, "one")
    state = load_state(inst.container_run(cid))
    assert state is not None
    os.kill(state.monitor_pid, signal.SIGKILL)
    await goes_on(engine, cid)
    await engine.kill(cid)
    assert await engine.wait(cid) == 137


@pytest.mark.usefixtures("works")
async def test_ports_and_connections(engine: Engine, busybox_image: str) -> None:
    # The client tries until the server is there; by then both ends of the connection are to be seen.
    call = "sleep 900 | while ! nc 127.0.0.1 7000; do sleep 0.1; done"
    script = f"(nc -l -p 7000 -e cat; echo closed) & ({call}) & {COUNT}"
    port = free_port()
    ports = (PortMapping(container_port=80, host_port=port, host_ip="127.0.0.1"),)
    web = f"mkdir -p /w; echo page >/w/index.html; httpd -h /w -p 80; {script}"
    cid = await start(engine, busybox_image, web, ports=ports)
    end = time.monotonic() + patience(20)
    while " 01 " not in await inside(engine, cid, "cat /proc/net/tcp /proc/net/tcp6"):  # ESTABLISHED
        assert time.monotonic() < end
        await asyncio.sleep(0.05)
    with pytest.raises(errors.WharfError, match="--tcp-established"):
        await engine.checkpoint(cid, "no")
    await goes_on(engine, cid)
    assert await engine.checkpoints(cid) == []
    await engine.checkpoint(cid, "yes", options=CheckpointOptions(tcp_established=True))
    await engine.restore(cid, "yes")
    await goes_on(engine, cid)
    assert "closed" not in [line.text async for line in engine.logs(cid)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    assert b"page" in await reader.read()
    writer.close()


async def connected(ip: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Once somebody listens there."""
    end = time.monotonic() + patience(20)
    while True:
        try:
            return await asyncio.open_connection(ip, port)
        except ConnectionRefusedError:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)


@pytest.mark.usefixtures("works")
async def test_a_peer_outside_notices_nothing(engine: Engine, busybox_image: str) -> None:
    if shutil.which("iptables-restore", path=criu.PATH) is None:
        pytest.skip("needs iptables: it holds back what comes before the connection is there again")
    box = await engine.create(ContainerSpec(busybox_image, command=("sh", "-c", "nc -ll -p 7000 -e cat")))
    ip = (await engine.start(box.id)).endpoints[0].ip
    reader, writer = await connected(ip, 7000)
    for round in ("one", "two"):
        writer.write(f"{round}\n".encode())
        assert await asyncio.wait_for(reader.readline(), patience(20)) == f"{round}\n".encode()
        await engine.checkpoint(box.id, round, options=CheckpointOptions(tcp_established=True))
        writer.write(b"meanwhile\n")
        await engine.restore(box.id, round)
        assert await asyncio.wait_for(reader.readline(), patience(20)) == b"meanwhile\n"
    writer.close()


@pytest.mark.usefixtures("works")
@pytest.mark.parametrize("fields", [{"read_only": True}, {"privileged": True}, {"network": "host"}])
async def test_of_every_make(engine: Engine, busybox_image: str, fields: dict[str, object]) -> None:
    cid = await start(engine, busybox_image, **fields)
    mounts = await inside(engine, cid, "cut -d' ' -f5,6 /proc/self/mountinfo | sort")
    await engine.checkpoint(cid, "one")
    await engine.restore(cid, "one")
    await goes_on(engine, cid)
    assert await inside(engine, cid, "cut -d' ' -f5,6 /proc/self/mountinfo | sort") == mounts
    if "read_only" in fields:
        assert "ro" in await inside(engine, cid, "touch /x || echo ro")


@pytest.mark.usefixtures("works")
async def test_other_users_where_the_host_allows_it(engine: Engine, busybox_image: str) -> None:
    if "CAP_SYS_RESOURCE" not in caps.bounding():
        pytest.skip("criu needs CAP_SYS_RESOURCE to save processes of other users")
    cid = await start(engine, busybox_image, user="1000:1000", network="none")
    await engine.checkpoint(cid, "one")
    await engine.restore(cid, "one")
    await goes_on(engine, cid)
    assert (await inside(engine, cid, "id -u")).strip() == "1000"


@pytest.mark.usefixtures("works")
async def test_mounts_are_what_they_were(engine: Engine, busybox_image: str, tmp_path: Path) -> None:
    (tmp_path / "rw/below").mkdir(parents=True)
    (tmp_path / "ro").mkdir()
    (tmp_path / "file").write_text("host")
    mounts = (
        Mount("bind", str(tmp_path / "rw"), "/rw"),
        Mount("bind", str(tmp_path / "ro"), "/rw/below/ro", read_only=True),
        Mount("bind", str(tmp_path / "file"), "/file"),
        Mount("volume", "data", "/vol"),
        Mount("tmpfs", "", "/scratch"),
    )
    line = "cat /file; touch /rw/w /vol/v && echo wrote; touch /rw/below/ro/x 2>/dev/null || echo ro; cat /scratch/s"
    cid = await start(engine, busybox_image, f"echo s >/scratch/s; {COUNT}", network="none", mounts=mounts)
    first = await inside(engine, cid, line)
    table = await inside(engine, cid, "cut -d' ' -f5,6 /proc/self/mountinfo | sort")
    await engine.checkpoint(cid, "one")
    await engine.restore(cid, "one")
    assert await inside(engine, cid, line) == first == "hostwrote\nro\ns\n"
    assert await inside(engine, cid, "cut -d' ' -f5,6 /proc/self/mountinfo | sort") == table
