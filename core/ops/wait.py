"""``wait``: the exit code, once the container no longer runs."""

from __future__ import annotations

import asyncio
import contextlib

from core.errors import NotFound
from core.model import State
from core.ops import records
from core.ops.context import Context, Subscription
from core.supervise import client


async def wait(ctx: Context, ref: str) -> int:
    """Wait until the container neither runs nor is about to be restarted.

    :returns: its exit code, or that of a start that failed; -1 where nobody can know it
    """
    with ctx.hub.subscribe() as events:
        record = await records.find(ctx, ref)
        code: int | None = None
        while True:
            saved, run = records.observe(ctx, record)
            if not (saved.state.live or saved.state is State.RESTARTING):
                known = saved.exit_code if saved.exit_code is not None else code
                return (0 if saved.state is State.CREATED else -1) if known is None else known
            seen = await _next(events, record.id, run)
            code = seen if seen is not None else code
            try:
                record = await records.find(ctx, record.id)
            except NotFound:  # --rm
                return -1 if code is None else code


async def _next(events: Subscription, cid: str, run: client.RunState | None) -> int | None:
    """The next event of this container, or the end of its process; the exit code where it is told."""
    gone = asyncio.create_task(client.wait_pid(run, None)) if run and client.alive(run) else None
    told = asyncio.create_task(_about(events, cid))
    tasks = [task for task in (gone, told) if task]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not told.done():
            # The process has gone; its monitor records the end in a moment, unless it was killed too.
            await asyncio.wait([told], timeout=5.0)
        return told.result() if told.done() else None
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _about(events: Subscription, cid: str) -> int | None:
    while True:
        event = await events.next()
        if event.id == cid and event.action in ("die", "destroy", "start", "restart"):
            code = event.attributes.get("exitCode")
            return int(code) if code else None
