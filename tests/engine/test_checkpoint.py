"""Checkpoint and restore, with the CRIU of this host (``$WHARF_CRIU`` names another one)."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
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
from core.supervise import criu, dumping
from core.supervise.records import load_state
from tests.criu import needs_criu

COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"


@pytest.fixture
def works() -> None:
    needs_criu()


@pytest.fixture
def no_criu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHARF_CRIU", "/nowhere/criu")


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
    end = time.monotonic() + 20
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
    end = time.monotonic() + 10
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
    script = f"(nc -l -p 7000 -e cat; echo closed) & sleep 0.3; (sleep 900 | nc 127.0.0.1 7000) & {COUNT}"
    port = 20000 + os.getpid() % 20000
    ports = (PortMapping(container_port=80, host_port=port, host_ip="127.0.0.1"),)
    web = f"mkdir -p /w; echo page >/w/index.html; httpd -h /w -p 80; {script}"
    cid = await start(engine, busybox_image, web, ports=ports)
    await asyncio.sleep(0.5)
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


@pytest.mark.usefixtures("works")
async def test_a_peer_outside_notices_nothing(engine: Engine, busybox_image: str) -> None:
    if shutil.which("iptables-restore", path=criu.PATH) is None:
        pytest.skip("needs iptables: it holds back what comes before the connection is there again")
    box = await engine.create(ContainerSpec(busybox_image, command=("sh", "-c", "nc -ll -p 7000 -e cat")))
    ip = (await engine.start(box.id)).endpoints[0].ip
    await asyncio.sleep(0.5)
    reader, writer = await asyncio.open_connection(ip, 7000)
    for round in ("one", "two"):
        writer.write(f"{round}\n".encode())
        assert await asyncio.wait_for(reader.readline(), 20) == f"{round}\n".encode()
        await engine.checkpoint(box.id, round, options=CheckpointOptions(tcp_established=True))
        writer.write(b"meanwhile\n")
        await engine.restore(box.id, round)
        assert await asyncio.wait_for(reader.readline(), 20) == b"meanwhile\n"
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


# -- what is refused, and goes on
async def test_without_criu_the_error_says_so(engine: Engine, busybox_image: str, no_criu: None) -> None:
    cid = await start(engine, busybox_image, network="none")
    for call in (engine.checkpoint(cid), engine.restore(cid), engine.restore_from(Path("/nowhere"))):
        with pytest.raises(errors.Unsupported, match="not installed"):
            await call
    found = {check.name: check for check in await engine.doctor()}["checkpoints"]
    assert found.status == "warn"
    assert "no checkpoints" in found.consequence
    assert not (await engine.info()).checkpoints
    await goes_on(engine, cid)


async def test_a_criu_that_cannot_work_lets_the_container_go_on(
    engine: Engine, busybox_image: str, inst: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHARF_CRIU", "/bin/false")
    cid = await start(engine, busybox_image, network="none", restart=RestartPolicy("always"))
    with pytest.raises(errors.Unsupported, match="cannot be run"):
        await engine.checkpoint(cid, "one")
    monkeypatch.setenv("WHARF_CRIU", "/bin/echo")  # it runs, and is no CRIU
    with pytest.raises(errors.WharfError, match="did not say why"):
        await engine.checkpoint(cid, "one")
    await goes_on(engine, cid)
    assert list((inst.container_dir(cid) / "checkpoints").iterdir()) == []


async def test_states_and_names(engine: Engine, busybox_image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHARF_CRIU", "/bin/true")  # never come to
    cid = await start(engine, busybox_image, network="none")
    for name in ("../x", ".hidden", "a/b", "x" * 129):
        with pytest.raises(errors.InvalidArgument, match="checkpoint name"):
            await engine.checkpoint(cid, name)
    for path in ("/nowhere/x.tar", "/tmp", "x.zip"):
        with pytest.raises(errors.InvalidArgument, match="cannot export"):
            await engine.checkpoint(cid, export=Path(path))
    with pytest.raises(errors.NotFound, match="no such checkpoint"):
        await engine.remove_checkpoint(cid, "../upper")
    with pytest.raises(errors.NotFound, match="has no checkpoint"):
        await engine.restore(cid)
    with pytest.raises(errors.Conflict, match="running"):
        await engine.restore(cid, "x")
    await engine.pause(cid)
    with pytest.raises(errors.Conflict, match="paused"):
        await engine.checkpoint(cid)
    await engine.unpause(cid)
    await engine.stop(cid, timeout=0)
    with pytest.raises(errors.Conflict, match="exited"):
        await engine.checkpoint(cid)
    with pytest.raises(errors.NotFound, match="no such checkpoint"):
        await engine.restore(cid, "x")
    short = await start(engine, busybox_image, network="none", auto_remove=True)
    with pytest.raises(errors.Conflict, match="--rm"):
        await engine.checkpoint(short, "x")


@pytest.mark.usefixtures("works")
async def test_what_comes_from_outside_is_refused(engine: Engine, busybox_image: str) -> None:
    cid = await start(engine, busybox_image, network="none")
    session = await engine.exec(cid, ExecSpec(argv=("sleep", "60")))
    with pytest.raises(errors.Conflict, match="exec"):
        await engine.checkpoint(cid, "one")
    await inside(engine, cid, "killall sleep; true")
    await session.wait()
    await session.close()
    await inside(engine, cid, "setsid sleep 60 >/dev/null 2>&1 & true")  # its parent is the monitor now, or pid 1
    await goes_on(engine, cid)
    init = await start(engine, busybox_image, network="none", init=True)
    with pytest.raises(errors.Unsupported, match="--init"):
        await engine.checkpoint(init, "one")
    shared = await start(engine, busybox_image, network="none", pid="host")
    with pytest.raises(errors.Unsupported, match="pid"):
        await engine.checkpoint(shared, "one")
    await goes_on(engine, shared)


@pytest.mark.usefixtures("works")
async def test_mounts_behind_swapped_links_are_not_given_back(
    engine: Engine, busybox_image: str, inst: Instance, tmp_path: Path
) -> None:
    """A container that swaps a link must not have its writable mount taken for the read-only one."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "own").mkdir()
    mounts = (
        Mount("bind", str(tmp_path / "secret"), "/link/ro", read_only=True),
        Mount("bind", str(tmp_path / "own"), "/own"),
    )
    box = await engine.create(
        ContainerSpec(busybox_image, command=("sh", "-c", COUNT), network="none", mounts=mounts)
    )
    (inst.container_dir(box.id) / "upper/a").mkdir()
    (inst.container_dir(box.id) / "upper/link").symlink_to("/a")
    await engine.start(box.id)
    await inside(engine, box.id, "mkdir /b; ln -s /own /b/ro; ln -sfn /b /link")
    with pytest.raises(errors.Conflict, match="not ro any more"):
        await engine.checkpoint(box.id, "one")
    await inside(engine, box.id, "ln -sfn /proc /b/ro")
    with pytest.raises(errors.Conflict, match=r"are one place now|not ro any more"):
        await engine.checkpoint(box.id, "one")
    await goes_on(engine, box.id)


