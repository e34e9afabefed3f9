"""The worker thread's side of :class:`core.net.net.Net`: synchronous, owner of the netlink sockets.

Whatever changes the nft table or the ports happens inside a write transaction of run.db, the kernel's part before the
commit. That lock makes several engines and clean-ups one after another; and a process killed in between leaves either
rows whose kernel part is missing or a kernel part without rows, both of which :mod:`core.net.recovery` settles.
"""

from __future__ import annotations

import contextlib
import errno
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from socket import socket

from core.errors import Conflict, InUse, NoPrivilege, Unavailable, WharfError
from core.kernel import rtnetlink as rt
from core.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, Netlink
from core.model import EndpointInfo, Network, PortMapping
from core.net import firewall, flows, foreign, ipam, links, pools, ports
from core.store.db import Store
from core.store.paths import Instance


@dataclass(frozen=True)
class Attachment:
    """A container's place on a network. The caller owns ``netns_fd``; the network lives as long as anybody holds it."""

    netns_fd: int
    endpoint: EndpointInfo


@dataclass(frozen=True)
class Published:
    """Ports as really bound, and the sockets that reserve them on the host; the caller owns those."""

    ports: tuple[PortMapping, ...]
    sockets: list[socket]


@contextlib.contextmanager
def step(what: str, cid: str = "") -> Iterator[None]:
    """The kernel's errors in the engine's words.

    :raises NoPrivilege: EPERM or EACCES
    :raises Unavailable: any other
    """
    try:
        yield
    except WharfError:
        raise
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
            raise NoPrivilege(
                f"cannot {what}", error.strerror or "", "Networks need root (CAP_NET_ADMIN and CAP_SYS_ADMIN)",
                object_id=cid, step=what,
            ) from error  # fmt: skip
        raise Unavailable(
            f"cannot {what}", error.strerror or str(error), "See: wharf doctor", object_id=cid, step=what
        ) from error


