"""Look into the layers of images; reads their indexes, never their files."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from core.errors import InvalidArgument
from core.images import index, reference
from core.images.browse import Browser, build_steps
from core.images.patterns import matcher
from core.model import FoundFile, Image
from core.ops.context import Context


async def open_layers(ctx: Context, ref: str) -> Browser:
    """See :meth:`core.engine_images.ImageEngine.image_layers`."""
    image = await ctx.images.get(ref)
    folders = _folders(ctx, image)
    return await asyncio.to_thread(lambda: _browser(ctx, image, [index.read(folder) for folder in folders]))


async def search_layers(ctx: Context, pattern: str, refs: Sequence[str]) -> list[FoundFile]:
    """See :meth:`core.engine_images.ImageEngine.search_layers`."""
    match = matcher(pattern)
    images = [_called(await ctx.images.get(ref), ref) for ref in refs] if refs else await ctx.images.list()
    layers = [(image, _folders(ctx, image)) for image in {image.id: image for image in images}.values()]

    def work() -> list[FoundFile]:
        read: dict[Path, index.Index] = {}  # a layer of many images is read once, and laid only where it has a hit
        hits: set[Path] = set()
        found: list[FoundFile] = []
        for image, folders in layers:
            for folder in folders:
                if folder not in read:
                    read[folder] = index.read(folder)
                    if any(map(match, read[folder].paths)) or any(map(match, read[folder].implied)):
                        hits.add(folder)
            if hits.intersection(folders):
                found += _browser(ctx, image, [read[folder] for folder in folders]).find_by(match)
        return found

    return await asyncio.to_thread(work)


def _called(image: Image, ref: str) -> Image:
    """The image with the name that was typed first: by that it is told of."""
    try:
        typed = str(reference.parse(ref))
    except InvalidArgument:
        return image
    return replace(image, tags=(typed, *image.tags)) if typed in image.tags else image


def _folders(ctx: Context, image: Image) -> list[Path]:
    return [ctx.images.layers.folder(key) for key in ctx.images.keys(image)]


def _browser(ctx: Context, image: Image, indexes: Sequence[index.Index]) -> Browser:
    config = ctx.images.content.read(image.id) or b"{}"
    return Browser(image, build_steps(config, len(indexes)), indexes)
