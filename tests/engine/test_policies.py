"""Without being asked: restarts by policy, health checks, removal at the end."""

from __future__ import annotations

import asyncio

from core.engine import Engine
from core.model import ContainerSpec, ExecSpec, Healthcheck, RestartPolicy, State
from core.store.paths import Instance
from tests.engine.test_lifecycle import output, sleeper, until
from tests.patience import patience
from tests.world import assert_world


async def test_restart_policy_backs_off_and_counts(engine: Engine, busybox_image: str) -> None:
    spec = ContainerSpec(
        busybox_image, command=("sh", "-c", "echo try; exit 5"), restart=RestartPolicy("on-failure", 3)
    )
    box = await engine.create(spec)
    await engine.start(box.id)
    assert await asyncio.wait_for(engine.wait(box.id), patience(20)) == 5
    assert await output(engine, box.id) == ["try"] * 4
    assert (await engine.container(box.id)).restarts == 3


async def test_stop_ends_automatic_restarts(engine: Engine, busybox_image: str) -> None:
    spec = ContainerSpec(busybox_image, command=("sh", "-c", "exit 1"), restart=RestartPolicy("always"))
    box = await engine.create(spec)
    await engine.start(box.id)
    await asyncio.sleep(0.8)
    await engine.stop(box.id)
    assert (await engine.container(box.id)).state is State.EXITED
    await asyncio.sleep(1)
    assert (await engine.container(box.id)).state is State.EXITED


async def test_health(engine: Engine, busybox_image: str) -> None:
    # The first check lasts until we have seen what is said before there is a verdict.
    script = "until test -e /go; do sleep 0.05; done; test -e /ok"
    check = Healthcheck(("CMD-SHELL", script), interval=0.2, timeout=patience(60), retries=2)
    cid = await sleeper(engine, busybox_image, healthcheck=check)
    assert (await engine.container(cid)).health == "starting"

    async def is_health(word: str) -> bool:
        return (await engine.container(cid)).health == word

    for file, verdict in (("/go", "unhealthy"), ("/ok", "healthy")):
        session = await engine.exec(cid, ExecSpec(("touch", file)))
        assert await session.wait() == 0
        await session.close()
        await until(lambda verdict=verdict: is_health(verdict))  # type: ignore[misc]


async def test_auto_remove(engine: Engine, busybox_image: str) -> None:
    box = await engine.create(ContainerSpec(busybox_image, command=("sh", "-c", "exit 4"), auto_remove=True))
    await engine.start(box.id)
    assert await asyncio.wait_for(engine.wait(box.id), patience(20)) == 4

    async def gone() -> bool:
        return not await engine.containers()

    await until(gone)


async def test_remove_between_automatic_restarts(engine: Engine, busybox_image: str, inst: Instance) -> None:
    spec = ContainerSpec(busybox_image, command=("false",), restart=RestartPolicy("always"))
    box = await engine.create(spec)
    await engine.start(box.id)

    async def waiting() -> bool:
        return (await engine.container(box.id)).state is State.RESTARTING

    await until(waiting)
    await engine.remove(box.id, force=True)
    assert await engine.containers() == []
    assert_world(inst)
