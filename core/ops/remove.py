"""``remove``: forget a container, ending it first where that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import Conflict, NotFound
from core.model import State
from core.ops import records
from core.ops.discard import discard
from core.ops.kill import end_now
from core.ops.settle import release, settle
from core.store.lock import object_lock

if TYPE_CHECKING:
    from core.ops.context import Context


async def remove(ctx: Context, ref: str, *, force: bool = False) -> None:
    """Remove a container that does not run; with ``force`` it is killed first.

    :raises Conflict: it runs and ``force`` was not given
    """
    cid = await records.find_id(ctx, ref)
    async with object_lock(ctx.inst, cid):
        record, run = await settle(ctx, cid)
        if record.saved.state.live or record.saved.state is State.RESTARTING:
            if not force:
                raise Conflict(
                    f"cannot remove {record.name}",
                    f"it is {record.saved.state.value}",
                    "Stop it first, or force removal (rm -f)",
                    object_id=cid,
                )
            await end_now(ctx, record, run)
            # Whatever the monitor got to: nothing of it may outlive the row.
            await release(ctx, cid, record)
            try:
                record, _ = await settle(ctx, cid)
            except NotFound:
                return  # created with --rm: settling has removed it
        await discard(ctx, record)
