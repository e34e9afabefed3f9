"""Checkpoints that are refused, broken off or killed half-way: the container goes on, or is saved."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core import errors
from core.engine import Engine
from core.model import (
    CheckpointOptions,
    ContainerSpec,
    ExecSpec,
    Mount,
    RestartPolicy,
    State,
)
from core.store.paths import Instance
from core.supervise import criu, dumping
from tests.engine.test_checkpoint import COUNT, goes_on, inside, start, works
from tests.patience import patience

__all__ = ["works"]


@pytest.fixture
def no_criu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHARF_CRIU", "/nowhere/criu")


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
    box = await engine.create(ContainerSpec(busybox_image, command=("sh", "-c", COUNT), network="none", mounts=mounts))
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
        end = time.monotonic() + patience(20)
        while not log.exists() and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.002)
        process.kill()
        process.wait()
        await engine.recover()
        await whole(engine, cid, inst)


async def whole(engine: Engine, cid: str, inst: Instance) -> None:
    """Either it runs, or it is saved."""
    end = time.monotonic() + patience(20)
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
