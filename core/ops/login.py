"""``login``: try credentials at a registry, and keep them."""

from __future__ import annotations

from core.model import Login
from core.ops.context import Context


async def login(ctx: Context, registry: str, user: str, password: str, *, insecure: bool, store: str) -> Login:
    """See :meth:`core.engine_images.ImageEngine.login`."""
    from core.images.login import login as work

    return await work(ctx.images, registry, user, password, insecure=insecure, place=store)
