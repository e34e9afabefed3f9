"""``tag`` and ``untag``: names of images, without touching what they name."""

from __future__ import annotations

from collections.abc import Sequence

from core.model import Image
from core.ops.context import Context


async def tag(ctx: Context, ref: str, name: str) -> Image:
    """Give an image one more name; another image that had it loses it.

    :raises NotFound: no such image
    :raises InvalidArgument: not a name
    """
    image = await ctx.images.tag(ref, name)
    ctx.tell("image", "tag", image.id, name=name)
    return image


async def untag(ctx: Context, ref: str, names: Sequence[str] = (), *, every: bool = False) -> list[str]:
    """Take names from an image, which stays. Returns those that are gone.

    :param names: none means ``ref`` itself where that is a name, all where it is an id
    :param every: all names, whatever ``ref`` is
    :raises NotFound: no such image, or a name that is not its
    :raises InvalidArgument: a digest (``REPOSITORY@sha256:…``), which is no tag
    """
    image, gone = await ctx.images.untag(ref, names, every=every)
    for name in gone:
        ctx.tell("image", "untag", image.id, name=name)
    return gone
