"""``events``: what happened, and what happens."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from core.model import Event
from core.ops.context import Context
from core.store import changes


async def events(ctx: Context, since: float | None, until: float | None) -> AsyncIterator[Event]:
    """Events from ``since`` on, then live ones, until ``until`` (seconds since the epoch; None: for ever)."""
    with ctx.hub.subscribe() as live:
        # Subscribed before the past is read: an event between the two is seen twice rather than never.
        last = 0.0
        if since is not None:
            for event in await asyncio.to_thread(lambda: list(changes.past(ctx.inst.events, since))):
                if until is not None and event.time > until:
                    return
                last = event.time
                yield event
        while until is None or time.time() < until:
            patience = None if until is None else max(0.0, until - time.time())
            with contextlib.suppress(asyncio.TimeoutError):
                async with asyncio.timeout(patience):
                    event = await live.next()
                if event.time > last:
                    yield event
