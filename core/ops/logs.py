"""``logs``: a container's output, from its files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from core.logs.index import LogView
from core.logs.reader import follow_lines, read_lines
from core.model import LogLine, State
from core.ops import records

if TYPE_CHECKING:
    from core.ops.context import Context


async def logs(
    ctx: Context, ref: str, tail: int | None, since: float | None, until: float | None, follow: bool
) -> AsyncIterator[LogLine]:
    """See :meth:`core.engine.Engine.logs`. :raises NotFound:"""
    record = await records.find(ctx, ref)
    path = ctx.inst.log_path(record.id)
    if not follow:
        for line in read_lines(path, tail=tail, since=since, until=until):
            yield line
        return
    with ctx.hub.subscribe() as events:

        async def ended() -> None:
            """Return once the container no longer runs; its monitor has then written the last line."""
            while True:
                found = [one for one in await records.every(ctx) if one.id == record.id]
                if not found or not _runs(ctx, found[0]):
                    return
                while (await events.next()).id != record.id:
                    pass

        async for line in follow_lines(path, tail=tail, since=since, until=until, ended=ended):
            yield line


def _runs(ctx: Context, record: records.Record) -> bool:
    state = records.observe(ctx, record)[0].state
    return state.live or state is State.RESTARTING


async def open_log(ctx: Context, ref: str) -> LogView:
    """Random access for a screen. :raises NotFound:"""
    record = await records.find(ctx, ref)
    return LogView(ctx.inst.log_path(record.id))
