"""Remove an image, unless containers use it."""

from __future__ import annotations

from core.ops import records
from core.ops.context import Context


async def remove_image(ctx: Context, ref: str, *, force: bool = False) -> list[str]:
    """Untag; with the last tag, delete. Returns Docker's words: ``Untagged: …``, ``Deleted: …``.

    :raises InUse: containers use it; ``why`` names them
    """
    image = await ctx.images.get(ref)
    users = await records.image_users(ctx, image.id)
    done = await ctx.images.remove(ref, force=force, used_by=lambda _: users)
    for line in done:
        word, _, what = line.partition(": ")
        ctx.tell("image", "untag" if word == "Untagged" else "delete", image.id, name=what)
    return done