class Host:
    """One per process, used by one thread."""

    def __init__(self, inst: Instance, store: Store) -> None:
        self.inst = inst
        self.store = store
        self._rtnl: Netlink | None = None
        self._netfilter: Netlink | None = None
        self._indices: dict[str, int] = {}

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
        for opened in (self._rtnl, self._netfilter):
            if opened is not None:
                opened.close()
        self._rtnl = self._netfilter = None

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
                    routes = rt.routes(self.rtnl)
                    subnet = pools.choose(routes, (), self._start())
                    mtu = links.default_mtu(self.rtnl, routes)
                    pools.create_default(con, bridge=self.inst.bridge, subnet=subnet, mtu=mtu)
        return pools.get(self.store.disk, ref)

    def _start(self) -> int:
        """Where this instance begins its search for a subnet."""
        return zlib.crc32(self.inst.tag.encode()) if self.inst.tag else 0

    def ensure(self, ref: str) -> tuple[Network, int]:
        """The network, and the index of its bridge; whatever is missing is made.

        :raises NotFound: no such network
        :raises Conflict: something else on the host uses its subnet
        """
        network = self.network(ref)
        link = links.find(self.rtnl, network.bridge)
        ready = link is not None and link.up and link.kind == "bridge"
        if link is not None and ready and firewall.present(self.netfilter, self.inst.nft_table):
            if foreign.drops(self.netfilter):  # since Docker has come up, perhaps, and nobody was watching
                foreign.adjust(self.netfilter, self.inst.nft_table, [n.bridge for n in self.bridged()])
            return network, link.number
        if not ready:
            network = self._settle_subnet(network, link.number if link else -1)
        # The firewall before the bridge: its raw chain must be there when route_localnet is set on the bridge.
        self.restore()
        links.enable_forwarding()
        return network, links.ensure_bridge(self.rtnl, network)

    def _settle_subnet(self, network: Network, bridge: int) -> Network:
        """Its subnet, unless something took that while our bridge was down: then the default network moves."""
        if not pools.overlaps(network.subnet, rt.routes(self.rtnl), bridge):
            return network
        used = self.store.run.read("SELECT 1 FROM endpoint WHERE network = ?", (network.id,))
        if network.name != pools.DEFAULT or used or bridge >= 0:
            raise Conflict(
                f"network {network.name} cannot be set up",
                f"its subnet {network.subnet} overlaps a route of the host",
                "Remove that route, or the network, and try again",
            )
        with self.store.disk.write() as con:
            others = [n.subnet for n in pools.every(self.store.disk) if n.subnet and n.id != network.id]
            pools.move(con, network.id, pools.choose(rt.routes(self.rtnl), others, self._start()))
        return pools.get(self.store.disk, network.id)

    def bridged(self) -> list[Network]:
        return [n for n in pools.every(self.store.disk) if n.driver == "bridge"]

    def restore(self) -> bool:
        """Make the nft table, and the accepts in a foreign FORWARD chain, what the database says: nothing, where there
        is no network. True where that changed anything."""
        netfilter, table = self.netfilter, self.inst.nft_table
        with self.store.run.write() as con:
            # Read under the lock: a network that another process makes now has its row first, its table after us.
            networks = self.bridged()
            changed = foreign.adjust(netfilter, table, [n.bridge for n in networks])
            if not networks:
                return firewall.remove(netfilter, table) or changed
            wanted = firewall.contents(networks, ports.parse(con.execute("SELECT * FROM port").fetchall()))
            if firewall.intact(netfilter, table, wanted):
                return changed
            firewall.rebuild(netfilter, table, wanted)
            return True

    # ─ containers ─

    def attach(self, ref: str, cid: str, ip: str | None, namespace: int | None = None) -> Attachment:
        """A new namespace on the network, or the given one, which the attachment owns then.

        :raises NotFound: no such network
        :raises Conflict: no free address, or ``ip`` is taken
        """
        with step("set up the network", cid):
            network, bridge = self.ensure(ref)
            if self.store.run.read("SELECT 1 FROM endpoint WHERE container = ?", (cid,)):
                self.detach(cid)  # what a killed process left of an earlier try
            name = links.new_name(self.inst.link_prefix, cid)
            # The row before the link: a link without a row is nobody's, and recovery deletes it.
            with self.store.run.write() as con:
                info = ipam.allocate(con, network, cid, name, ip)
            try:
                if namespace is None:
                    namespace = links.new_endpoint(self.rtnl, info, bridge=bridge, mtu=network.mtu)
                else:
                    links.plug(self.rtnl, namespace, info, bridge=bridge, mtu=network.mtu)
            except BaseException:
                with self.store.run.write() as con:
                    ipam.release(con, cid)
                raise
            return Attachment(namespace, info)

    def publish(self, cid: str, ip: str, mappings: Iterable[PortMapping]) -> Published:
        """All of the ports, or none.

        :raises PortTaken: a container or a process has one of them
        :raises InvalidArgument: not a port, protocol or address of this host
        """
        wanted = ports.check(mappings)
        held: list[tuple[PortMapping, socket]] = []
        try:
            with step("publish ports", cid):
                if not firewall.present(self.netfilter, self.inst.nft_table):
                    self.restore()
                with self.store.run.write() as con:
                    for mapping in wanted:
                        held.append(ports.acquire(con, cid, ip, mapping, self._name_of))
                    new = [firewall.Port(m.protocol, m.host_ip, m.host_port, ip, m.container_port) for m, _ in held]
                    self._open(new)
        except BaseException:
            for _, reserved in held:
                reserved.close()
            raise
        return Published(tuple(m for m, _ in held), [s for _, s in held])

    def _open(self, new: list[firewall.Port]) -> None:
        try:
            firewall.publish(self.netfilter, self.inst.nft_table, new)
            flows.forget_stale(self.netfilter, new)
        except BaseException:
            # The rows are rolled back by our caller; an element that outlived them would send callers to a stranger.
            with contextlib.suppress(OSError):
                firewall.unpublish(self.netfilter, self.inst.nft_table, new)
            raise

    def _name_of(self, cid: str) -> str:
        rows = self.store.disk.read("SELECT name FROM container WHERE id = ?", (cid,))
        return str(rows[0]["name"]) if rows else cid[:12]

    def detach(self, cid: str) -> list[str]:
        """Give back all that the container has: ports, links, tracked connections, addresses. Idempotent.

        Returns the interfaces that were cut off; see :meth:`reap`.
        """
        if not self._holds(cid):
            return []
        with step("release the network", cid), self.store.run.write() as con:
            ends = con.execute("SELECT ip, interface FROM endpoint WHERE container = ?", (cid,)).fetchall()
            published = ports.parse(con.execute("SELECT * FROM port WHERE container = ?", (cid,)).fetchall())
            firewall.unpublish(self.netfilter, self.inst.nft_table, published)
            names = [end["interface"] for end in ends]
            links.unplug(self.rtnl, names)
            # After the wire is cut, before the address is free: nothing can begin a new connection in between.
            if not links.silent(self.rtnl, names):
                flows.forget_addresses(self.netfilter, [end["ip"] for end in ends])
            con.execute("DELETE FROM port WHERE container = ?", (cid,))
            ipam.release(con, cid)
            return names

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

    def remove_network(self, ref: str) -> None:
        """Delete a network that no container uses: accepts, table entries, bridge, row.

        :raises NotFound: no such network
        :raises InUse: containers are attached
        """
        network = pools.get(self.store.disk, ref)
        with step("remove the network", network.id):
            users = self.store.run.read("SELECT container FROM endpoint WHERE network = ?", (network.id,))
            if users:
                raise InUse(
                    f"network {network.name} is in use",
                    "attached: " + ", ".join(sorted(self._name_of(u["container"]) for u in users)),
                    "Stop those containers first",
                )
            # The bridge while the row is there: killed in between, recovery sees a network whose bridge is made again
            # on its next use, and not a bridge that nobody knows.
            links.unplug(self.rtnl, [network.bridge], delete=True)
            with self.store.disk.write() as con:
                con.execute("DELETE FROM network WHERE id = ?", (network.id,))
            with self.store.run.write() as con:
                con.execute("DELETE FROM cursor WHERE network = ?", (network.id,))
            self.restore()

    # ─ reading ─

    def counters(self, names: Iterable[str]) -> dict[str, tuple[int, int]]:
        """(received, sent) bytes by interface name, as the *container* sees them; those that are gone are left out.

        The host's end counts the other way round: what it received, the container sent.
        """
        wanted = list(names)
        found = rt.counters(self.rtnl)
        if any(name not in self._indices for name in wanted):
            # Names are never used twice (links.new_name), so an index once learnt stays true.
            self._indices = {link.name: link.number for link in rt.links(self.rtnl)}
        known = ((name, found.get(self._indices.get(name, -1))) for name in wanted)
        return {name: (pair[1], pair[0]) for name, pair in known if pair is not None}

    def attached(self) -> dict[str, list[str]]:
        """Container ids by network id."""
        found: dict[str, list[str]] = {}
        rows: list[sqlite3.Row] = self.store.run.read("SELECT network, container FROM endpoint ORDER BY container")
        for row in rows:
            found.setdefault(row["network"], []).append(row["container"])
        return found
