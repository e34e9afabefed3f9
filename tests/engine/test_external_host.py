"""A container of another OCI runtime and what it has of the host: mounts, ports, namespaces, limits, rights."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from core import errors
from core.engine import Engine
from core.model import ContainerSpec, Mount, PortMapping, Resources, RestartPolicy, State
from core.store.paths import Instance
from tests.engine.test_external import (
    executed,
    monitor_replaced,
    other_runtime,  # noqa: F401
    shows,
)
from tests.engine.test_lifecycle import output, run, sleeper, until
from tests.patience import patience
from tests.world import assert_world


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
        command=("sh", "-c", "trap 'exit 3' TERM; cat /dev/shm/file; hostname; while :; do sleep 0.05; done"),
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
    assert await asyncio.wait_for(engine.wait(box.id), patience(60)) != 0
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
