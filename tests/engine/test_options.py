"""What each option of ``run`` does, seen from inside a real container; and what Docker's rules refuse."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.engine import Engine
from core.kernel import caps
from core.model import ContainerSpec, DeviceLimit, DeviceMapping, ExecSpec, Mount, Resources, State
from core.store.paths import Instance
from tests.engine.test_attacks_image import base, load
from tests.engine.test_lifecycle import output, run, sleeper, until

V1 = Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")
on_v1 = pytest.mark.skipif(not V1.exists(), reason="the setting is of cgroup v1")


async def inside(engine: Engine, cid: str, *argv: str, **fields: Any) -> tuple[int, str]:
    """Run a command in a container; exit code and output."""
    session = await engine.exec(cid, ExecSpec(argv, **fields))
    await session.close_stdin()
    text = b""
    while chunk := await session.read():
        text += chunk[1]
    code = await session.wait()
    await session.close()
    return code, text.decode().strip()


async def shell(engine: Engine, image: str, script: str, **fields: Any) -> list[str]:
    """The lines of a script that ends well."""
    code, lines = await run(engine, image, "sh", "-c", script, **fields)
    assert code == 0, lines
    return lines


async def host_config(engine: Engine, cid: str) -> dict[str, Any]:
    view: Any = (await engine.inspect(cid))["HostConfig"]
    assert isinstance(view, dict)
    return view


def ns(kind: str, pid: int | str = "self") -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


# -- pid 1 ---------------------------------------------------------------------------------------------------------------
async def test_init_reaps_forwards_and_hands_the_exit_code_on(engine: Engine, busybox_image: str) -> None:
    script = "cat /proc/1/comm; (sleep 0.1 & exit) ; sleep 0.4; ps -o stat | grep -c Z; exit 7"
    code, lines = await run(engine, busybox_image, "sh", "-c", script, init=True)
    assert (code, lines) == (7, ["wharf-init", "0"])
    cid = await sleeper(engine, busybox_image, init=True)
    await until(lambda: has_line(engine, cid, "ready"))
    await engine.stop(cid)
    assert (await engine.container(cid)).exit_code == 0  # the trap: the signal came through
    assert (await host_config(engine, cid))["Init"] is True


async def has_line(engine: Engine, cid: str, line: str) -> bool:
    return line in await output(engine, cid)


async def test_stop_signal(engine: Engine, busybox_image: str) -> None:
    script = "trap 'exit 3' USR1; trap '' TERM; echo ready; while :; do sleep 1 & wait $!; done"
    box = await engine.create(ContainerSpec(busybox_image, command=("sh", "-c", script), stop_signal="USR1"))
    await engine.start(box.id)
    await until(lambda: has_line(engine, box.id, "ready"))
    await engine.stop(box.id)
    assert (await engine.container(box.id)).exit_code == 3


# -- file systems --------------------------------------------------------------------------------------------------------
async def test_read_only_root_with_writable_memory(engine: Engine, busybox_image: str) -> None:
    script = (
        "touch /x 2>&1; touch /etc/hosts 2>&1; echo a > /etc/hosts; touch /run/x /dev/shm/x && echo fine;"
        "grep ' /run ' /proc/mounts"
    )
    mounts = (Mount("tmpfs", "", "/run", options=("size=1m",)),)
    lines = await shell(engine, busybox_image, script, read_only=True, mounts=mounts)
    assert sum("Read-only file system" in line for line in lines) == 3
    assert lines[-2] == "fine"
    assert set("rw,nosuid,nodev,noexec,size=1024k".split(",")) <= set(lines[-1].split()[3].split(","))


async def test_tmpfs_options_stand_over_the_defaults(engine: Engine, busybox_image: str) -> None:
    options = ("exec", "size=2m", "size=1m", "mode=700", "uid=7", "nr_inodes=9")
    script = "grep ' /t ' /proc/mounts; stat -c '%a %u' /t; cp /bin/busybox /t/ && /t/busybox true && echo ran"
    spec = {"mounts": (Mount("tmpfs", "", "/t", options=options),)}
    lines = await shell(engine, busybox_image, script.replace("cp /bin/busybox /t/", "cp /bin/true /t/busybox"), **spec)
    shown = set(lines[0].split()[3].split(","))
    assert {"rw", "nosuid", "nodev", "size=1024k", "mode=700", "nr_inodes=9"} <= shown
    assert "noexec" not in shown
    assert lines[1] == "700 7"
