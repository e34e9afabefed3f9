"""``save``: images into an archive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.images import save as saving
from core.model import Watcher
from core.ops.context import Context


async def save(
    ctx: Context,
    refs: Sequence[str],
    target: int | Path,
    *,
    form: str = saving.DOCKER,
    compression: str = "none",
    watch: Watcher | None = None,
) -> None:
    """See :meth:`core.engine_images.ImageEngine.save`."""
    for image in await saving.save(ctx.images, refs, target, form, compression, watch):
        ctx.tell("image", "save", image.id, name=image.tags[0] if image.tags else "")
