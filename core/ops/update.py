"""``update``: other limits and another restart policy for a container, at work or not."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import replace
from typing import Any

from core import cgroups
from core.errors import InvalidArgument, NoPrivilege, NotFound
from core.model import Change, Container, ContainerSpec, Resources, State
from core.ops import bundle, records
from core.ops.check_limits import check_limits
from core.ops.context import Context
from core.ops.records import Record
from core.ops.settle import settle
from core.ops.validate import check_restart
from core.runtime import limits
from core.store.journal import Journal
from core.store.lock import object_lock
from core.supervise import client


async def update(ctx: Context, ref: str, change: Change) -> Container:
    """Change a container; on any error it stays as it was.

    :raises InvalidArgument: nothing to change, or a value that no container can have
    :raises WharfError: the kernel refuses a limit
    """
    cid = await records.find_id(ctx, ref)
    async with object_lock(ctx.inst, cid):
        record, run = await settle(ctx, cid)
        spec = changed(record.spec, change)
        if change.resources != Resources() and not cgroups.usable():
            raise NoPrivilege("cannot change the container's limits", *cgroups.why_not_usable(), object_id=cid)
        async with Journal(ctx.inst, "update", cid, ctx.undos) as journal:
            # The row is the truth, and the last to be written: whatever breaks off before goes back to it.
            journal.step("update.undo", cid)
            if run is not None:
                await _apply(ctx, record, spec, limits.cgroup_limits(spec.resources))
            await records.save_spec(ctx, cid, spec)
        record = replace(record, spec=spec)
    ctx.tell("container", "update", cid, name=record.name, image=spec.image)
    return records.snapshot(ctx, record)


def changed(spec: ContainerSpec, change: Change) -> ContainerSpec:
    """``spec`` with the change in it. :raises InvalidArgument:"""
    plain = Resources()
    given: dict[str, Any] = {
        field.name: getattr(change.resources, field.name)
        for field in dataclasses.fields(Resources)
        if getattr(change.resources, field.name) != getattr(plain, field.name)
    }
    if not given and change.restart is None:
        raise InvalidArgument("nothing to update", "no limit and no restart policy was named", "Say --memory 64m")
    resources = replace(spec.resources, **given)
    check_limits(resources)
    spec = replace(spec, resources=resources, restart=change.restart or spec.restart)
    check_restart(spec)
    return spec


async def undo_update(ctx: Context, cid: str) -> None:
    """Lead a container that runs back to what its row says. Idempotent."""
    record = await records.find_or_none(ctx, cid)
    if record is not None and records.observe(ctx, record)[1] is not None:
        await _apply(ctx, record, record.spec, limits.whole_limits(record.spec.resources))


async def _apply(ctx: Context, record: Record, spec: ContainerSpec, wanted: dict[str, object]) -> None:
    """The kernel first: it may refuse. Then what the next automatic start reads, and who makes it."""
    try:
        if cgroups.usable():
            await asyncio.to_thread(cgroups.update, records.cgroup(ctx, record.id, record), wanted)
    except NotFound:
        # Between two runs there is no group; of one that runs it cannot be missing.
        if records.observe(ctx, record)[0].state is not State.RESTARTING:
            raise
    resources = await asyncio.to_thread(bundle.rewrite_resources, ctx.inst, record.id, spec)
    await client.update(ctx.inst, record.id, resources, spec.restart)
