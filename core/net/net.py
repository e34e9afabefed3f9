"""``Net``: the networks of one instance, for the verbs. Every kernel conversation happens in one worker thread.

One thread, because a netlink request blocks until the kernel is done with it and the kernel does one at a time; and
because setns(2) moves a single thread, so that the event loop never finds itself inside a container.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from core.errors import NoPrivilege, WharfError
from core.kernel import netns
from core.model import Network, PortMapping
from core.net import links, pools, recovery
from core.net.host import Attachment, Host, Published, step
from core.net.watch import Watch
from core.store.db import Store
from core.store.paths import Instance

T = TypeVar("T")
_GRACE = 1.0  # seconds that the kernel gets to remove a dead namespace by itself


class Net:
    """Attach containers to networks, publish their ports, and give everything back.

    All methods raise only :mod:`core.errors`; a cancelled call leaves nothing behind that :meth:`detach` would not
    release.
    """

    def __init__(self, inst: Instance, store: Store) -> None:
        self._host = Host(inst, store)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="net")
        self._watcher: asyncio.Task[None] | None = None
        self._reapers: set[asyncio.TimerHandle] = set()
        # An ordinary user's engine may not touch the host's network: it has `none` and `host`, and makes nothing else.
        self._allowed = netns.administered()

    def default_for(self, ports: Collection[PortMapping]) -> str:
        """The network of a container that names none.

        :raises NoPrivilege: it has ports to publish, and an ordinary user cannot
        """
        if ports:
            self.check(pools.DEFAULT)
        return pools.DEFAULT if self._allowed else "none"

    def check(self, network: str) -> None:
        """:raises NoPrivilege: containers of an ordinary user cannot be on it"""
        if not self._allowed and network not in ("none", "host") and not network.startswith("container:"):
            raise NoPrivilege(
                f"an ordinary user's container cannot be on the network {network}",
                "bridges, addresses and published ports need CAP_NET_ADMIN in the host's network namespace",
                "Use --network none, or host for the network (and the ports) of this machine itself; or run wharf as "
                "root",
            )

    async def _do(self, work: Callable[[], T], lost: Callable[[T], None] | None = None) -> T:
        """Run ``work`` in the worker. Where the caller is cancelled meanwhile, ``lost`` gets what nobody took."""
        future: Future[T] = self._thread.submit(work)
        try:
            return await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            if lost is not None:
                future.add_done_callback(lambda done: None if done.exception() else lost(done.result()))
            raise

    async def close(self) -> None:
        """Finish what is under way, stop watching; nothing in the kernel is undone."""
        for reaper in self._reapers:
            reaper.cancel()  # what it would have deleted goes by itself, or by the next recovery
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await self._do(self._host.close)
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
        self, network: Network | str, cid: str, *, ip: str | None = None, namespace: int | None = None
    ) -> Attachment:
        """A new namespace for the container, on the network: address, default route, lo, everything up.

        :param namespace: one that is there already (it belongs to the container's user namespace)
        :raises NotFound: no such network
        :raises Conflict: no free address, or ``ip`` is taken
        :raises InvalidArgument: ``ip`` is outside the network
        """
        ref = network if isinstance(network, str) else network.id
        self.check(ref)
        # Of our own: the worker may still be at it when a caller that was cancelled has closed its descriptor.
        given = None if namespace is None else os.dup(namespace)

        def work() -> Attachment:
            try:
                return self._host.attach(ref, cid, ip, given)
            except BaseException:
                if given is not None:
                    os.close(given)
                raise

        return await self._do(work, lambda lost: os.close(lost.netns_fd))

    async def new_netns(self) -> int:
        """A namespace with nothing but lo, for the network ``none``; the caller owns the descriptor."""

        def work() -> int:
            with step("make a network namespace"):
                return links.new_namespace()

        return await self._do(work, os.close)

    async def set_loopback_up(self, namespace: int) -> None:
        """Make a namespace that is there already what :meth:`new_netns` makes."""
        given = os.dup(namespace)

        def work() -> None:
            try:
                with step("make a network namespace"):
                    links.set_loopback_up(given)
            finally:
                os.close(given)

        await self._do(work)

    async def publish(self, cid: str, ip: str, ports: Iterable[PortMapping]) -> Published:
        """Make ports of the container at ``ip`` reachable on the host: all of them, or none.

        Keep the returned sockets open while the container lives (the monitor does): they reserve the ports.

        :raises PortTaken: a container or a process has one; ``why`` names it
        :raises InvalidArgument: not a port, a protocol or an address of this host
        """
        wanted = tuple(ports)

        def lost(published: Published) -> None:
            for reserved in published.sockets:
                reserved.close()

        return await self._do(lambda: self._host.publish(cid, ip, wanted), lost)

    async def detach(self, cid: str) -> None:
        """Give back everything of the container; a second time does nothing.

        The wire is cut at once. It vanishes with the last process or descriptor that holds the namespace, or a second
        later if this object is still open by then.
        """
        if names := await self._do(lambda: self._host.detach(cid)):
            self._reap_later(names)

    def _reap_later(self, names: list[str]) -> None:
        def work() -> None:
            self._reapers.discard(timer)
            self._thread.submit(self._host.reap, names)

        timer = asyncio.get_running_loop().call_later(_GRACE, work)
        self._reapers.add(timer)

    async def remove_network(self, network: str) -> None:
        """Delete a network without containers; the firewall entries go with it, the table with the last one.

        :raises NotFound: no such network
        :raises InUse: containers are attached
        """
        await self._do(lambda: self._host.remove_network(network))

    async def remove_all(self) -> None:
        """Take the whole instance out of the kernel: every network, its bridge, the firewall table.

        :raises InUse: containers are attached
        """

        def work() -> None:
            for network in self._host.bridged():
                self._host.remove_network(network.id)

        await self._do(work)

    async def counters(self, interfaces: Iterable[str]) -> dict[str, tuple[int, int]]:
        """(received, sent) bytes as the containers see them, by ``EndpointInfo.interface``."""
        names = tuple(interfaces)

        def work() -> dict[str, tuple[int, int]]:
            with step("read the interface counters"):
                return self._host.counters(names)

        return await self._do(work)

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
                return self._host.restore() if self._host.store.run.read("SELECT 1 FROM endpoint LIMIT 1") else False

        return await self._do(work)

    def watch(self) -> None:
        """From now until :meth:`close`, put the firewall right whenever somebody else changes it (``nft flush
        ruleset``, a firewalld reload, Docker starting). For engines that stay open."""
        if self._watcher is None:
            self._watcher = asyncio.get_running_loop().create_task(self._watch(), name="net.watch")

    async def _watch(self) -> None:
        with contextlib.closing(Watch(self._host.inst.nft_table)) as watch:
            async for _ in watch.changes():
                # A failure (no memory, no privilege left) is met again, and then told, by the next verb.
                with contextlib.suppress(WharfError):
                    await self.restore()


__all__ = ["Attachment", "Net", "Published"]
