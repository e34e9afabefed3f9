"""What every verb works with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass, field

from core.cgroups import Sampler
from core.images.store import ImageStore
from core.model import Event
from core.net import Net
from core.store import changes
from core.store.db import Store
from core.store.journal import Undo
from core.store.paths import Instance


class Hub:
    """One inotify watch per process, many listeners."""

    def __init__(self, inst: Instance) -> None:
        self._inst = inst
        self._queues: set[asyncio.Queue[Event]] = set()
        self._task: asyncio.Task[None] | None = None

    def subscribe(self) -> Subscription:
        """Start listening now; nothing written after this call is missed.

        :raises Unavailable: the host's inotify limits are used up
        """
        if self._task is None:
            watch = changes.Watch(self._inst.events)
            self._task = asyncio.create_task(self._pump(watch), name="events")
        queue: asyncio.Queue[Event] = asyncio.Queue()
        self._queues.add(queue)
        return Subscription(self, queue)

    async def _pump(self, watch: changes.Watch) -> None:
        async for event in watch:
            for queue in self._queues:
                queue.put_nowait(event)

    def drop(self, queue: asyncio.Queue[Event]) -> None:
        self._queues.discard(queue)

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class Subscription:
    """One listener of a :class:`Hub`; use it as ``with`` block and iterate."""

    def __init__(self, hub: Hub, queue: asyncio.Queue[Event]) -> None:
        self._hub = hub
        self._queue = queue

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *exc: object) -> None:
        self._hub.drop(self._queue)

    async def next(self) -> Event:
        return await self._queue.get()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            yield await self._queue.get()


@dataclass
class Context:
    """The open mechanisms of one instance."""

    inst: Instance
    store: Store
    net: Net
    images: ImageStore
    hub: Hub
    sampler: Sampler
    undos: Mapping[str, Undo] = field(default_factory=dict)
    _behind: set[asyncio.Task[None]] = field(default_factory=set)

    def tell(self, kind: str, action: str, oid: str, **attributes: str) -> None:
        """Publish a change to every open engine."""
        changes.append(self.inst.events, kind, action, oid, **attributes)

    def behind(self, work: Coroutine[None, None, None]) -> None:
        """Have ``work`` done while nobody waits; :meth:`close` sees it finished."""
        task = asyncio.create_task(work)
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)

    async def close(self) -> None:
        """Let go of everything; containers run on."""
        await asyncio.gather(*self._behind, return_exceptions=True)
        await self.hub.close()
        await self.net.close()
        await self.images.close()
        self.sampler.close()
        self.store.close()
