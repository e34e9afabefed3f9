"""``pause`` and ``unpause``: the cgroup freezer, or what another runtime has for it."""

from __future__ import annotations

from dataclasses import replace

from core.errors import Conflict
from core.model import State
from core.ops import records
from core.ops.context import Context
from core.ops.kill import freeze
from core.ops.settle import settle
from core.store.lock import object_lock


async def pause(ctx: Context, ref: str) -> None:
    """Freeze every process of a container.

    :raises Conflict: it does not run, or is paused already
    """
    await _freeze(ctx, ref, True, State.RUNNING, State.PAUSED)


async def unpause(ctx: Context, ref: str) -> None:
    """Let a paused container go on. :raises Conflict: it is not paused"""
    await _freeze(ctx, ref, False, State.PAUSED, State.RUNNING)


async def _freeze(ctx: Context, ref: str, on: bool, before: State, after: State) -> None:
    cid = await records.find_id(ctx, ref)
    async with object_lock(ctx.inst, cid):
        record, run = await settle(ctx, cid)
        verb = "pause" if on else "unpause"
        if run is None or record.saved.state is not before:
            raise Conflict(
                f"cannot {verb} {record.name}", f"it is {record.saved.state.value}, not {before.value}", object_id=cid
            )
        await freeze(ctx, record, run, on)
        await records.save(ctx, cid, replace(record.saved, state=after))
    ctx.tell("container", verb, cid, name=record.name, image=record.spec.image)
