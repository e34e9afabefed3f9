"""Make the layers of one image present: up to four at once, largest first, each only once whoever asks."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import Corrupt, NoSpace
from core.images import room
from core.images.layers import Layers, Staging, chain_ids, hex_of, verify
from core.images.places import IMPLIED
from core.images.progress import Progress
from core.images.unpackers import Result, Unpackers
from core.store.lock import drop_lock_file, object_lock

if TYPE_CHECKING:
    from core.images.store import ImageStore

_AT_ONCE = 4


@dataclass(frozen=True)
class Wanted:
    """One layer of an image: where it lies in the stack, and the blob that holds it."""

    position: int
    diffid: str
    chainid: str
    blob: str  # digest; empty where only the diffID is known (docker save)
    size: int  # bytes of the blob


class Stale(Exception):
    """What an earlier try had left was bad; it has been thrown away: once more, from the start."""


Obtain = Callable[[Wanted, Staging], Awaitable[Result]]


def wanted_layers(diffids: Sequence[str], blobs: Sequence[tuple[str, int]]) -> list[Wanted]:
    """:param blobs: (digest, size) of each"""
    rows = zip(diffids, chain_ids(diffids), blobs, strict=True)
    return [Wanted(position, diffid, chain, *blob) for position, (diffid, chain, blob) in enumerate(rows)]


class Assembly:
    """One run over the layers of an image."""

    def __init__(self, images: ImageStore, unpackers: Unpackers, progress: Progress, *, local: bool = False) -> None:
        """:param local: the blobs lie on this host: nothing is downloaded"""
        self._inst = images.inst
        self._content = images.content
        self._local = local
        self._store = images.store
        self._layers = images.layers
        self._unpackers = unpackers
        self._progress = progress
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._keys: list[asyncio.Future[str]] = []
        self._open: list[Staging] = []
        self._seen: list[tuple[int, int]] = []  # bytes of each blob and of what was in it

    async def run(self, wanted: Sequence[Wanted], obtain: Obtain) -> list[str]:
        """The keys of all layers, lowest first, once each is there.

        :raises WharfError: the first failure; the others are cancelled, and nothing half-made stays
        :raises NoSpace: with how much is missing; what was downloaded stays for the next try
        """
        try:
            return await self._run(wanted, obtain)
        except (NoSpace, OSError) as error:
            if not room.is_full(error):
                raise
            left = [self._left(item) for item, key in zip(wanted, self._keys, strict=True) if not key.done()]
            raise room.missing(self._layers.root, left, self._seen) from error

    def _left(self, item: Wanted) -> tuple[int, int]:
        if self._local:
            return item.size, item.size
        try:
            return item.size, min(item.size, self._content.part(item.blob).stat().st_size)
        except FileNotFoundError:
            return item.size, 0

    async def _run(self, wanted: Sequence[Wanted], obtain: Obtain) -> list[str]:
        self._progress.begin([(item.blob or item.diffid, item.size) for item in wanted])
        loop = asyncio.get_running_loop()
        self._keys = [loop.create_future() for _ in wanted]
        order = sorted(wanted, key=lambda item: -item.size)
        tasks = [asyncio.create_task(self._one(item, obtain)) for item in order]
        try:
            if tasks:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.result()
            return [key.result() for key in self._keys]
        finally:
            await self._end(tasks)

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._open:
            # A worker that still runs would write into what is being deleted.
            await self._unpackers.close(wait=True)
            for staging in self._open:
                await asyncio.to_thread(self._layers.discard, staging)

    async def _one(self, item: Wanted, obtain: Obtain) -> None:
        made = None
        async with self._slots:
            lock = f"layer-{hex_of(item.diffid)}"
            async with object_lock(self._inst, lock, math.inf):
                key = await self._store.disk.run(lambda: self._layers.find(item.diffid, item.chainid))
                if key is None:
                    made = await self._make(item, obtain)
                    if not made[1].implied:
                        key = await self._publish(item, *made)
                elif (held := self._layers.hold(key)) is not None:
                    self._unpackers.held.append(held)
                drop_lock_file(self._inst, lock)
        if key is None and made is not None:
            # Without the slot and the lock: it waits for the layers below, which may need them.
            key = await self._adopt(item, *made)
        assert key is not None
        self._progress.set(item.position, "done" if made else "exists", item.size)
        self._keys[item.position].set_result(key)

    async def _make(self, item: Wanted, obtain: Obtain) -> tuple[Staging, Result]:
        while True:
            staging = self._layers.stage()
            self._open.append(staging)
            try:
                result = await obtain(item, staging)
            except Stale:
                await self._close(staging)
                continue
            except Corrupt as error:
                which = error.what.replace("the layer", f"layer {item.position + 1} of {len(self._keys)}", 1)
                raise Corrupt(which, error.why, error.fix) from error
            verify(f"layer {item.position + 1}", item.diffid, result.diffid)
            return staging, result

    async def _publish(self, item: Wanted, staging: Staging, result: Result, key: str = "") -> str:
        key = key or item.diffid
        implied, blob = bool(result.implied), result.blob
        await self._store.disk.run(lambda: self._layers.publish(staging, key, item.diffid, result.size, implied, blob))
        await self._close(staging)
        self._seen.append((item.size, result.size))
        # None where somebody has removed it at once: the commit will miss it, and it is made again.
        if (held := self._layers.hold(key)) is not None:
            self._unpackers.held.append(held)
        return key

    async def _adopt(self, item: Wanted, staging: Staging, result: Result) -> str:
        below = [self._layers.diff(await self._keys[index]) for index in reversed(range(item.position))]
        await asyncio.to_thread(_adopt, self._layers, staging, below)
        return await self._publish(item, staging, result, item.chainid)

    async def _close(self, staging: Staging) -> None:
        self._open.remove(staging)
        await asyncio.to_thread(self._layers.discard, staging)


def _adopt(layers: Layers, staging: Staging, below: list[Path]) -> None:
    names = (staging.path / IMPLIED).read_bytes().split(b"\0")
    layers.adopt(staging, names, below)
    (staging.path / IMPLIED).unlink()
