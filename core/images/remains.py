"""What something that was broken off has left of layers: half-made folders, and whole layers without an image.

A half-made one is of use to nobody: the thorough recovery and every prune without a condition take it away. A whole one
waits a week for the next try (:meth:`core.images.layers.Layers.sweep`); ``image prune --all`` does not wait.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from core.images.layers import abandoned, hex_of
from core.images.usage import allocated
from core.model import Remains

if TYPE_CHECKING:
    from core.images.store import ImageStore

WITHOUT_IMAGE = "SELECT id FROM layer WHERE id NOT IN (SELECT layer FROM image_layer) ORDER BY id"


def half_made(store: ImageStore) -> list[Path]:
    """Folders of layers without a row, and without a process that works on them."""
    folders = list(store.layers.root.iterdir())
    # The rows after the folders: what is published in between has one.
    known = {hex_of(row["id"]) for row in store.store.disk.read("SELECT id FROM layer")}
    return [path for path in sorted(folders) if path.name not in known and abandoned(path)]


def without_image(store: ImageStore) -> list[str]:
    """Keys of whole layers that no image has and nobody counts on."""
    keys = []
    for row in store.store.disk.read(WITHOUT_IMAGE):
        with store.layers.unheld(row["id"]) as free:
            if free:
                keys.append(row["id"])
    return keys


async def remains(store: ImageStore) -> Remains:
    """How many there are of each, and how much they occupy."""

    def look() -> tuple[list[Path], list[Path]]:
        folders = map(store.layers.folder, without_image(store))
        return half_made(store), [path for path in folders if path.exists()]

    half, whole = await store.store.disk.run(look)
    # Trees may be large: not in the database's thread, where everybody would wait for it.
    half_size, whole_size = await asyncio.to_thread(lambda: (allocated(*half), allocated(*whole)))
    return Remains(len(half), half_size, len(whole), whole_size)
