"""``Net``: the networks of one instance, for the verbs. Every kernel conversation happens in one worker thread.

One thread, because a netlink request blocks until the kernel is done with it and the kernel does one at a time; and
because setns(2) moves a single thread, so that the event loop never finds itself inside a container.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from socket import socket
from typing import TYPE_CHECKING, TypeVar

from core.dns.sockets import open_sockets
from core.errors import WharfError
from core.kernel import netns
from core.model import EndpointInfo, EndpointSpec, Network, NetworkSpec, PortMapping
from core.net import links, meters, networks, pools, publish, recovery
from core.net.access import Access
from core.net.host import Attachment, Host
from core.net.publish import Published
from core.net.serving import Order
from core.net.shared import Shared
from core.net.step import step
from core.net.watch import Watch
from core.store.db import Store
from core.store.paths import Instance

if TYPE_CHECKING:
    from core.net.reach import Scene

T = TypeVar("T")
_GRACE = 1.0  # seconds that the kernel gets to remove a dead namespace by itself
_LULL = 0.005  # seconds after an attach: the container is not up yet, and its start needs the processor


class Net(Access):
    """Attach containers to networks, publish their ports, and give everything back.

    All methods raise only :mod:`core.errors`; a cancelled call leaves nothing behind that :meth:`detach` would not
    release.
    """

    def __init__(self, inst: Instance, store: Store, shared: Shared | None = None) -> None:
        """:param shared: where an ordinary user's networks are; None: in the host's own network namespace"""
        self._host = Host(inst, store, shared)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="net")
        self._watcher: asyncio.Task[None] | None = None
        self._reapers: set[asyncio.TimerHandle] = set()
        self._preparing: asyncio.TimerHandle | None = None
        self._closing = False
        super().__init__(shared)

    async def _do(self, work: Callable[[], T], lost: Callable[[T], None] | None = None) -> T:
        """Run ``work`` in the worker. Where the caller is cancelled meanwhile, ``lost`` gets what nobody took."""
        return await self._taken(self._thread.submit(lambda: self._host.at_home(work)), lost)

    async def _do_with(
        self, namespace: int, what: str, work: Callable[[int], T], lost: Callable[[T], None] | None = None
    ) -> T:
        """:meth:`_do` with a descriptor of its own: the worker may still be at it when a caller that was cancelled has
        closed theirs.

        :param what: completes "cannot …"
        """
        given = os.dup(namespace)

        def inside() -> T:
            with step(what):
                return work(given)

        def run() -> T:
            try:
                return self._host.at_home(inside)
            finally:
                os.close(given)

        return await self._taken(self._thread.submit(run), lost)

    async def _taken(self, future: Future[T], lost: Callable[[T], None] | None) -> T:
        try:
            return await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            if lost is not None:
                future.add_done_callback(lambda done: None if done.exception() else lost(done.result()))
            raise

    async def close(self) -> None:
        """Finish what is under way, stop watching; nothing in the kernel is undone."""
        self._closing = True
        if self._preparing is not None:
            self._preparing.cancel()
        for reaper in self._reapers:
            reaper.cancel()  # what it would have deleted goes by itself, or by the next recovery
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await asyncio.wrap_future(self._thread.submit(self._host.close))
        self._thread.shutdown(wait=True)

    async def ensure(self, network: str) -> Network:
        """The network by name or id, with its bridge and the firewall in place.

        :raises NotFound: no such network
        :raises Conflict: something else on the host uses its subnet
        """

        def work() -> Network:
            with step("set up the network"):
                return self._host.ensure(network)[0]

        return await self._do(work)

    async def attach(
        self,
        network: Network | str,
        cid: str,
        want: EndpointSpec | None = None,
        *,
        name: str = "eth0",
        namespace: int | None = None,
        default: bool = True,
        home: links.Home | None = None,
    ) -> Attachment:
        """A new namespace for the container, on the network: addresses, default route, lo, everything up.

        :param want: how it is to be there
        :param name: of the interface in the container
        :param namespace: one that is there already: of the container's user namespace, or of one that runs
        :param default: in such a namespace: this network is the way to all others
        :param home: gets a descriptor of a new namespace, its own, as soon as there is one, from another thread; it has
            no addresses yet, and nothing in it but lo is up
        :raises NotFound: no such network
        :raises Conflict: no free address, or a wanted one is taken
        :raises InvalidArgument: a wanted address is outside the network
        """
        ref = network if isinstance(network, str) else network.id
        self.check(ref)
        wanted = want or EndpointSpec(ref)

        def work(given: int | None = None) -> Attachment:
            made = self._host.attach(ref, cid, wanted, wanted.interface or name, given, default=default, home=home)
            return made if given is None else replace(made, netns_fd=os.dup(given))

        def lost(made: Attachment) -> None:
            os.close(made.netns_fd)

        if namespace is None:
            try:
                return await self._do(work, lost)
            finally:
                self._prepare_later()
        return await self._do_with(namespace, "set up the network", work, lost)

    def _prepare_later(self) -> None:
        """In an engine that stays open; not in an ordinary user's network, where a start is slower by far anyway."""
        if self._watcher is None or self._preparing is not None or self._closing or not self._host.is_outside:
            return

        loop = asyncio.get_running_loop()

        def again(more: Future[bool]) -> None:
            if more.result():
                loop.call_soon_threadsafe(self._prepare_later)

        def work() -> None:
            self._preparing = None
            # One by one: whoever wants the worker meanwhile waits for one at most.
            self._thread.submit(lambda: self._host.spares.add(self._host.rtnl)).add_done_callback(again)

        self._preparing = loop.call_later(_LULL, work)

    async def set_default(self, namespace: int, ends: Sequence[EndpointInfo]) -> None:
        """Make the first of ``ends`` that has a gateway the way out of a namespace."""
        order = tuple(ends)
        await self._do_with(namespace, "set the default route", lambda given: links.set_default(given, order))

    async def new_netns(self) -> int:
        """A namespace with nothing but lo, for the network ``none``; the caller owns the descriptor."""

        def work() -> int:
            with step("make a network namespace"):
                return links.new_namespace()

        return await self._do(work, os.close)

    async def set_loopback_up(self, namespace: int) -> None:
        """Make a namespace that is there already what :meth:`new_netns` makes."""
        await self._do_with(namespace, "make a network namespace", links.set_loopback_up)

    async def open_resolver(self, namespace: int) -> tuple[socket, socket]:
        """(UDP, TCP) for the container's monitor, which answers there; see :mod:`core.dns.sockets`. The caller owns
        them."""

        def lost(pair: tuple[socket, socket]) -> None:
            for each in pair:
                each.close()

        return await self._do_with(namespace, "give the container a resolver", open_sockets, lost)

    async def renamed(self, cid: str) -> None:
        """Have the new name of a container, which is in its row, known on its networks."""
        await self._do(lambda: self._host.rename(cid))

    async def publish(
        self, cid: str, ends: Sequence[EndpointInfo], ports: Iterable[PortMapping], kept: Collection[str] = ()
    ) -> Published:
        """Make ports of the container with these places reachable on the host: all of them, or none.

        Keep the returned sockets open while the container lives (the monitor does): they reserve the ports.

        :param kept: names of those that it has already
        :raises PortTaken: a container or a process has one; ``why`` names it
        :raises InvalidArgument: not a port, a protocol or an address of this host
        :raises Conflict: no network of the container has a way in
        """
        wanted, places, had = tuple(ports), tuple(ends), frozenset(kept)
        return await self._do(lambda: publish.publish(self._host, cid, places, wanted, had), Published.close)

    async def unpublish(self, cid: str, ports: Collection[PortMapping]) -> list[str]:
        """Close ports, as they are bound, of a container that goes on; connections by them end.

        :returns: names of the reservations that are not needed any more
        """
        gone = tuple(ports)
        return await self._do(lambda: publish.unpublish(self._host, cid, gone))

    async def move_ports(
        self, cid: str, ends: Sequence[EndpointInfo], ports: Collection[PortMapping]
    ) -> list[PortMapping]:
        """Have open ports lead to where the container is reached with these places; returns those that do."""
        places, bound = tuple(ends), tuple(ports)
        return await self._do(lambda: publish.move(self._host, cid, places, bound))

    async def serving(self, cid: str) -> list[Order]:
        """What the container's proxy is to listen on now, as its monitor understands it."""
        return await self._do(lambda: publish.serving(self._host, cid))

    async def published(self, cid: str) -> list[PortMapping]:
        """What is open for a container at this moment, by the tables."""
        return await self._do(lambda: publish.published(self._host, cid))

    async def detach(self, cid: str, network: str | None = None) -> None:
        """Give back everything of the container, or all that it has on one network (its id); a second time does
        nothing.

        The wire is cut at once. It vanishes with the last process or descriptor that holds the namespace, or a second
        later if this object is still open by then.
        """
        if names := await self._do(lambda: self._host.detach(cid, network)):
            self._reap_later(names)

    def _reap_later(self, names: list[str]) -> None:
        def work() -> None:
            self._reapers.discard(timer)
            self._thread.submit(self._host.reap, names)

        timer = asyncio.get_running_loop().call_later(_GRACE, work)
        self._reapers.add(timer)

    async def unplug(self, namespace: int, name: str) -> None:
        """Take an interface away from a container that goes on; one that is gone is no error."""
        await self._do_with(namespace, "disconnect the container", lambda given: links.remove_inside(given, name))

    async def create_network(self, spec: NetworkSpec) -> Network:
        """Check and record a network; see :func:`core.net.networks.create`.

        :raises NoPrivilege: of an ordinary user
        """
        self.check(spec.name)
        return await self._do(lambda: networks.create(self._host, spec))

    async def scene(self) -> Scene:
        """What decides who reaches a published port; see :mod:`core.net.reach`."""
        from core.net.reach import look

        def work() -> Scene:
            with step("look at the firewall"):
                return look(self._host)

        return await self._do(work)

    async def remove_network(self, network: str) -> Network:
        """Delete a network without containers; the firewall entries go with it, the table with the last one.

        :raises NotFound: no such network
        :raises InUse: containers are attached
        """
        return await self._do(lambda: networks.remove(self._host, network))

    async def remove_all(self) -> None:
        """Take the whole instance out of the kernel: every network, its bridge, the firewall table.

        :raises InUse: containers are attached
        """

        def work() -> None:
            for network in pools.every(self._host.store.disk):
                networks.remove(self._host, network.id)

        await self._do(work)

    async def counters(self, interfaces: Iterable[str]) -> dict[str, tuple[int, int]]:
        """(received, sent) bytes as the containers see them, by ``EndpointInfo.interface``."""
        names = tuple(interfaces)

        def work() -> dict[str, tuple[int, int]]:
            with step("read the interface counters"):
                return meters.totals(self._host, names)

        return await self._do(work)

    async def look(self, what: str, work: Callable[[Host], T], pid: int = 0) -> T:
        """What ``work`` finds out in the worker thread; it changes nothing, and waits for nobody.

        :param what: completes "cannot …"
        :param pid: do it inside the network namespace of that process; 0: in the host's
        :raises Unavailable: the kernel refused, or the process has ended
        """

        def inside() -> T:
            with step(what):
                if not pid:
                    return work(self._host)
                return netns.within(pid, lambda: work(self._host))

        return await self._do(inside)

    async def describe(self) -> list[Network]:
        """All networks with the containers attached now, and ``host`` and ``none`` as Docker lists them."""
        if not self._allowed:
            return [self._pseudo(name, 0.0) for name in ("none", "host")]

        def work() -> list[Network]:
            with step("list the networks"):
                self._host.network(pools.DEFAULT)
                attached = self._host.attached()
                found = pools.every(self._host.store.disk)
                return [replace(n, containers=tuple(attached.get(n.id, ()))) for n in found]

        rows = await self._do(work)
        return [*rows, *(self._pseudo(name, rows[0].created) for name in ("host", "none"))]

    def _pseudo(self, name: str, created: float) -> Network:
        """A network that needs nothing from the kernel; its id is the same every time."""
        digest = hashlib.sha256(f"{self._host.inst.root}\0{name}".encode()).hexdigest()
        return Network(id=digest, name=name, driver="host" if name == "host" else "null", created=created)

    async def recover(self, live: Collection[str] | None, pids: Mapping[str, int] | None = None) -> list[str]:
        """Make kernel and database equal: release what belongs to containers that are not in ``live``, and make again
        what live ones lack. Says what it did, one line each.

        :param live: ids of containers that run, or are being started by somebody; None: all that have an address
        :param pids: a process of each running container, by id; without one a lost veth pair stays lost
        """
        if not self._allowed:
            return []
        known, processes = None if live is None else frozenset(live), dict(pids or {})

        def work() -> list[str]:
            with step("recover the networks"):
                return recovery.recover(self._host, known, processes)

        return await self._do(work)

    async def restore(self) -> bool:
        """Make the firewall what the database says; True where that changed anything."""

        def work() -> bool:
            with step("restore the firewall"):
                # While nobody is attached nothing is missed, but for the guard of a host that we made a router.
                rows = "SELECT 1 FROM endpoint UNION SELECT 1 FROM forwarding LIMIT 1"
                return self._host.restore() if self._host.store.run.read(rows) else False

        return await self._do(work)

    def watch(self) -> None:
        """From now until :meth:`close`, put the firewall right whenever somebody else changes it (``nft flush
        ruleset``, a firewalld reload, Docker starting). For engines that stay open."""
        if self._watcher is None and self._allowed:
            self._watcher = asyncio.get_running_loop().create_task(self._watch(), name="net.watch")

    async def _watch(self) -> None:
        made = await self._do(lambda: Watch(self._host.inst.nft_table, self._host.netfilter.port), Watch.close)
        with contextlib.closing(made) as watch:
            async for _ in watch.changes():
                # A failure (no memory, no privilege left) is met again, and then told, by the next verb.
                with contextlib.suppress(WharfError):
                    await self.restore()


__all__ = ["Attachment", "Net", "Published"]
