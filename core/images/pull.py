"""Fetch one image from a registry: manifest, configuration, then the layers, unpacked while they arrive."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from core.errors import Corrupt, Unsupported
from core.images import manifest
from core.images.assemble import Assembly, Stale, Wanted, wanted_layers
from core.images.content import Content
from core.images.layers import Staging, hex_of
from core.images.manifest import Config, Descriptor, Index, Manifest
from core.images.progress import Progress
from core.images.records import NewImage
from core.images.reference import Reference
from core.images.registry import Cut, Registry
from core.images.unpackers import Result, Unpackers, in_thread, poke, wake_pipe
from core.model import Image
from core.store.lock import drop_lock_file, object_lock
from core.store.paths import Instance

if TYPE_CHECKING:
    from core.images.store import ImageStore

_IN_THREAD = 64 * 1024  # bytes from which a write is worth a thread: the disk may make it wait


class Found:
    """What the registry has under the name: its manifest for this machine, and the image's configuration."""

    def __init__(
        self, digest: str, kind: str, data: bytes, listed: str, document: Manifest, config_data: bytes
    ) -> None:
        self.digest = digest
        self.kind = kind  # media type
        self.data = data
        self.listed = listed  # the digest that the name stands for: the index's where there is one
        self.manifest = document
        self.config_data = config_data
        self.config: Config = manifest.parse_config(config_data)
        if len(self.config.diffids) != len(document.layers):
            raise Corrupt(
                "the image contradicts itself",
                f"its configuration has {len(self.config.diffids)} layers, its manifest {len(document.layers)}",
                "Tell the image's maker",
            )

    def keep(self, content: Content) -> None:
        """Store both documents."""
        content.put(self.manifest.config.digest, self.config_data)
        content.put(self.digest, self.data)


async def find(registry: Registry, content: Content) -> Found:
    """Read manifest and configuration; those that are kept already are not fetched again.

    :raises NotFound: no such image, tag or platform
    """
    data, kind, digest = await registry.manifest(registry.reference.version)
    document, listed = manifest.parse(data, kind), digest
    if isinstance(document, Index):
        digest = manifest.choose(document, manifest.host_platform()).digest
        kept = content.read(digest)
        if kept is None:
            kept, kind, _ = await registry.manifest(digest)
            document = manifest.parse(kept, kind)
        else:
            document = manifest.parse(kept)
        data = kept
    if isinstance(document, Index):
        raise Unsupported("the image's index leads to another index", "only one level is allowed", "Use another tag")
    config = document.config
    config_data = content.read(config.digest) or await registry.small_blob(config.digest, config.size)
    return Found(digest, kind.partition(";")[0], data, listed, document, config_data)


