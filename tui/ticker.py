"""The one tick: every second the counters of what is shown; the lists only when the engine says that they changed.

Nothing else in the workstation polls. A tick that takes longer than a second is not followed by another at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from core.engine import Engine
from core.errors import NotFound, WharfError
from core.model import Reach
from tui.snapshot import Rates, Snapshot

TICK = 1.0  # seconds
PORTS = 15.0  # seconds after which it is looked anew who can reach the ports: the host's firewall tells nobody
SETTLE = 0.04  # seconds in which further changes join one refresh


class Ticker:
    """Reads the engine and hands out snapshots.

    :param publish: gets each new snapshot
    :param complain: gets an error (once until the engine answers again)
    :param wanted: the ids of the live containers whose counters are shown; ``None``: all
    :param traffic: whether anybody shows what passes by each interface
    """

    def __init__(
        self,
        engine: Engine,
        publish: Callable[[Snapshot], None],
        complain: Callable[[WharfError], None],
        wanted: Callable[[], Sequence[str] | None],
        traffic: Callable[[], bool] = lambda: False,
    ) -> None:
        self._engine = engine
        self._publish = publish
        self._complain = complain
        self._wanted = wanted
        self._traffic = traffic
        self._rates = Rates()
        self._dirty = asyncio.Event()
        self._awake = asyncio.Event()
        self._awake.set()
        self._tasks: list[asyncio.Task[None]] = []
        self._told = False
        self._looked = 0.0  # at the ports, on the clock of time.monotonic()
        self.snapshot = Snapshot()

    def start(self) -> None:
        """Begin to listen and to tick."""
        self._dirty.set()
        for work in (self._listen, self._lists, self._meters):
            self._tasks.append(asyncio.create_task(self._forever(work), name=f"ticker {work.__name__}"))

    async def stop(self) -> None:
        """End all reading."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def pause(self) -> None:
        """While somebody else has the terminal: read nothing."""
        self._awake.clear()

    def resume(self) -> None:
        """Go on, at once with fresh lists."""
        self._awake.set()
        self._dirty.set()

    def refresh(self) -> None:
        """The lists are out of date."""
        self._dirty.set()

    async def _forever(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Exception as error:  # a bug must not freeze the screen without a word
                self._failed(WharfError("this is a bug in Wharfinger", f"{type(error).__name__}: {error}"))
                await asyncio.sleep(TICK)

    async def _listen(self) -> None:
        # From a moment ago on: a change between the first list and the first wait would otherwise be missed.
        since = time.time() - 1.0
        while True:
            try:
                async for event in self._engine.events(since=since):
                    since = max(since, event.time)
                    self._dirty.set()
            except WharfError as error:
                self._failed(error)
            await asyncio.sleep(5.0)  # the change log went away (a new data root): look again, without haste

    async def _lists(self) -> None:
        while True:
            await self._dirty.wait()
            await self._awake.wait()
            self._dirty.clear()
            try:
                containers = await self._engine.containers()
                images = await self._engine.images()
                networks = await self._engine.networks()
            except WharfError as error:
                self._failed(error)
                await asyncio.sleep(TICK)
                self._dirty.set()
                continue
            self._told = False
            live = {c.id for c in containers if c.state.live}
            self._rates.keep(live)
            usage = {cid: used for cid, used in self.snapshot.usage.items() if cid in live}
            self._put(
                listed=True, containers=tuple(containers), images=tuple(images), networks=tuple(networks), usage=usage
            )
            await self._look_at_ports(any(container.ports for container in containers))
            await asyncio.sleep(SETTLE)

    async def _look_at_ports(self, there: bool) -> None:
        """Who can reach the published ports: after the lists, which need not wait for the firewall."""
        self._looked = time.monotonic()
        found: dict[str, tuple[Reach, ...]] = {}
        if there:
            try:
                for one in await self._engine.reach():
                    found[one.container] = (*found.get(one.container, ()), one)
            except WharfError:
                return  # the screens about ports say why
        if found != self.snapshot.reach:
            self._put(reach=found)

    async def _meters(self) -> None:
        while True:
            await self._awake.wait()
            began = time.monotonic()
            try:
                host = self._rates.host(await self._engine.host_sample())
                wanted = self._wanted()
                samples = await self._engine.stats(wanted) if wanted is None or wanted else []
                used = self._rates.add(samples)
                live = {c.id for c in self.snapshot.containers if c.state.live}
                usage = {cid: each for cid, each in (self.snapshot.usage | used).items() if cid in live}
                flows = self._rates.interfaces(await self._engine.interfaces() if self._traffic() else ())
                self._put(host=host, usage=usage, traffic=flows)
                if self.snapshot.reach and began - self._looked > PORTS:
                    await self._look_at_ports(True)
            except NotFound:
                self._dirty.set()  # one of them went between the list and the reading
            except WharfError as error:
                self._failed(error)
            await asyncio.sleep(max(TICK / 2, TICK - (time.monotonic() - began)))

    def _put(self, **changes: object) -> None:
        self.snapshot = replace(self.snapshot, now=time.time(), **changes)  # type: ignore[arg-type]
        self._publish(self.snapshot)

    def _failed(self, error: WharfError) -> None:
        if not self._told:
            self._told = True
            self._complain(error)
