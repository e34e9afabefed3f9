"""``network stats``: the counters of containers' interfaces, one by one."""

from __future__ import annotations

import time
from collections.abc import Sequence

from core.model.netlook import InterfaceSample
from core.net import meters
from core.ops import records
from core.ops.context import Context


async def interfaces(ctx: Context, refs: Sequence[str] | None) -> list[InterfaceSample]:
    """Of the named containers (default: all that run), newest container first; those that are gone are left out.

    :raises NotFound: one of ``refs`` does not exist
    """
    found = await records.every(ctx) if refs is None else [await records.find(ctx, ref) for ref in refs]
    seen = [(record, *records.observe(ctx, record)) for record in found]
    live = [(rec, saved, run.pid) for rec, saved, run in seen if run and saved.state.live]
    wires = [
        (record.id, end, meters.Wire(end.interface, 0 if end.interface else pid, end.name))
        for record, saved, pid in live
        for end in saved.endpoints
    ]
    if not wires:
        return []
    counted = await ctx.net.look(
        "read the interface counters", lambda host: meters.read(host, [wire for _, _, wire in wires])
    )
    now = time.monotonic()
    return [
        InterfaceSample(cid, end.network, end.name, end.interface, now, **counted[wire]._asdict())
        for cid, end, wire in wires
        if wire in counted
    ]
