"""The worker thread's side of :class:`core.net.net.Net`: synchronous, owner of the netlink sockets.

Whatever changes the nft table or the ports happens inside a write transaction of run.db, the kernel's part before the
commit. That lock makes several engines and clean-ups one after another; and a process killed in between leaves either
rows whose kernel part is missing or a kernel part without rows, both of which :mod:`core.net.recovery` settles.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from socket import socket
from typing import NamedTuple, TypeVar

from core.errors import Conflict
from core.kernel import netns
from core.kernel import rtnetlink as rt
from core.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, Netlink
from core.kernel.nftables import Element, SetSpec
from core.model import EndpointInfo, EndpointSpec, Network, Subnet
from core.net import firewall, flows, foreign, guard, ipam, links, pools, ports, siblings, vlans, zones
from core.net.reserve import reserve
from core.net.shared import Outside, Shared
from core.net.spare import NAME, Lost, Spare, Spares
from core.net.step import step
from core.store.db import Store
from core.store.paths import Instance

T = TypeVar("T")
Place = Callable[[str], contextlib.AbstractContextManager[EndpointInfo]]  # given the host end's name
_TRUST = 1.0  # seconds for which a network that was whole is taken to be so; who breaks one is heard of by then


@dataclass(frozen=True)
class Attachment:
    """A container's place on a network. The caller owns ``netns_fd``; the network lives as long as anybody holds it."""

    netns_fd: int
    endpoint: EndpointInfo


def _versions(networks: Iterable[Network]) -> dict[str, set[int]]:
    """Bridges, with the versions of IP on them."""
    return {network.bridge: {one.version for one in network.subnets} for network in networks}


class _Seen(NamedTuple):
    """A network that was found, or made, whole."""

    network: Network
    way: links.Way
    until: float  # monotonic


