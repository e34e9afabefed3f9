"""``attach``: both directions of a container's first process."""

from __future__ import annotations

import socket

from core.engine import Session
from core.errors import Conflict
from core.ops import records
from core.ops.context import Context
from core.ops.start import start
from core.supervise import client


async def attach(ctx: Context, ref: str, *, stdin: bool) -> Session:
    """Attach to a running container. :raises Conflict: it does not run"""
    record = await records.find(ctx, ref)
    saved, run = records.observe(ctx, record)
    if run is None or not saved.state.live:
        raise Conflict(
            f"cannot attach to {record.name}", f"it is {saved.state.value}", "Start it first", object_id=record.id
        )
    return await client.open_attach(ctx.inst, record.id, stdin)


async def start_attached(ctx: Context, ref: str, *, stdin: bool) -> Session:
    """Start with a client attached before the first byte of output.

    :raises StartFailed: as for ``start``
    """
    record = await records.find(ctx, ref)
    ours, theirs = socket.socketpair()
    try:
        await start(ctx, record.id, attach=theirs)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return await client.attached(ours, tty=record.spec.tty, stdin=stdin)
