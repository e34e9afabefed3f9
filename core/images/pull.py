"""Fetch one image from a registry: manifest, configuration, then the layers, unpacked while they arrive."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from core.errors import Corrupt, NoPlatform, NotFound, Unavailable, Unsupported
from core.images import listing, manifest, platforms
from core.images.assemble import Assembly, Stale, Wanted, wanted_layers
from core.images.content import Content
from core.images.layers import Staging, hex_of
from core.images.manifest import Config, Descriptor, Index, Manifest, Platform
from core.images.partwriter import PartWriter
from core.images.progress import Progress
from core.images.records import NewImage
from core.images.reference import Reference
from core.images.registry import Cut, Registry
from core.images.unpackers import Result, Unpackers, poke, wake_pipe
from core.model import Image
from core.store.config import load as load_settings
from core.store.lock import drop_lock_file, object_lock
from core.store.paths import Instance

if TYPE_CHECKING:
    from core.images.store import ImageStore


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


async def find(store: ImageStore, registry: Registry, wanted: Platform | None = None) -> Found:
    """Read manifest and configuration; what is kept already is not fetched again.

    :param wanted: the platform that was asked for; None: this machine's, or whatever there is where there is no choice
    :raises NotFound: no such image or tag; :raises NoPlatform: not for the platform
    """
    if kept := await _unchanged(store, registry, wanted):
        return kept
    content = store.content
    data, kind, digest = await registry.manifest(registry.reference.version)
    document, listed = manifest.parse(data, kind), digest
    if isinstance(document, Index):
        entry = manifest.choose(document, wanted or manifest.host_platform())
        digest, known = entry.digest, content.read(entry.digest)
        if known is None:
            known, kind, _ = await registry.manifest(digest)
            document = manifest.parse(known, kind)
        else:
            document = manifest.parse(known)
            kind = str(manifest.read_json(known).get("mediaType") or kind)
        manifest.check_entry(entry, known, kind)
        data = known
    if isinstance(document, Index):
        raise Unsupported("the image's index leads to another index", "only one level is allowed", "Use another tag")
    config = document.config
    config_data = content.read(config.digest) or await registry.small_blob(config.digest, config.size)
    found = Found(digest, kind.partition(";")[0], data, listed, document, config_data)
    made = found.config
    if wanted and not platforms.same(wanted, made.os, made.architecture, made.variant):
        there = Platform(made.os, made.architecture, made.variant)
        raise NoPlatform(f"the image does not exist for {wanted}", f"it is for {there} only", "Use another")
    return found


async def _unchanged(store: ImageStore, registry: Registry, wanted: Platform | None) -> Found | None:
    """What is here, where the registry still means the same by the name; None: ask it for all.

    One HEAD tells, which registries do not count as a pull.
    """
    name = registry.reference
    rows = store.store.disk.read(
        "SELECT reference, image.id, manifest_digest, architecture, os FROM repo_digest JOIN image ON image.id = image"
        " WHERE reference GLOB ? AND manifest_digest <> ''",
        (f"{name.name}@{name.digest or '*'}",),
    )
    if not rows:
        return None
    digest = name.digest
    if not digest:
        try:
            digest, _ = await registry.head(name.tag)
        except Unavailable:
            return None  # some do not know HEAD
    for row in rows:
        if row["reference"] != f"{name.name}@{digest}":
            continue
        with contextlib.suppress(Corrupt):  # what the disk has damaged is fetched
            data, config = store.content.read(row["manifest_digest"]), store.content.read(row["id"])
            document = manifest.parse(data) if data else None
            if not isinstance(document, Manifest) or data is None or config is None:
                continue
            kind = str(manifest.read_json(data).get("mediaType") or manifest.MANIFESTS[0])
            found = Found(row["manifest_digest"], kind, data, digest, document, config)
            target = wanted or manifest.host_platform()
            if platforms.same(target, found.config.os, found.config.architecture, found.config.variant):
                return found
    return None


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
                        f"{self._registry.host} should have sent {item.blob} and sent {result.blob}",
                        "Try again; if it stays, the registry is damaged",
                    )
            except Corrupt:
                part.unlink(missing_ok=True)
                if have or self._registry.distrust():
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

        def written(size: int) -> None:
            poke(write)
            self._progress.set(item.position, "downloading", size)

        async with PartWriter(fd, have, written) as part:
            while (have := part.size) < item.size:
                try:
                    async with contextlib.aclosing(self._registry.blob(item.blob, have, item.size)) as pieces:
                        async for piece in pieces:
                            await part.add(piece)
                            failures = 0
                    await part.flush()
                except Cut as error:
                    await part.flush()
                    await self._registry.pause(failures, error)
                    failures += 1
        self._progress.set(item.position, "unpacking", 0)


def blobs(layers: tuple[Descriptor, ...]) -> list[tuple[str, int]]:
    return [(layer.digest, layer.size) for layer in layers]


async def pull(
    store: ImageStore, name: Reference, progress: Progress, *, insecure: bool = False, platform: str = ""
) -> Image:
    """The whole way from a reference to an image in the store (see :meth:`ImageStore.pull`)."""
    wanted = platforms.parse_platform(platform) if platform else None
    settings = load_settings()
    unpackers = Unpackers(store.inst)
    before = store.store.disk.read("SELECT image FROM tag WHERE reference = ?", (str(name),))
    # Where there will be something to unpack, the server starts while we wait for the registry.
    early = None if before else asyncio.create_task(unpackers.start())
    try:
        async with Registry(name, store.keyring, settings, insecure=insecure, notice=progress.note) as registry:
            try:
                found = await find(store, registry, wanted)
            except NotFound as error:
                raise await listing.with_nearest(registry, error) from error
            if not wanted:
                _warn_of_platform(found.config, progress)
            fetcher = Fetcher(store.inst, registry, store.content, unpackers, progress)
            image = await _assemble(store, found, name, fetcher, Assembly(store, unpackers, progress))
        progress.ended(found.listed, changed=name.digest != "" or not before or before[0]["image"] != image.id)
        return image
    finally:
        if early:
            await asyncio.gather(early, return_exceptions=True)
        await unpackers.close(wait=False)


def _warn_of_platform(made: Config, progress: Progress) -> None:
    """Where a name has no choice of platforms it is taken as it is, as docker does; to run it may be impossible."""
    here = manifest.host_platform()
    if not platforms.same(here, made.os, made.architecture, made.variant):
        there = Platform(made.os, made.architecture, made.variant)
        progress.note(f"the image is made for {there}, this machine is {here}")


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
