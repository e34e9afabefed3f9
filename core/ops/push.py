"""``push``: an image to its registry; every open engine hears of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from core.model import PushProgress
from core.ops.context import Context


async def push(ctx: Context, reference: str, *, insecure: bool, compression: str) -> AsyncIterator[PushProgress]:
    """See :meth:`core.engine_images.ImageEngine.push`."""
    steps = ctx.images.push(reference, insecure, compression)
    try:
        async for progress in steps:
            if progress.digest:
                image = await ctx.images.get(reference)
                ctx.tell("image", "push", image.id, name=progress.reference)
            yield progress
    finally:
        # Closing ours must close the one below at once: that is what cancels its uploads.
        with contextlib.suppress(AttributeError):
            await steps.aclose()  # type: ignore[attr-defined]
