"""A start that fails is told to whoever saw it starting."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from core import errors
from core.engine import Engine
from core.model import ContainerSpec, State
from core.ops import records
from core.ops.context import Context
from core.supervise import client
from tests.engine.test_lifecycle import until
from tests.patience import patience


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Starts go on to the container's process once this is set."""
    gate = asyncio.Event()
    go = client.Launching.go

    async def late(self: client.Launching, *words: object) -> None:
        await gate.wait()
        await go(self, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(client.Launching, "go", late)
    return gate


async def starting(engine: Engine, image: str) -> tuple[str, asyncio.Task[object], asyncio.Task[int]]:
    """A container whose start is under way, and will fail; and somebody who waits for it."""
    box = await engine.create(ContainerSpec(image, command=("nosuch",)))
    start = asyncio.create_task(engine.start(box.id))

    async def under_way() -> bool:
        return (await engine.container(box.id)).state is State.STARTING

    await until(under_way)
    wait = asyncio.create_task(engine.wait(box.id))
    await asyncio.sleep(0.1)
    assert not wait.done()
    return box.id, start, wait


@pytest.mark.parametrize("full", [False, True])
async def test_who_waits_learns_of_it(
    engine: Engine, busybox_image: str, held: asyncio.Event, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """Also where the row cannot say it."""
    save = records.save

    async def fails(ctx: Context, cid: str, saved: records.Saved) -> None:
        if saved.error:
            raise sqlite3.OperationalError("database or disk is full")
        await save(ctx, cid, saved)

    if full:
        monkeypatch.setattr(records, "save", fails)
    _, start, wait = await starting(engine, busybox_image)
    held.set()
    with pytest.raises(errors.CommandNotFound):
        await start
    assert await asyncio.wait_for(wait, patience(20)) == 127


async def test_who_waits_learns_that_it_was_given_up(engine: Engine, busybox_image: str, held: asyncio.Event) -> None:
    _, start, wait = await starting(engine, busybox_image)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert await asyncio.wait_for(wait, patience(20)) == 128
