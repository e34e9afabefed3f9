"""Blobs that are kept (manifests and configurations) and blobs under way.

::

    images/blobs/sha256/<hex>     kept, whole: written beside, synced, renamed
    images/parts/<hex>            a layer's blob as far as it has come; a later pull goes on from there
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import time
from pathlib import Path

from core.errors import Corrupt, NoSpace
from core.images.layers import hex_of
from core.store.paths import Instance

_PART_AGE = 7 * 86400.0  # seconds after which nobody will go on with it


class Content:
    """The blob folders of one instance."""

    def __init__(self, inst: Instance) -> None:
        self.blobs = inst.images / "blobs" / "sha256"
        self.parts = inst.images / "parts"

    def prepare(self) -> None:
        for folder in (self.blobs.parent, self.blobs, self.parts):
            folder.mkdir(mode=0o700, exist_ok=True)

    def put(self, digest: str, data: bytes) -> None:
        """Keep ``data``, whose digest has been checked; durable on return.

        :raises NoSpace: the disk is full
        """
        target = self.blobs / hex_of(digest)
        if target.exists():
            return
        beside = self.blobs / f"tmp-{secrets.token_hex(8)}"
        try:
            with open(beside, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.rename(target)
            _sync_folder(self.blobs)  # else a power cut may take the name back
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise NoSpace("the image's description cannot be written", str(error), "Check the disk") from error

    def read(self, digest: str) -> bytes | None:
        """A kept blob; None where it is not there.

        :raises Corrupt: the disk has damaged it
        """
        try:
            data = (self.blobs / hex_of(digest)).read_bytes()
        except FileNotFoundError:
            return None
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            self.drop(digest)
            raise Corrupt(f"the stored blob {digest} was damaged", "it has been thrown away", "Pull the image again")
        return data

    def path(self, digest: str) -> Path:
        return self.blobs / hex_of(digest)

    def drop(self, digest: str) -> None:
        self.path(digest).unlink(missing_ok=True)

    def part(self, digest: str) -> Path:
        return self.parts / hex_of(digest)

    def sweep(self, known: set[str]) -> None:
        """Delete what nobody will ask for: half-written and unreferenced blobs, parts that have grown old.

        Under the database's write lock: else a pull might count on a blob that was nobody's when ``known`` was read.
        """
        old = time.time() - _PART_AGE
        for path in self.parts.iterdir():
            if _written(path) < old:
                path.unlink(missing_ok=True)
        hour_ago = time.time() - 3600  # a pull under way keeps its blobs before it commits their rows
        for path in self.blobs.iterdir():
            if f"sha256:{path.name}" not in known and _written(path) < hour_ago:
                path.unlink(missing_ok=True)


def _written(path: Path) -> float:
    """When, in seconds since the epoch; never where another process has just finished with the file."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
