"""What containers have written, and how much that is together with their images (``ps --size``, ``inspect --size``)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from core.images.usage import allocated
from core.ops import records
from core.ops.context import Context
from core.ops.records import Record


async def container_sizes(ctx: Context, ids: Collection[str] | None = None) -> dict[str, tuple[int, int]]:
    """By id, for each container: bytes on the disk of its own layer, and those with its image's size.

    An image that is no longer there counts nothing.

    :param ids: of these only, those that are gone left out; None: of all
    """
    boxes = [record for record in await records.every(ctx) if ids is None or record.id in ids]
    images = {image.id: image.size for image in await ctx.images.list()}
    own = await asyncio.to_thread(lambda: {record.id: _written(ctx, record) for record in boxes})
    return {record.id: (own[record.id], own[record.id] + images.get(record.image, 0)) for record in boxes}


def _written(ctx: Context, record: Record) -> int:
    folder = ctx.inst.container_dir(record.id) / "upper"
    try:
        return allocated(*folder.iterdir())  # not the folder itself, which is there from the beginning
    except FileNotFoundError:  # removed meanwhile
        return 0
