"""``pull`` and ``load``: images into the store; every open engine hears of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from core.model import PullProgress
from core.ops.context import Context


async def pull(ctx: Context, reference: str, insecure: bool, platform: str = "") -> AsyncIterator[PullProgress]:
    """See :meth:`core.engine.Engine.pull`."""
    async for progress in _told(ctx, "pull", ctx.images.pull(reference, insecure, platform)):
        yield progress


async def load(ctx: Context, source: Path | int) -> AsyncIterator[PullProgress]:
    """See :meth:`core.engine.Engine.load`."""
    async for progress in _told(ctx, "load", ctx.images.load(source)):
        yield progress


async def _told(ctx: Context, verb: str, steps: AsyncIterator[PullProgress]) -> AsyncIterator[PullProgress]:
    try:
        async for progress in steps:
            if progress.image is not None:
                ctx.tell("image", verb, progress.image.id, name=progress.reference)
            yield progress
    finally:
        # Closing ours must close the one below at once: that is what cancels its downloads.
        if hasattr(steps, "aclose"):
            await steps.aclose()
