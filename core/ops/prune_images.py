"""``image prune``: remove what nobody needs."""

from __future__ import annotations

import asyncio

from core.errors import InvalidArgument
from core.images.prune import Swept, alone, choose, prune, prune_half_made, prune_leftovers
from core.model import ImageFilter, Pruned, PruneRule
from core.ops import records
from core.ops.context import Context


async def prune_images(ctx: Context, rule: PruneRule) -> Pruned:
    """Remove the images that the rule names and no container uses. Without a further condition also half-made layers
    that a kill has left; with ``all``, too, the layers and downloads of pulls that were never finished.

    :raises InvalidArgument: a rule that contradicts itself
    """
    if rule.keep < 0 or (rule.unused_for is not None and rule.unused_for < 0):
        raise InvalidArgument("invalid prune rule", "a number in it is negative", "Give 0 or more")

    def users(image_id: str) -> list[str]:
        return records.names_using(ctx, image_id)

    images = await ctx.images.list()
    swept = Swept()
    # What was broken off is nobody's by age or label: it goes where nothing narrows the rule.
    narrowed = rule.only != ImageFilter() or rule.unused_for is not None or rule.keep

    def work() -> None:
        chosen = choose(images, rule, users)
        if rule.dry_run:
            swept.images += chosen
            swept.unmeasured += alone(ctx.images, chosen)
            for image in chosen:
                swept.lines += [f"Untagged: {name}" for name in (*image.tags, *image.repo_digests)]
                swept.lines.append(f"Deleted: {image.id}")
        else:
            prune(ctx.images, chosen, users, swept)
        if not narrowed:
            prune_half_made(ctx.images, swept, dry_run=rule.dry_run)
        if rule.all and not narrowed:
            prune_leftovers(ctx.images, swept, dry_run=rule.dry_run)

    try:
        await ctx.store.disk.run(work)
        await asyncio.to_thread(swept.measure)
    finally:
        ctx.images.delete_later(swept.away)
        if not rule.dry_run:
            for image in swept.images:
                ctx.tell("image", "delete", image.id, name=image.tags[0] if image.tags else image.id)
    return Pruned(tuple(swept.images), tuple(swept.lines), swept.reclaimed)
