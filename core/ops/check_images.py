"""``image check``: whether registries have something newer by the names of images."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import WharfError
from core.model import TagCheck
from core.ops.context import Context


async def check_images(ctx: Context, references: Sequence[str], *, insecure: bool) -> list[TagCheck]:
    """See :meth:`core.engine_images.ImageEngine.check_images`."""
    from core.images.remote import check as work

    if references:
        refs = [name for ref in references for name in await _names(ctx, ref)]
    else:
        refs = [tag for image in await ctx.images.list() for tag in image.tags]
    return await work(ctx.images, refs, insecure=insecure)


async def _names(ctx: Context, ref: str) -> list[str]:
    """All names of an image that is named by its id; else ``ref``, also where it names nothing: that is told of it."""
    try:
        by_id = ctx.images.is_id(ref)
        return list((await ctx.images.get(ref)).tags if by_id else ()) or [ref]
    except WharfError:
        return [ref]