@pytest.mark.usefixtures("works")
async def test_a_shared_network_is_not_cut_off(engine: Engine, busybox_image: str) -> None:
    first = await start(engine, busybox_image)
    second = await start(engine, busybox_image, network=f"container:{first}")
    with pytest.raises(errors.Unsupported, match="cut off"):
        await engine.checkpoint(second, "one", options=CheckpointOptions(tcp_established=True))
    if criu.locks_network(False, dumping.version(criu.find())):
        with pytest.raises(errors.Unsupported, match=r"criu 3\.19"):
            await engine.checkpoint(second, "one")
        return
    await engine.checkpoint(second, "one")
    await engine.restore(second, "one")
    await goes_on(engine, second)
    same = "readlink /proc/self/ns/net"
    assert await inside(engine, first, same) == await inside(engine, second, same)


@pytest.mark.usefixtures("works")
async def test_an_export_that_finds_no_room_ends_nothing(
    engine: Engine, busybox_image: str, inst: Instance, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "small", str(small)], check=True)
    try:
        cid = await start(engine, busybox_image, network="none", restart=RestartPolicy("always"))
        with pytest.raises(errors.NoSpace):
            await engine.checkpoint(cid, "one", export=small / "x.tar")
        assert list(small.iterdir()) == []
        assert await engine.checkpoints(cid) == []
        await goes_on(engine, cid)
        assert (await engine.container(cid)).restarts == 0
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.usefixtures("works")
async def test_given_up_or_killed_half_way_it_goes_on_or_is_saved(
    engine: Engine, busybox_image: str, inst: Instance, instance_env: dict[str, str]
) -> None:
    cid = await start(engine, busybox_image, network="none")
    for wait in (0.0, 0.05, 0.15):
        task = asyncio.create_task(engine.checkpoint(cid, "one"))
        await asyncio.sleep(wait)
        if task.cancel():  # else it was faster
            with pytest.raises(asyncio.CancelledError):
                await task
        await whole(engine, cid, inst)
    argv = [sys.executable, "-m", "tui", "checkpoint", "create", cid, "one"]
    for _ in range(2):
        process = subprocess.Popen(argv, env=instance_env, cwd=Path(__file__).parents[2])
        log = inst.container_dir(cid) / "checkpoints/.one.new/dump.log"
        end = time.monotonic() + 20
        while not log.exists() and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.002)
        process.kill()
        process.wait()
        await engine.recover()
        await whole(engine, cid, inst)


async def whole(engine: Engine, cid: str, inst: Instance) -> None:
    """Either it runs, or it is saved."""
    end = time.monotonic() + 15
    while True:  # CRIU may still be at work: it undoes what it has done when it sees that nobody listens
        running = (await engine.container(cid)).state is State.RUNNING
        if not running or not list((inst.container_dir(cid) / "checkpoints").glob(".*")):
            break
        assert time.monotonic() < end
        await asyncio.sleep(0.05)
        await engine.recover()
    if running:
        await goes_on(engine, cid)
    else:
        await engine.restore(cid, "one")
        await goes_on(engine, cid)
    for one in await engine.checkpoints(cid):
        await engine.remove_checkpoint(cid, one.name)


@pytest.mark.usefixtures("works")
async def test_the_command_line(
    engine: Engine, busybox_image: str, instance_env: dict[str, str], tmp_path: Path
) -> None:
    def wharf(*words: str) -> str:
        argv = [sys.executable, "-m", "tui", *words]
        done = subprocess.run(
            argv, env=instance_env, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    cid = await start(engine, busybox_image, network="none", name="web")
    assert await asyncio.to_thread(wharf, "checkpoint", "create", "web", "noon") == "noon"
    assert "noon" in await asyncio.to_thread(wharf, "checkpoint", "ls", "web")
    assert await asyncio.to_thread(wharf, "start", "--checkpoint", "noon", "web") == "web"
    await goes_on(engine, cid)
    archive = str(tmp_path / "web.tar.gz")
    assert await asyncio.to_thread(wharf, "checkpoint", "create", "-R", "--export", archive, "web") == archive
    made = await asyncio.to_thread(wharf, "restore", "--import", archive, "--name", "web2")
    await goes_on(engine, made)
    assert await asyncio.to_thread(wharf, "checkpoint", "rm", "web", "noon") == "noon"
    assert await asyncio.to_thread(wharf, "checkpoint", "ls", "-q", "web") == ""
