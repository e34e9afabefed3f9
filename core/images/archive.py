"""Images from files: ``docker save`` archives (of every version), OCI archives, OCI layout folders."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from core.images import manifest
from core.images.assemble import Assembly, Wanted, wanted_layers
from core.images.contents import Item, items
from core.images.layers import Staging, verify
from core.images.members import Archive, broken, open_archive
from core.images.outgoing import Watch, stoppable
from core.images.progress import Progress, report
from core.images.records import NewImage
from core.images.unpackers import Result, Unpackers
from core.model import Image, PullProgress

if TYPE_CHECKING:
    from core.images.store import ImageStore


async def load(store: ImageStore, source: Path | int) -> AsyncGenerator[PullProgress, None]:
    """See :meth:`ImageStore.load`."""
    name = "-" if isinstance(source, int) else str(source)
    reading = _Reading(name, source)
    yield reading.snapshot()
    async with contextlib.aclosing(report(reading, _opened(store, source, reading))) as steps:
        async for step in steps:
            yield step
    archive = reading.archive
    unpackers = Unpackers(store.inst)
    try:
        for item in await asyncio.to_thread(items, archive):
            progress = Progress(item.names[0] if item.names else item.image_id, "")
            work = _load_one(store, archive, item, unpackers, progress)
            async with contextlib.aclosing(report(progress, work)) as steps:
                async for step in steps:
                    yield step
            for name in item.names[1:]:
                yield replace(step, reference=name)
    finally:
        await unpackers.close(wait=False)
        archive.close()


class _Reading(Progress):
    """Decompressing, or waiting for a pipe, before any layer is known."""

    archive: Archive

    def __init__(self, name: str, source: Path | int) -> None:
        super().__init__(name, "Reading the archive")
        self._loop = asyncio.get_running_loop()
        self._size = 0
        with contextlib.suppress(OSError):
            status = os.stat(source)
            self._size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        self._begun = False

    def take(self, done: int) -> None:
        """From the thread that reads."""
        self._loop.call_soon_threadsafe(self._take, done)

    def _take(self, done: int) -> None:
        if not self._begun:
            self._begun = True
            self.begin([("archive", self._size)])
            self.say("Reading the archive")
        self.set(0, "reading", done)

    def snapshot(self, image: Image | None = None) -> PullProgress:
        return super().snapshot()


async def _opened(store: ImageStore, source: Path | int, reading: _Reading) -> None:
    def work(look: Watch) -> None:
        def both(done: int) -> None:
            look(done)
            reading.take(done)

        reading.archive = open_archive(source, store.content.parts, both)

    try:
        await stoppable(work)
    except asyncio.CancelledError:
        if hasattr(reading, "archive"):
            reading.archive.close()
        raise


async def _load_one(store: ImageStore, archive: Archive, item: Item, unpackers: Unpackers, progress: Progress) -> Image:
    config = manifest.parse_config(item.config)
    if len(config.diffids) != len(item.layers):
        raise broken(f"it has {len(item.layers)} layers for an image of {len(config.diffids)}")
    places = [archive.place(name) for name, _ in item.layers]
    sizes = [(digest, place.size) for (_, digest), place in zip(item.layers, places, strict=True)]

    async def obtain(wanted: Wanted, staging: Staging) -> Result:
        place = places[wanted.position]

        def done(count: int) -> None:
            progress.set(wanted.position, "unpacking", count)

        done(0)
        result = await unpackers.unpack(place.fd, place.offset, place.size, staging.fd, None, done)
        if wanted.blob:
            verify(f"layer {wanted.position + 1}", wanted.blob, result.blob)
        return result

    while True:
        assembly = Assembly(store, unpackers, progress, local=True)
        keys = await assembly.run(wanted_layers(config.diffids, sizes), obtain)
        new = NewImage(
            id=item.image_id,
            config=item.config,
            manifest=item.manifest,
            manifest_digest=item.manifest_digest,
            manifest_type=item.manifest_type,
            layers=keys,
            tags=item.names,
            digests=(),
        )
        if image := await store.commit(new):
            return image