class Host:
    """One per process, used by one thread."""

    def __init__(self, inst: Instance, store: Store, shared: Shared | None = None) -> None:
        self._shared = shared
        self._at_home = shared is None or shared.refusal is not None
        # Made by whoever makes this, so in the host's network: our own thread does not come back to it.
        self._outside = None if self._at_home else Outside()
        self.inst = inst
        self.store = store
        self._rtnl: Netlink | None = None
        self._netfilter: Netlink | None = None
        self._indices: dict[str, int] = {}
        self._seen: dict[str, _Seen] = {}
        self.spares = Spares(inst.link_prefix)
        self.zones = zones.Zones(inst.run, store.disk)

    @property
    def rtnl(self) -> Netlink:
        if self._rtnl is None:
            self._rtnl = Netlink(NETLINK_ROUTE)
        return self._rtnl

    @property
    def netfilter(self) -> Netlink:
        if self._netfilter is None:
            self._netfilter = Netlink(NETLINK_NETFILTER)
        return self._netfilter

    def close(self) -> None:
        self.spares.close()
        for opened in (self._rtnl, self._netfilter):
            if opened is not None:
                opened.close()
        self._rtnl = self._netfilter = None
        if self._outside is not None:
            self._outside.close()

    def at_home(self, work: Callable[[], T]) -> T:
        """Do something with the calling thread in the network namespace where the networks are.

        :raises Unavailable: it cannot be made
        """
        if not self._at_home and self._shared is not None:
            with step("enter the containers' network"):
                namespace = self._shared.open()
                try:
                    netns.enter(namespace)
                finally:
                    os.close(namespace)
            self._at_home = True
        return work()

    @property
    def is_outside(self) -> bool:
        """The networks are in the host's own namespace, where its ports are."""
        return self._outside is None

    def reserve(self, protocol: str, host_ip: str, number: int) -> tuple[int, socket | None]:
        """:func:`core.net.reserve.reserve`, of a port of the host"""
        if self._outside is None:
            return reserve(protocol, host_ip, number)
        return self._outside.do(lambda: reserve(protocol, host_ip, number))

    def routes(self, *versions: int) -> list[rt.Route]:
        """What is reached by now, of containers and of the host: new subnets must not be in the way of either."""
        there = [self.rtnl] if self._outside is None else [self.rtnl, self._outside.rtnl]
        return [route for nl in there for version in versions or (4,) for route in rt.routes(nl, version)]

    def default_mtu(self) -> int:
        return self._shared.mtu if self._shared is not None else links.default_mtu(self.rtnl, rt.routes(self.rtnl))

    # ─ networks ─

    def network(self, ref: str) -> Network:
        """The network's row; the default network gets one on its first use.

        :raises NotFound: no such network
        """
        found = pools.find(self.store.disk, ref)
        if found is not None:
            return found
        if ref == pools.DEFAULT:
            with self.store.disk.write() as con:
                # Again under the write lock: another process may have been first.
                if pools.find(self.store.disk, ref) is None:
                    used = [one.subnet for n in pools.every(self.store.disk) for one in n.subnets]
                    used += siblings.subnets(self)
                    subnet = pools.choose(self.routes(), used, self.first_choice())
                    pools.insert(con, pools.default(self.inst.bridge, subnet, self.default_mtu()))
        return pools.get(self.store.disk, ref)

    def known(self, ref: str) -> Network | None:
        """The row of a network that a container is on: while one is, nothing of it changes, and it stays."""
        seen = self._seen.get(ref)
        return seen.network if seen is not None else pools.find(self.store.disk, ref)

    def first_choice(self) -> int:
        """Where this instance begins its search for a subnet."""
        return zlib.crc32(self.inst.tag.encode()) if self.inst.tag else 0

    def shim(self, network: Network) -> str:
        """The name of the host's own interface on a macvlan network."""
        return f"{self.inst.shim_prefix}{network.id[:6]}"

    def ensure(self, ref: str) -> tuple[Network, links.Way]:
        """The network, and how containers are connected to it; whatever is missing is made. What was seen a
        moment ago is not looked at as thoroughly again, for each of a hundred containers.

        :raises NotFound: no such network, or the interface it is on is gone
        :raises Conflict: something else on the host uses its subnet
        """
        network = self.network(ref)
        seen = self._seen.get(network.id)
        if seen is not None and seen.network == network and time.monotonic() < seen.until and self._stands(seen):
            return network, seen.way
        network, way = self._ensure(network)
        self._seen[network.id] = _Seen(network, way, time.monotonic() + _TRUST)
        return network, way

    def _stands(self, seen: _Seen) -> bool:
        """The bridge and the table are there; whether they are whole, and what others' chains do, was seen before."""
        there = isinstance(seen.way, links.Bridged) and links.up_as(seen.network.bridge) == seen.way.bridge
        return there and firewall.present(self.netfilter, self.inst.nft_table)

    def _ensure(self, network: Network) -> tuple[Network, links.Way]:
        if network.driver in vlans.KINDS:
            return network, vlans.ensure(self.rtnl, network, self.shim(network))
        link = links.find(self.rtnl, network.bridge)
        ready = link is not None and link.up and link.kind == "bridge"
        if link is not None and ready and firewall.present(self.netfilter, self.inst.nft_table):
            if foreign.refuses(self.netfilter):  # since Docker has come up, perhaps, and nobody was watching
                with self.store.run.write():  # else the accepts of a network that is made just now could be lost
                    foreign.adjust(self.netfilter, self.inst.nft_table, _versions(self.bridged()))
            if guard.differs(self):
                self.restore()
            return network, self._way(network, link.number)
        if not ready:
            network = self._settle_subnet(network)
        guard.note(self, 6 if network.ipv6 else 4)
        # The firewall before the bridge: its raw chain must be there when route_localnet is set on the bridge.
        self.restore()
        links.enable_forwarding(ipv6=network.ipv6)
        return network, self._way(network, links.ensure_bridge(self.rtnl, network))

    def look_again(self) -> None:
        """Take nothing for granted that was seen a moment ago."""
        self._seen.clear()

    def _way(self, network: Network, bridge: int) -> links.Bridged:
        return links.Bridged(bridge, network.mtu, isolated=not network.icc)

    def _settle_subnet(self, network: Network) -> Network:
        """Its subnet, unless something took that while our bridge was down: then the default network moves."""
        routes = self.routes(*((4, 6) if network.ipv6 else (4,)))
        # After the routes: another process may make the bridge just now, and a route of its own is none in the way.
        link = links.find(self.rtnl, network.bridge)
        bridge = link.number if link else -1
        taken = next((hit for one in network.subnets if (hit := pools.overlap(one.subnet, routes, bridge))), None)
        claim = siblings.claimed(self, network.subnets)
        if taken is None and claim is None:
            return network
        used = self.store.run.read("SELECT 1 FROM endpoint WHERE network = ?", (network.id,))
        if network.name != pools.DEFAULT or used or bridge >= 0:
            fix = claim.way_out if claim else "Remove that route, or the network, and try again"
            by_route = f"{taken[0]}, which the host reaches by {self.link_name(taken[1])}" if taken else ""
            raise Conflict(f"network {network.name} cannot be set up", f"its subnet overlaps {claim or by_route}", fix)
        with self.store.disk.write() as con:
            others = [one.subnet for n in pools.every(self.store.disk) for one in n.subnets if n.id != network.id]
            others += siblings.subnets(self)
            subnet = pools.choose(routes, others, self.first_choice())
            pools.update(con, replace(network, subnets=(Subnet(subnet, pools.gateway(subnet)),)))
        return pools.get(self.store.disk, network.id)

    def link_name(self, index: int) -> str:
        """What an interface is called, for messages."""
        return next((link.name for link in rt.links(self.rtnl) if link.number == index), f"interface {index}")

    def bridged(self) -> list[Network]:
        return [n for n in pools.every(self.store.disk) if n.driver == "bridge"]

    def rebuild(self, con: sqlite3.Connection) -> None:
        """Make the nft table anew; the caller holds the write transaction of run.db."""
        wanted = self.contents(self.bridged(), ports.parse(con.execute("SELECT * FROM port").fetchall()))
        firewall.rebuild(self.netfilter, self.inst.nft_table, wanted)

    def restore(self) -> bool:
        """Make the nft table, and the accepts in a foreign FORWARD chain, what the database says: nothing, where there
        is no network. True where that changed anything."""
        netfilter, table = self.netfilter, self.inst.nft_table
        with self.store.run.write() as con:
            # Read under the lock: a network that another process makes now has its row first, its table after us.
            networks = self.bridged()
            changed = foreign.adjust(netfilter, table, _versions(networks))
            if not networks:
                return firewall.remove(netfilter, table) or changed
            wanted = self.contents(networks, ports.parse(con.execute("SELECT * FROM port").fetchall()))
            if firewall.intact(netfilter, table, wanted):
                return changed
            firewall.rebuild(netfilter, table, wanted)
            return True

    def contents(self, networks: Iterable[Network], published: Iterable[firewall.Port]) -> dict[SetSpec, set[Element]]:
        """What must be in the sets of the nft table."""
        return firewall.contents(networks, published, links.neighbours(self.rtnl), guard.versions(self))

    # ─ containers ─

    def attach(
        self, ref: str, cid: str, want: EndpointSpec, name: str, namespace: int | None, *, default: bool,
        home: links.Home | None = None,
    ) -> Attachment:  # fmt: skip
        """A new namespace on the network, or the given one, which the attachment owns then.

        :param name: of the interface in the container
        :param default: by this network it reaches all others
        :param home: see :meth:`core.net.net.Net.attach`
        :raises NotFound: no such network
        :raises Conflict: no free address, or the wanted one is taken
        """
        with step("set up the network", cid):
            network, way = self.ensure(ref)
            if self.store.run.read("SELECT 1 FROM endpoint WHERE container = ? AND network = ?", (cid, network.id)):
                self.detach(cid, network.id)  # what a killed process left of an earlier try
            bridged = way if isinstance(way, links.Bridged) and namespace is None and name == NAME else None
            place = partial(self._place, network, cid, name, want)
            if bridged is not None and (spare := self.spares.take(bridged)):
                return self._attach_spare(spare, cid, place, bridged, home)
            with place(links.new_name(self.inst.link_prefix, cid) if network.driver == "bridge" else "") as info:
                return Attachment(links.connect(self.rtnl, namespace, info, way, default=default, home=home), info)

    def _attach_spare(
        self, spare: Spare, cid: str, place: Place, way: links.Bridged, home: links.Home | None
    ) -> Attachment:
        """With a namespace that was made ahead."""
        try:
            if home is not None:
                home(os.dup(spare.namespace))
            try:
                with place(spare.interface) as info:
                    spare.connect(self.rtnl, info, way)
            except Lost:
                # Another pair, but no other namespace: the container may be in it already.
                links.remove_inside(spare.namespace, NAME)
                with place(links.new_name(self.inst.link_prefix, cid)) as info:
                    links.plug(self.rtnl, spare.namespace, info, way)
        except BaseException:
            spare.close()
            raise
        spare.inner.close()
        return Attachment(spare.namespace, info)

    @contextlib.contextmanager
    def _place(self, network: Network, cid: str, name: str, want: EndpointSpec, end: str) -> Iterator[EndpointInfo]:
        """The container's row on the network, gone again after an exception in the body, which makes the link."""
        # The row before the link: a link without a row is nobody's, and recovery deletes it.
        with self.store.run.write() as con:
            pools.get(self.store.disk, network.id)  # still there? The lock keeps it from being removed from here on
            info = ipam.allocate(con, network, cid, EndpointInfo(network.name, interface=end, name=name), want)
            self._tell_names(con, cid, [info])
        try:
            yield info
        except BaseException:
            with self.store.run.write() as con:
                ipam.release(con, cid, network.id)
                self._tell_names(con, cid, [info])
            raise

    def name_of(self, cid: str) -> str:
        """The container's name, for messages."""
        rows = self.store.disk.read("SELECT name FROM container WHERE id = ?", (cid,))
        return str(rows[0]["name"]) if rows else cid[:12]

    def detach(self, cid: str, network: str | None = None) -> list[str]:
        """Give back all that the container has: ports, links, tracked connections, addresses. Idempotent.

        :param network: an id: only what it has on that network
        :returns: the interfaces that were cut off; see :meth:`reap`
        """
        if not self._holds(cid):
            return []
        with step("release the network", cid), self.store.run.write() as con:
            rows = con.execute("SELECT * FROM endpoint WHERE container = ?", (cid,)).fetchall()
            ends = [ipam.parse(row) for row in rows if network in (None, row["network"])]
            addresses = [address for end in ends for address in (end.ip, end.ip6) if address]
            published = ports.of_container(con, cid)
            if network is not None:
                published = [port for port in published if port.container_ip in addresses]
            firewall.unpublish(self.netfilter, self.inst.nft_table, published)
            names = [end.interface for end in ends if end.interface]
            links.unplug(self.rtnl, names)
            # After the wire is cut, before the address is free: nothing can begin a new connection in between.
            if not links.silent(self.rtnl, names):
                flows.forget_addresses(self.netfilter, addresses)
            ports.forget(con, cid, published)
            ipam.release(con, cid, network)
            self._tell_names(con, cid, ends)
            return names

    def _tell_names(self, con: sqlite3.Connection, cid: str, ends: Sequence[EndpointInfo]) -> None:
        """:param ends: those that have come or gone"""
        if self.zones.concerns(cid, [end.network for end in ends]):
            self.zones.update(con, cid, [end.network_id for end in ends])

    def rename(self, cid: str) -> None:
        """The container has another name in its row now."""
        with step("tell the container's name", cid), self.store.run.write() as con:
            ends = [ipam.parse(row) for row in con.execute("SELECT * FROM endpoint WHERE container = ?", (cid,))]
            self._tell_names(con, cid, ends)

    def reap(self, names: list[str]) -> None:
        """Delete interfaces that were cut off some time ago and are still there.

        They vanish with the container's namespace, for free; but a TCP connection that was open, or a packet that waits
        for an ARP answer, keeps a dead namespace for seconds up to minutes.
        """
        links.unplug(self.rtnl, names, delete=True)

    def _holds(self, cid: str) -> bool:
        tables = ("endpoint", "lease", "port")
        union = " UNION ALL ".join(f"SELECT 1 FROM {table} WHERE container = ?" for table in tables)
        return bool(self.store.run.read(union, (cid,) * len(tables)))

    # ─ reading ─

    def indices(self, names: Iterable[str]) -> dict[str, int]:
        """Index by name, of these host ends at least, if they are there."""
        if any(name not in self._indices for name in names):
            # Names are never used twice (links.new_name), so an index once learnt stays true.
            self._indices = {link.name: link.number for link in rt.links(self.rtnl)}
        return self._indices

    def attached(self) -> dict[str, list[str]]:
        """Container ids by network id."""
        found: dict[str, list[str]] = {}
        rows: list[sqlite3.Row] = self.store.run.read("SELECT network, container FROM endpoint ORDER BY container")
        for row in rows:
            found.setdefault(row["network"], []).append(row["container"])
        return found
