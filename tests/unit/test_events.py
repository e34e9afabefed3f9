"""The change log: every line is told, and once, whatever order the processes that write it get to write in."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.ops.context import Context
from core.ops.events import events
from core.store import changes, tell
from core.store.db import Store
from core.store.paths import Instance
from tests.patience import patience


@pytest.fixture
async def ctx(tmp_path: Path) -> AsyncIterator[Context]:
    inst = Instance(tmp_path / "root", tmp_path / "run")
    store = Store.open(inst)
    made = Context(inst, store, {})
    yield made
    await made.hub.close()
    store.close()


def write(ctx: Context, action: str, at: float) -> None:
    """As a process that noted the time and was then held up."""
    with open(ctx.inst.events, "a") as file:
        file.write(json.dumps({"t": at, "k": "container", "a": action, "i": "c" * 64, "x": {}}) + "\n")


async def test_a_line_written_late_is_told(ctx: Context) -> None:
    begun = time.time()
    write(ctx, "start", begun)
    write(ctx, "die", begun + 2)
    told = events(ctx, begun, None)
    async with asyncio.timeout(patience(30)):
        assert [(await anext(told)).action for _ in range(2)] == ["start", "die"]
        write(ctx, "stop", begun + 1)  # older than what has been told
        write(ctx, "destroy", begun + 3)
        assert [(await anext(told)).action for _ in range(2)] == ["stop", "destroy"]


async def test_what_is_written_while_the_past_is_read_is_told_once(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = time.time()
    write(ctx, "start", begun)
    read = changes.past

    def held_up(path: Path, since: float) -> list[object]:
        write(ctx, "die", begun + 1)  # they listen already
        return list(read(path, since))

    monkeypatch.setattr(changes, "past", held_up)
    told = events(ctx, begun, None)
    async with asyncio.timeout(patience(30)):
        assert [(await anext(told)).action for _ in range(2)] == ["start", "die"]
        write(ctx, "destroy", begun + 2)
        assert (await anext(told)).action == "destroy"


def test_nothing_is_missed_where_the_file_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By readers, and by writers that find the file too long at the same time."""
    path = tmp_path / "events"
    monkeypatch.setattr(tell, "LIMIT", 400)
    failures: list[BaseException] = []
    over = threading.Event()

    def write_on(number: int) -> None:
        try:
            while not over.is_set():
                tell.append(path, "container", "start", str(number))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write_on, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        end = time.monotonic() + 2
        while time.monotonic() < end and not failures:
            found = list(changes.past(path))
            # Of a file that was renamed the lines are in one or in the other: some there are in any case.
            assert found or not os.path.exists(path.with_name("events.1"))
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not failures, failures


async def test_a_writer_that_is_overtaken_by_the_file_s_end_is_heard(tmp_path: Path) -> None:
    """It had opened the file that is the older one by now."""
    path = tmp_path / "events"
    watch = changes.Watch(path)
    found = aiter(watch)
    with open(path, "ab", buffering=0) as late:
        path.rename(tmp_path / "events.1")
        tell.append(path, "container", "start", "c" * 64)
        assert (await asyncio.wait_for(anext(found), patience(10))).action == "start"
        late.write(json.dumps({"t": 1.0, "k": "container", "a": "die", "i": "c" * 64, "x": {}}).encode() + b"\n")
        assert (await asyncio.wait_for(anext(found), patience(10))).action == "die"
    await found.aclose()
