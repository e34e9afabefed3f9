"""The part of :class:`core.local.LocalEngine` that is about what is on the disk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from core.border import verb

if TYPE_CHECKING:
    from core.model import Checked, DiskUsage, ImageFilter, Pruned, PruneRule, Remains
    from core.ops.context import Context


class StorageVerbs:
    """Implements :class:`core.engine_storage.StorageEngine`. Each method is one verb of ``ops/``."""

    _ctx: Context

    @verb("measure the disk")
    async def disk_usage(self) -> DiskUsage:
        from core.ops.disk_usage import disk_usage

        return await disk_usage(self._ctx)

    @verb("measure the containers")
    async def container_sizes(self, ids: Collection[str] | None = None) -> dict[str, tuple[int, int]]:
        from core.ops.sizes import container_sizes

        return await container_sizes(self._ctx, ids)

    @verb("read the filter")
    async def image_filter(self, words: Mapping[str, Sequence[str]]) -> ImageFilter:
        from core.ops.image_filters import PRUNE, image_filter

        return await image_filter(self._ctx, words, PRUNE)

    @verb("remove what nobody needs")
    async def prune_images(self, rule: PruneRule) -> Pruned:
        from core.ops.prune_images import prune_images

        return await prune_images(self._ctx, rule)

    @verb("look for what was broken off")
    async def remains(self) -> Remains:
        from core.images.remains import remains

        return await remains(self._ctx.images)

    def check_store(self, *, repair: bool = False, remove: bool = False) -> AsyncIterator[Checked]:
        from core.ops.check_store import check_store

        return check_store(self._ctx, repair=repair, remove=remove)
