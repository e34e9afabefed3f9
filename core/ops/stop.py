"""``stop``: the stop signal, patience, then SIGKILL."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from core.errors import NotFound, WharfError
from core.model import State
from core.ops import records
from core.ops.kill import end_now, freeze, parse_signal
from core.ops.settle import await_end, settle
from core.store.lock import object_lock
from core.supervise import client

if TYPE_CHECKING:
    from core.ops.context import Context
    from core.ops.records import Record


async def stop(ctx: Context, ref: str, timeout: float | None = None) -> str:
    """Stop a container; one that does not run stays as it is.

    :param timeout: seconds between the stop signal and SIGKILL (default: the container's own)
    :returns: its id
    """
    record = await records.find(ctx, ref)
    async with object_lock(ctx.inst, record.id):
        record, run = await settle(ctx, record.id)
        if run is None:
            return record.id
        patience = record.spec.stop_timeout if timeout is None else timeout
        await _ask(ctx, record, run, patience)
    # The lock is free while it ends: ps, logs, kill and a second stop go on meanwhile.
    ended = await await_end(ctx, record.id, run, patience)
    async with object_lock(ctx.inst, record.id):
        try:
            record, run = await settle(ctx, record.id)
            if not ended and run is not None:
                await end_now(ctx, record, run)
                await settle(ctx, record.id)
        except NotFound:  # created with --rm
            pass
    ctx.tell("container", "stop", record.id, name=record.name, image=record.spec.image)
    return record.id


async def _ask(ctx: Context, record: Record, run: client.RunState, patience: float) -> None:
    """Send the stop signal; the container's lock is held."""
    name = record.spec.stop_signal or record.config.image.stop_signal or "TERM"
    # First, so that the monitor does not start it again.
    await client.tell_stopping(ctx.inst, record.id)
    await client.deliver(ctx.inst, record.id, run, parse_signal(name))
    if record.saved.state is State.PAUSED:
        await freeze(ctx, record, run, False)
    with contextlib.suppress(WharfError):  # a full disk must not keep a container from being stopped
        # With the moment until which we will wait: where this process is killed or gives up, `recover` ends it then.
        saved = replace(record.saved, state=State.STOPPING, stop_by=time.time() + patience)
        await records.save(ctx, record.id, saved)
    ctx.tell("container", "kill", record.id, name=record.name, signal=str(parse_signal(name)))
