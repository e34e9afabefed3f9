"""``info``: the host and how much the instance holds."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from core import __version__
from core.errors import WharfError
from core.model import HostInfo, State
from core.ops import records, runtimes
from core.ops.context import Context
from core.ops.criuinfo import look
from core.ops.hostinfo import host_info
from core.store import config
from core.store.config import OWN_RUNTIME


async def info(ctx: Context) -> HostInfo:
    """Counts are of this moment."""
    states = [records.observe(ctx, record)[0].state for record in await records.every(ctx)]
    running = sum(state.live and state is not State.PAUSED for state in states)
    paused = states.count(State.PAUSED)
    criu = await asyncio.to_thread(look, ctx.inst)
    host = host_info(
        ctx.inst,
        checkpoints=not criu.problem,
        containers=len(states),
        running=running,
        paused=paused,
        stopped=len(states) - running - paused,
        images=len(await ctx.images.list()),
        engine_version=__version__,
    )
    host = replace(host, no_networks=". ".join(ctx.net.refusal or ()))
    try:
        settings = config.load()
    except WharfError as error:
        return replace(host, warnings=(*host.warnings, str(error)))
    others = dict(runtimes.found(settings))
    return replace(host, runtime=settings.runtime, runtimes={OWN_RUNTIME: "", **others})
