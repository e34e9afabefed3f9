"""What every verb works with."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import TYPE_CHECKING

from core.store.tell import append

if TYPE_CHECKING:
    from core.cgroups import Sampler
    from core.images.store import ImageStore
    from core.model import Event
    from core.net import Net
    from core.store.changes import Watch
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
            from core.store.changes import Watch  # late: most verbs change or look, and go

            watch = Watch(self._inst.events)
            self._task = asyncio.create_task(self._pump(watch), name="events")
        queue: asyncio.Queue[Event] = asyncio.Queue()
        self._queues.add(queue)
        return Subscription(self, queue)

    async def _pump(self, watch: Watch) -> None:
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


class Context:
    """The mechanisms of one instance. Each is loaded and opened when a verb first asks for it: `ps` needs none."""

    def __init__(self, inst: Instance, store: Store, undos: Mapping[str, Undo]) -> None:
        self.inst = inst
        self.store = store
        self.undos = undos
        self.hub = Hub(inst)
        self._behind: set[asyncio.Task[None]] = set()

    @functools.cached_property
    def net(self) -> Net:
        from core.kernel import netns
        from core.net import Net

        if netns.administered():
            return Net(self.inst, self.store)
        from core.rootless.network import shared_network

        return Net(self.inst, self.store, shared_network())

    @functools.cached_property
    def images(self) -> ImageStore:
        from core.images.store import ImageStore

        return ImageStore(self.inst, self.store)

    @functools.cached_property
    def sampler(self) -> Sampler:
        from core.cgroups import Sampler

        return Sampler()

    def tell(self, kind: str, action: str, oid: str, **attributes: str) -> None:
        """Publish a change to every open engine."""
        append(self.inst.events, kind, action, oid, **attributes)

    def behind(self, work: Coroutine[None, None, None]) -> None:
        """Have ``work`` done while nobody waits; :meth:`close` sees it finished."""
        task = asyncio.create_task(work)
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)

    async def close(self) -> None:
        """Let go of everything; containers run on."""
        await asyncio.gather(*self._behind, return_exceptions=True)
        await self.hub.close()
        opened = vars(self)
        if "net" in opened:
            await self.net.close()
        if "images" in opened:
            await self.images.close()
        if "sampler" in opened:
            self.sampler.close()
        self.store.close()
