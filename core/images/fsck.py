"""Is everything in the store as it was written? Each blob and layer against its digest, the rows against each other."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from core.errors import Corrupt
from core.images import split
from core.images.layers import Staging, hex_of, release
from core.images.manifest import parse_config
from core.images.reference import parse
from core.images.unpackers import Unpackers, in_thread
from core.model import Checked, Damage

if TYPE_CHECKING:
    from core.images.store import ImageStore

_AT_ONCE = 2  # layers: each keeps a processor busy
_EVERY = 0.2  # seconds between two reports while layers are read


@dataclass
class Fault:
    """Something that is wrong, and what became of it."""

    kind: str  # blob, layer, image, database
    id: str
    why: str
    images: list[str] = field(default_factory=list)  # ids
    names: list[str] = field(default_factory=list)  # of these images
    whole: bool = False  # a layer whose archive is right: only attributes or the index are wrong
    unknown: bool = False  # nothing can be said of it: not a reason to remove it
    busy: bool = False  # somebody works with it: neither may it be replaced now, nor removed
    done: str = ""
    mended: bool = False

    def told(self) -> Damage:
        return Damage(self.kind, self.id, self.why, tuple(self.names), self.done, self.mended)


class Check:
    """One look at everything."""

    def __init__(self, store: ImageStore, unpackers: Unpackers) -> None:
        self._store = store
        self._unpackers = unpackers
        self._sizes: dict[str, int] = {}  # layer → bytes of its archive that were read
        self._open: list[tuple[Staging, int]] = []  # what workers are at, and the lease of the layer
        self._done = 0
        self._total = 0
        self.faults: list[Fault] = []

    def report(self, what: str, *, last: bool = False) -> Checked:
        damages = [fault.told() for fault in self.faults] if last else ()
        return Checked(what, self._done, self._total, sum(self._sizes.values()), damages)

    async def run(self) -> AsyncGenerator[Checked, None]:
        """Look; :attr:`faults` is complete at the end."""
        db = self._store.store.disk
        blobs = await db.run(lambda: db.read("SELECT digest FROM blob ORDER BY digest"))
        layers = await db.run(lambda: db.read("SELECT id, diffid FROM layer ORDER BY id"))
        self._total = len(blobs) + len(layers)
        yield self.report("the database")
        self.faults += await db.run(lambda: list(_rows(self._store)))
        for row in blobs:
            self.faults += await asyncio.to_thread(_blob, self._store, row["digest"])
            self._done += 1
        yield self.report("blobs")
        async with contextlib.aclosing(self._layers([(row["id"], row["diffid"]) for row in layers])) as steps:
            async for step in steps:
                yield step
        await db.run(self._name)

    async def damage(self, key: str, diffid: str) -> str:
        """What is wrong with this layer, if it is there; "" for nothing."""
        async with contextlib.aclosing(self._layers([(key, diffid)])) as steps:
            async for _ in steps:
                pass
        return next((fault.why for fault in self.faults if not fault.busy), "")

    async def _layers(self, rows: Sequence[tuple[str, str]]) -> AsyncGenerator[Checked, None]:
        slots = asyncio.Semaphore(_AT_ONCE)
        tasks = [asyncio.create_task(self._layer(*row, slots)) for row in rows]
        waiting = set(tasks)
        try:
            while waiting:
                finished, waiting = await asyncio.wait(waiting, timeout=_EVERY, return_when=asyncio.FIRST_COMPLETED)
                for task in finished:
                    task.result()
                yield self.report("layers")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._open:
                # A worker that still runs would write into what is being deleted.
                await self._unpackers.close(wait=True)
                for work in self._open:
                    await asyncio.to_thread(self._close, *work)

    async def _layer(self, key: str, diffid: str, slots: asyncio.Semaphore) -> None:
        async with slots:
            fault = await self._look(key, diffid)
            # One that was removed meanwhile is nobody's damage.
            if fault is not None and await asyncio.to_thread(_exists, self._store, key):
                self.faults.append(fault)
            self._done += 1

    async def _look(self, key: str, diffid: str) -> Fault | None:
        layers = self._store.layers
        held = layers.hold(key)
        if held is None:
            if layers.folder(key).exists():
                return Fault("layer", key, "it could not be read: somebody is about to delete it", busy=True)
            return Fault("layer", key, "its folder is missing")
        work = (layers.stage(), held)
        self._open.append(work)
        verdict = await self._unpackers.check(held, work[0].fd, lambda done: self._read(key, done))
        try:
            await in_thread(lambda: self._close(*work))
        finally:
            self._open.remove(work)
        self._read(key, verdict.size)
        whole = verdict.diffid == diffid
        if whole and not verdict.problems:
            return None
        problems = list(verdict.problems)
        if verdict.diffid and not whole:
            problems.append(f"its archive has the digest {verdict.diffid}")
        unknown = not verdict.diffid and not split.exists(layers.folder(key))
        return Fault("layer", key, "; ".join(problems), whole=whole, unknown=unknown)

    def _close(self, staging: Staging, held: int) -> None:
        release(held)
        self._store.layers.discard(staging)

    def _read(self, key: str, size: int) -> None:
        self._sizes[key] = size

    def _name(self) -> None:
        """Note which images each fault is part of."""
        read = self._store.store.disk.read
        for fault in self.faults:
            if fault.kind == "layer":
                rows = read("SELECT DISTINCT image FROM image_layer WHERE layer = ? ORDER BY image", (fault.id,))
            elif fault.kind in ("blob", "image"):
                sql = "SELECT id AS image FROM image WHERE id = ? OR manifest_digest = ? ORDER BY id"
                rows = read(sql, (fault.id, fault.id))
            else:
                continue
            fault.images = [row["image"] for row in rows]
            for image in fault.images:
                tags = read("SELECT reference FROM tag WHERE image = ? ORDER BY reference", (image,))
                fault.names += [parse(row["reference"]).familiar for row in tags] or [hex_of(image)[:12]]


def _exists(store: ImageStore, key: str) -> bool:
    return bool(store.store.disk.read("SELECT 1 FROM layer WHERE id = ?", (key,)))


def _blob(store: ImageStore, digest: str) -> Iterator[Fault]:
    try:
        data = store.content.path(digest).read_bytes()
    except OSError as error:
        yield Fault("blob", digest, f"it cannot be read: {error.strerror}")
        return
    found = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if found != digest:
        yield Fault("blob", digest, f"its content has the digest {found}")


def _rows(store: ImageStore) -> Iterator[Fault]:
    """The database itself, then every image's row against its layers'."""
    read = store.store.disk.read
    for row in read("PRAGMA quick_check(10)"):
        if row[0] != "ok":
            yield Fault("database", "wharf.db", str(row[0]))
    for row in read("PRAGMA foreign_key_check"):
        yield Fault("database", "wharf.db", f"a row of {row[0]} refers to a row of {row[2]} that does not exist")
    for row in read("SELECT id, config FROM image ORDER BY id"):
        data = row["config"].encode()
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != row["id"]:
            yield Fault("image", row["id"], "its configuration does not match its id")
            continue
        sql = "SELECT diffid FROM image_layer JOIN layer ON layer.id = layer WHERE image = ? ORDER BY position"
        found = tuple(layer["diffid"] for layer in read(sql, (row["id"],)))
        try:
            wanted = parse_config(data).diffids
        except Corrupt as error:
            yield Fault("image", row["id"], error.why)
            continue
        if found != wanted:
            yield Fault("image", row["id"], f"it has {len(found)} layers and should have {len(wanted)}, or others")
