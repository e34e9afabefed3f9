"""``registry referrers``: what names an image as its subject."""

from __future__ import annotations

from core.model import Referrer
from core.ops.context import Context


async def referrers(ctx: Context, reference: str, kind: str, *, insecure: bool) -> list[Referrer]:
    """See :meth:`core.engine_images.ImageEngine.referrers`."""
    from core.images.remote import referrers as work

    return await work(ctx.images, reference, kind, insecure=insecure)
