"""Remove an image, unless containers use it."""

from __future__ import annotations

from core.ops import records
from core.ops.context import Context


async def remove_image(ctx: Context, ref: str, *, force: bool = False) -> list[str]:
    """Untag; with the last tag, delete. Returns Docker's words: ``Untagged: …``, ``Deleted: …``;
    with force ``Kept: …`` and by whom, where only the names went.

    :raises InUse: containers use it; ``why`` names them
    """
    image = await ctx.images.get(ref)

    def users(image_id: str) -> list[str]:
        # Asked inside the transaction that deletes: a container that is being created is seen, or does not see it.
        return records.names_using(ctx, image_id)

    done = list(await ctx.images.remove(ref, force=force, used_by=users))
    for line in done:
        word, _, what = line.partition(": ")
        if word == "Kept":
            continue
        ctx.tell("image", "untag" if word == "Untagged" else "delete", image.id, name=what)
    return done
