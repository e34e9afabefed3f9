"""Deleting images: the rows, then what was theirs on the disk."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from core.images.remove import Removed
from core.images.usage import allocated

if TYPE_CHECKING:
    from core.images.store import ImageStore


class Deletion:
    """One removal; what was deleted is in :attr:`done`, in the end the moved-away folders are in :attr:`away`."""

    def __init__(self, images: ImageStore, con: sqlite3.Connection, held: contextlib.ExitStack) -> None:
        self.con = con
        self.done = Removed()
        self.away: list[Path] = []
        self._images = images
        self._held = held

    def free(self, key: str) -> bool:
        """Whether nobody holds the layer; until the transaction ends nobody begins to."""
        return self._held.enter_context(self._images.layers.unheld(key))

    def documents(self) -> int:
        """Bytes that the deleted blobs occupy; before the end of the block. (Layers are in :attr:`away` after it.)"""
        return allocated(*(self._images.content.path(digest) for digest in self.done.blobs))

    def take_away(self, con: sqlite3.Connection) -> None:
        """The files of rows that are gone for good; the folders are to be deleted yet.

        Only after the commit: a kill in between leaves files without a row, which :meth:`ImageStore.recover` finds, and
        not rows without files. Under the write lock: what somebody has pulled again by now has its row again.
        """
        for digest in self.done.blobs:
            if not con.execute("SELECT 1 FROM blob WHERE digest = ?", (digest,)).fetchone():
                self._images.content.drop(digest)
        known = {row["id"] for row in con.execute("SELECT id FROM layer").fetchall()}
        folders = [self._images.layers.folder(key) for key in self.done.layers if key not in known]
        self.away = [self._images.layers.move_away(path) for path in folders if path.exists()]


@contextlib.contextmanager
def deleting(images: ImageStore) -> Iterator[Deletion]:
    """A write transaction in which images are deleted; the caller deletes :attr:`Deletion.away` afterwards."""
    with contextlib.ExitStack() as held:
        with images.store.disk.write() as con:
            deletion = Deletion(images, con, held)
            yield deletion
        with images.store.disk.write() as con:
            deletion.take_away(con)
