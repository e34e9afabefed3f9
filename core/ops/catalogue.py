"""``registry ls``: the repositories of a registry."""

from __future__ import annotations

from core.ops.context import Context


async def catalogue(ctx: Context, registry: str, *, insecure: bool) -> list[str]:
    """See :meth:`core.engine_images.ImageEngine.catalogue`."""
    from core.images.remote import catalogue as work

    return await work(ctx.images, registry, insecure=insecure)
