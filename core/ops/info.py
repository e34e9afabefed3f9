"""``info``: the host and how much the instance holds."""

from __future__ import annotations

from core import __version__
from core.model import HostInfo, State
from core.ops import records
from core.ops.context import Context
from core.ops.hostinfo import host_info


async def info(ctx: Context) -> HostInfo:
    """Counts are of this moment."""
    states = [records.observe(ctx, record)[0].state for record in await records.every(ctx)]
    running = sum(state.live and state is not State.PAUSED for state in states)
    paused = states.count(State.PAUSED)
    return host_info(
        ctx.inst,
        containers=len(states),
        running=running,
        paused=paused,
        stopped=len(states) - running - paused,
        images=len(await ctx.images.list()),
        engine_version=__version__,
    )
