"""``stats``: one sample of the counters of live containers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from core.errors import NotFound
from core.model import Sample
from core.ops import records
from core.ops.context import Context


async def stats(ctx: Context, refs: Sequence[str] | None) -> list[Sample]:
    """Counters of the named containers (default: all), those that do not run left out.

    :raises NotFound: one of ``refs`` does not exist
    """
    if refs is None:
        found = await records.every(ctx)
    else:
        found = [await records.find(ctx, ref) for ref in refs]
    live = [(rec, saved) for rec in found if (saved := records.observe(ctx, rec)[0]).state.live]
    wires = [end.interface for _, saved in live for end in saved.endpoints if end.interface]
    traffic = await ctx.net.counters(wires) if wires else {}
    samples = []
    for record, saved in live:
        with contextlib.suppress(NotFound):  # it has ended this very moment
            counters = ctx.sampler.read(records.cgroup(ctx, record.id, record))
            pairs = [traffic.get(end.interface, (0, 0)) for end in saved.endpoints]
            samples.append(
                Sample(
                    id=record.id,
                    time=time.monotonic(),
                    net_rx=sum(rx for rx, _ in pairs),
                    net_tx=sum(tx for _, tx in pairs),
                    **counters._asdict(),
                )
            )
    return samples
