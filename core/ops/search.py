"""``search``: repositories by a word."""

from __future__ import annotations

from core.model import FoundRepository
from core.ops.context import Context


async def search(ctx: Context, term: str, *, limit: int, insecure: bool) -> list[FoundRepository]:
    """See :meth:`core.engine_images.ImageEngine.search_registry`."""
    from core.images.remote import search as work

    return await work(ctx.images, term, limit=limit, insecure=insecure)
