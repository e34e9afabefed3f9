"""Search through a log of any size without holding up the keys: a stretch at a time, round the end once."""

from __future__ import annotations

import asyncio

from tui.widgets.loglines import LogLines

_STRETCH = 20_000  # lines looked through before keys are served again


async def hunt(source: LogLines, needle: str, start: int, *, backwards: bool) -> int | None:
    """The id of the next shown line with ``needle`` at or after (before) the id ``start``, round the end once."""
    log = source.log
    more = not log.indexed
    while more:  # lines without numbers cannot be found
        more = log.refresh(0.01)
        await asyncio.sleep(0)
    left = log.lines
    at = max(0, min(start - log.dropped, left - 1))
    if start - log.dropped >= left and not backwards:
        at = 0
    elif start < log.dropped and backwards:
        at = left - 1
    while left > 0:
        limit = min(_STRETCH, left, at + 1 if backwards else log.lines - at)
        found = log.find(needle, at, backwards=backwards, limit=limit)
        if found is not None and source.has(found + log.dropped):
            return found + log.dropped
        walked = limit if found is None else abs(found - at) + 1
        left -= walked
        at += -walked if backwards else walked
        if at < 0:
            at = log.lines - 1
        elif at >= log.lines:
            at = 0
        await asyncio.sleep(0)
    return None
