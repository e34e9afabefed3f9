"""``stats``: one sample of the counters of live containers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from core import cgroups
from core.errors import NotFound
from core.model import Sample
from core.ops import processes, records
from core.ops.context import Context


async def stats(ctx: Context, refs: Sequence[str] | None) -> list[Sample]:
    """Counters of the named containers (default: all), those that do not run left out.

    :raises NotFound: one of ``refs`` does not exist
    """
    if refs is None:
        found = await records.every(ctx)
    else:
        found = [await records.find(ctx, ref) for ref in refs]
    seen = [(rec, *records.observe(ctx, rec)) for rec in found]
    live = [(rec, saved, run.pid) for rec, saved, run in seen if run is not None and saved.state.live]
    wires = [end.interface for _, saved, _ in live for end in saved.endpoints if end.interface]
    traffic = await ctx.net.counters(wires) if wires else {}
    # Without a cgroup they are counted by their processes.
    counted = None if cgroups.usable() else processes.read(pid for _, _, pid in live)
    samples = []
    for record, saved, pid in live:
        with contextlib.suppress(NotFound, KeyError):  # it has ended this very moment
            group = records.cgroup(ctx, record.id, record)
            counters = ctx.sampler.read(group) if counted is None else counted[pid]
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
