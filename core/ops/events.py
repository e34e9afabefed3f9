"""``events``: what happened, and what happens."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from core.model import Event
from core.ops.context import Context
from core.store import changes

_LATE = 60.0  # seconds: no writer is held up that long between the time that it notes and its line


async def events(ctx: Context, since: float | None, until: float | None) -> AsyncIterator[Event]:
    """Events from ``since`` on, then live ones, until ``until`` (seconds since the epoch; None: for ever)."""
    with ctx.hub.subscribe() as live:
        # Subscribed before the past is read: what is written between the two comes twice, and is told once. Not by its
        # time: that is noted before the line is written, so that a line may come after another process's younger one.
        asked, twice = time.time(), set[tuple[float, str, str, str]]()
        if since is not None:
            for event in await asyncio.to_thread(lambda: list(changes.past(ctx.inst.events, since))):
                if until is not None and event.time > until:
                    continue
                if event.time > asked - _LATE:
                    twice.add(_key(event))
                yield event
        while until is None or time.time() < until:
            patience = None if until is None else max(0.0, until - time.time())
            with contextlib.suppress(asyncio.TimeoutError):
                async with asyncio.timeout(patience):
                    event = await live.next()
                if _key(event) in twice:
                    twice.discard(_key(event))
                else:
                    yield event


def _key(event: Event) -> tuple[float, str, str, str]:
    return event.time, event.kind, event.action, event.id
