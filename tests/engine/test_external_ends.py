"""Another OCI runtime that fails, hangs or is not there, and starts that are given up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from core import errors
from core.engine import Engine
from core.model import ContainerSpec, ExecSpec, Mount, State
from core.store.paths import Instance
from tests.engine.test_external import (
    executed,
    other_runtime,  # noqa: F401
    shows,
)
from tests.engine.test_lifecycle import output, until
from tests.patience import patience
from tests.world import assert_world


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
    end = time.monotonic() + patience(10)
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
    script = "trap 'exit 4' TERM; echo out; while :; do sleep 0.05; done"
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