class Fetcher:
    """Obtains layers from a registry; :meth:`obtain` is what :class:`~core.images.assemble.Assembly` calls."""

    def __init__(
        self, inst: Instance, registry: Registry, content: Content, unpackers: Unpackers, progress: Progress
    ) -> None:
        self._inst = inst
        self._registry = registry
        self._content = content
        self._unpackers = unpackers
        self._progress = progress

    async def obtain(self, item: Wanted, staging: Staging) -> Result:
        """Download one layer's blob into its part file while a worker unpacks it.

        :raises Stale: what was resumed had been bad
        :raises Corrupt: the registry's content is not what its digest says, or the archive is bad
        """
        lock = f"blob-{hex_of(item.blob)}"  # two layers of a crafted image may name one blob
        async with object_lock(self._inst, lock, float("inf")):
            part = self._content.part(item.blob)
            fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                have = os.fstat(fd).st_size
                if have > item.size:
                    os.ftruncate(fd, 0)
                    have = 0
                result = await self._both(item, staging, fd, have)
                if result.blob != item.blob:
                    raise Corrupt(
                        f"layer {item.position + 1} has the wrong digest",
                        f"{self._registry.reference.host} should have sent {item.blob} and sent {result.blob}",
                        "Try again; if it stays, the registry is damaged",
                    )
            except Corrupt:
                part.unlink(missing_ok=True)
                if have:
                    raise Stale from None
                raise
            finally:
                os.close(fd)
            part.unlink(missing_ok=True)
            drop_lock_file(self._inst, lock)
            return result

    async def _both(self, item: Wanted, staging: Staging, fd: int, have: int) -> Result:
        """Download and unpack at once; the first failure ends both."""
        read, write = wake_pipe()
        unpack = asyncio.create_task(self._unpack(item, staging, fd, read))
        download = asyncio.create_task(self._download(item, fd, have, write))
        try:
            done, _ = await asyncio.wait({unpack, download}, return_when=asyncio.FIRST_EXCEPTION)
            # The worker's verdict counts for more: it may be why the download had to end.
            for task in (unpack, download):
                if task in done:
                    task.result()
            return unpack.result()
        finally:
            for task in (unpack, download):
                task.cancel()
            os.close(write)  # the worker, if it still waits, sees that nothing more will come
            await asyncio.gather(unpack, download, return_exceptions=True)

    async def _unpack(self, item: Wanted, staging: Staging, fd: int, read: int) -> Result:
        def progress(done: int) -> None:
            if os.fstat(fd).st_size == item.size:  # else the download is what there is to see
                self._progress.set(item.position, "unpacking", done)

        try:
            return await self._unpackers.unpack(fd, 0, item.size, staging.fd, read, progress)
        finally:
            os.close(read)

    async def _download(self, item: Wanted, fd: int, have: int, write: int) -> None:
        failures = 0
        while have < item.size:
            try:
                async with contextlib.aclosing(self._registry.blob(item.blob, have, item.size)) as pieces:
                    async for piece in pieces:
                        await _store(fd, piece, have)
                        have += len(piece)
                        failures = 0
                        poke(write)
                        self._progress.set(item.position, "downloading", have)
            except Cut as error:
                await self._registry.pause(failures, error)
                failures += 1
        self._progress.set(item.position, "unpacking", 0)


async def _store(fd: int, data: bytes, offset: int) -> None:
    if len(data) < _IN_THREAD:
        _write(fd, data, offset)
    else:
        await in_thread(lambda: _write(fd, data, offset))


def _write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


def blobs(layers: tuple[Descriptor, ...]) -> list[tuple[str, int]]:
    return [(layer.digest, layer.size) for layer in layers]


async def pull(store: ImageStore, name: Reference, insecure: bool, progress: Progress) -> Image:
    """The whole way from a reference to an image in the store (see :meth:`ImageStore.pull`)."""
    unpackers = Unpackers(store.inst)
    known = store.store.disk.read("SELECT 1 FROM tag WHERE reference = ?", (str(name),))
    # Where there will be something to unpack, the server starts while we wait for the registry.
    early = None if known else asyncio.create_task(unpackers.start())
    try:
        async with Registry(name, insecure=insecure) as registry:
            found = await find(registry, store.content)
            fetcher = Fetcher(store.inst, registry, store.content, unpackers, progress)
            return await _assemble(store, found, name, fetcher, Assembly(store, unpackers, progress))
    finally:
        if early:
            await asyncio.gather(early, return_exceptions=True)
        await unpackers.close(wait=False)


async def _assemble(store: ImageStore, found: Found, name: Reference, fetcher: Fetcher, assembly: Assembly) -> Image:
    wanted = wanted_layers(found.config.diffids, blobs(found.manifest.layers))
    # Beside the layers: the disk takes milliseconds to sync two small files.
    keep = asyncio.create_task(asyncio.to_thread(found.keep, store.content))
    try:
        while True:
            keys = await assembly.run(wanted, fetcher.obtain)
            await keep
            new = NewImage(
                id=found.manifest.config.digest,
                config=found.config_data,
                manifest=found.data,
                manifest_digest=found.digest,
                manifest_type=found.kind,
                layers=keys,
                tags=[] if name.digest else [str(name)],
                digests=[f"{name.name}@{found.listed}"],
            )
            if image := await store.commit(new):
                return image
    finally:
        await asyncio.gather(keep, return_exceptions=True)
