"""Docker's ``--filter`` words for images, and the list they choose from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from core.errors import InvalidArgument
from core.units import parse_when

if TYPE_CHECKING:
    from core.model import Image, ImageFilter
    from core.ops.context import Context

LIST = ("dangling", "label", "before", "since", "until", "reference")
PRUNE = ("label", "label!", "until")
_TRUE, _FALSE = ("true", "1", "t"), ("false", "0", "f")
Filters = Mapping[str, Sequence[str]]


async def list_images(ctx: Context, filters: Filters) -> list[Image]:
    """Every image that the filters let through, newest first.

    :raises InvalidArgument: an unknown filter, or a value that it does not take
    :raises NotFound: ``before`` or ``since`` name no image
    """
    if not filters:
        return await ctx.images.list()
    chosen = await image_filter(ctx, filters, LIST)
    return [image for image in await ctx.images.list() if chosen.passes(image)]


async def image_filter(ctx: Context, filters: Filters, known: Sequence[str]) -> ImageFilter:
    """What the words mean. :raises WharfError: as :func:`list_images`"""
    for key in filters:
        if key not in known:
            raise InvalidArgument(f"invalid filter {key!r}", "images have none of that name", f"Use {', '.join(known)}")
    untils = [parse_when(text) for text in filters.get("until", ())]
    dangling = {_truth(text) for text in filters.get("dangling", ())}
    from core.model import ImageFilter  # late: a plain list needs none

    return ImageFilter(
        dangling=dangling.pop() if len(dangling) == 1 else None,
        labels=tuple(filters.get("label", ())),
        without_labels=tuple(filters.get("label!", ())),
        before=tuple([(await ctx.images.get(ref)).created for ref in filters.get("before", ())]),
        since=tuple([(await ctx.images.get(ref)).created for ref in filters.get("since", ())]),
        until=min(untils, default=None),
        references=tuple(filters.get("reference", ())),
    )


def _truth(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise InvalidArgument(f"invalid filter 'dangling={text}'", "it is true or false", "Write dangling=true")
    return text.lower() in _TRUE
