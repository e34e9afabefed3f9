"""``history``: the steps of an image's making."""

from __future__ import annotations

from core.images import history as told
from core.images.manifest import read_json
from core.model import HistoryEntry
from core.ops.context import Context


async def history(ctx: Context, ref: str) -> list[HistoryEntry]:
    """The steps, the last first. :raises NotFound: no such image"""
    image = await ctx.images.get(ref)
    return told.entries(image, read_json(ctx.images.config_of(image.id)), ctx.images.layer_sizes(image.id))
