"""The part of the engine's protocol that is about what is on the disk; :mod:`core.engine` has the whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from core.model import Checked, DiskUsage, ImageFilter, Pruned, PruneRule, Remains


class StorageEngine(Protocol):
    """Space: who has it, what can be given back, and whether everything is as it was written."""

    async def disk_usage(self) -> DiskUsage:
        """What the data root occupies, by images, containers, volumes, logs and the rest; the parts add up."""
        ...

    async def container_sizes(self, ids: Collection[str] | None = None) -> dict[str, tuple[int, int]]:
        """By container id: bytes on the disk of what it has written, and those with its image's size.

        :param ids: whole ones; of these only, those that are gone left out. None: of all
        """
        ...

    async def image_filter(self, words: Mapping[str, Sequence[str]]) -> ImageFilter:
        """What Docker's filter words for ``image prune`` mean: ``label``, ``label!``, ``until``.

        :raises InvalidArgument: an unknown word, or a value that it does not take
        """
        ...

    async def prune_images(self, rule: PruneRule) -> Pruned:
        """Remove images that no container uses, as the rule says."""
        ...

    async def remains(self) -> Remains:
        """What pulls, loads and imports that were broken off have left."""
        ...

    def check_store(self, *, repair: bool = False, remove: bool = False) -> AsyncIterator[Checked]:
        """Verify every blob, layer and image against its digest; the last step has all that is wrong.

        :param repair: mend what can be mended: made again from what is there, or fetched again from where it came
        :param remove: with ``repair``: take the rest away, with the images that cannot be without it; what containers
            need stays
        """
        ...
