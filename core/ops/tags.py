"""``registry tags``: the tags of a repository."""

from __future__ import annotations

from core.ops.context import Context


async def tags(ctx: Context, repository: str, *, insecure: bool) -> list[str]:
    """See :meth:`core.engine_images.ImageEngine.tags`."""
    from core.images.remote import tags as work

    return await work(ctx.images, repository, insecure=insecure)
