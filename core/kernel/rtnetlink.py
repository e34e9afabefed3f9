"""Links, addresses, routes and counters: rtnetlink(7) requests as plain functions over :class:`Netlink`."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

from core.kernel.netlink import F_CREATE, F_EXCL, Message, Netlink, attr, attr_map, attrs, nest, string, text, u32

IFF_UP = 0x1

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_GETADDR = 22
_NEWADDR, _NEWROUTE, _DELROUTE, _GETROUTE, _GETSTATS = 20, 24, 25, 26, 94
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 5, 10, 18
_IFLA_STATS64, _IFLA_GROUP = 23, 27
_IFLA_AF_SPEC, _IFLA_NET_NS_FD = 26, 28
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_PEER = 1
_BRPORT_MODE, _BRPORT_ISOLATED = 4, 33
_MACVLAN_MODE = 1
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
_IPVLAN_MODE, _IPVLAN_FLAGS = 1, 2
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}
_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE = 8, 1
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_TABLE = 1, 4, 5, 6, 15
_NEWQDISC, _TC_ROOT = 36, 0xFFFFFFFF
_TABLE_MAIN, _TABLE_LOCAL = 254, 255
_IFA_F_NODAD = 0x02
LEAST_IPV6 = 1280  # bytes of MTU (RFC 8200, section 5)


class Link(NamedTuple):
    """An interface. ``kind``: the driver's name (veth, bridge, …), empty for hardware. ``received``: packets."""

    number: int
    name: str
    up: bool
    mtu: int
    master: int
    kind: str
    received: int
    group: int


class Counters(NamedTuple):
    """The first fields of struct rtnl_link_stats64, in its order."""

    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_errors: int
    tx_errors: int
    rx_dropped: int
    tx_dropped: int

    def swapped(self) -> Counters:
        """As the other end of the wire sees it."""
        return Counters(*(self[i ^ 1] for i in range(8)))


class Route(NamedTuple):
    """A route; ``destination`` as (address, prefix length), the default route is (0, 0); ``version`` 4 or 6."""

    destination: tuple[int, int]
    interface: int
    metric: int
    table: int
    version: int = 4


def _ifinfo(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, change)


def new_veth(name: str, peer: str, peer_ns: int, *, mtu: int, mac: bytes, bridge: int) -> Message:
    """A veth pair: ``name`` here and a port of ``bridge``, ``peer`` with address ``mac`` in namespace ``peer_ns``.

    The peer cannot be created up; neither is this end, so that :func:`port_up` sets its modes before any packet.
    """
    other = _ifinfo() + text(_IFLA_IFNAME, peer) + u32(_IFLA_NET_NS_FD, peer_ns)
    other += u32(_IFLA_MTU, mtu) + attr(_IFLA_ADDRESS, mac)
    info = nest(_IFLA_LINKINFO, text(_INFO_KIND, "veth"), nest(_INFO_DATA, attr(_VETH_PEER, other)))
    body = _ifinfo() + text(_IFLA_IFNAME, name) + u32(_IFLA_MTU, mtu) + u32(_IFLA_MASTER, bridge) + info
    return Message(_NEWLINK, F_CREATE | F_EXCL, body)


def new_spare_veth(name: str, peer: str, peer_ns: int, *, mtu: int, group: int) -> Message:
    """A veth pair for later (:func:`join_bridge`): ``name`` here, in that group; ``peer`` in namespace ``peer_ns``."""
    other = _ifinfo() + text(_IFLA_IFNAME, peer) + u32(_IFLA_NET_NS_FD, peer_ns) + u32(_IFLA_MTU, mtu)
    info = nest(_IFLA_LINKINFO, text(_INFO_KIND, "veth"), nest(_INFO_DATA, attr(_VETH_PEER, other)))
    body = _ifinfo() + text(_IFLA_IFNAME, name) + u32(_IFLA_MTU, mtu) + u32(_IFLA_GROUP, group) + info
    return Message(_NEWLINK, F_CREATE | F_EXCL, body)


def join_bridge(index: int, bridge: int, *, mtu: int = 0) -> Message:
    """Make a spare link a port of the bridge with that index, in no group any more. ``mtu`` 0 keeps it as it is."""
    body = _ifinfo(index) + u32(_IFLA_MASTER, bridge) + u32(_IFLA_GROUP, 0)
    return Message(_NEWLINK, 0, body + (u32(_IFLA_MTU, mtu) if mtu else b""))


def port_up(link: str | int, *, isolated: bool = False, mtu: int = LEAST_IPV6) -> Message:
    """Bring a bridge port up, in hairpin mode and without an IPv6 link-local address.

    Hairpin: with br_netfilter a container that calls its own published port comes back through the same port.

    :param link: its name or index
    :param mtu: with a smaller one than RFC 8200 allows, the kernel has no IPv6 there to set anything of
    :param isolated: nothing passes between it and other isolated ports of the bridge (since Linux 4.18)
    """
    modes = attr(_BRPORT_MODE, b"\1") + (attr(_BRPORT_ISOLATED, b"\1") if isolated else b"")
    port = nest(_IFLA_LINKINFO, text(_INFO_SLAVE_KIND, "bridge"), nest(_INFO_SLAVE_DATA, modes))
    mode = attr(_INET6_ADDR_GEN_MODE, bytes([_ADDR_GEN_NONE]))
    family = nest(_IFLA_AF_SPEC, nest(socket.AF_INET6, mode))
    head = _ifinfo(link, IFF_UP, IFF_UP) if isinstance(link, int) else _ifinfo(0, IFF_UP, IFF_UP)
    name = text(_IFLA_IFNAME, link) if isinstance(link, str) else b""
    return Message(_NEWLINK, 0, head + name + port + (family if mtu >= LEAST_IPV6 else b""))


def new_macvlan(
    name: str, parent: int, *, mode: str, mac: bytes, mtu: int = 0, namespace: int | None = None
) -> Message:
    """A further MAC address on the interface ``parent``, in ``namespace`` (none: here)."""
    data = nest(_INFO_DATA, u32(_MACVLAN_MODE, MACVLAN_MODES[mode]))
    return _slave("macvlan", data, name, parent, mac, mtu, namespace)


def new_ipvlan(name: str, parent: int, *, mode: str, flag: str = "bridge", mtu: int = 0, namespace: int) -> Message:
    """A further interface with the MAC address of ``parent``, in ``namespace``."""
    flags = attr(_IPVLAN_FLAGS, struct.pack("=H", IPVLAN_FLAGS[flag]))
    data = nest(_INFO_DATA, attr(_IPVLAN_MODE, struct.pack("=H", IPVLAN_MODES[mode])), flags)
    return _slave("ipvlan", data, name, parent, b"", mtu, namespace)


def _slave(kind: str, data: bytes, name: str, parent: int, mac: bytes, mtu: int, namespace: int | None) -> Message:
    body = _ifinfo() + text(_IFLA_IFNAME, name) + u32(_IFLA_LINK, parent)
    body += attr(_IFLA_ADDRESS, mac) if mac else b""
    body += u32(_IFLA_MTU, mtu) if mtu else b""
    body += u32(_IFLA_NET_NS_FD, namespace) if namespace is not None else b""
    return Message(_NEWLINK, F_CREATE | F_EXCL, body + nest(_IFLA_LINKINFO, text(_INFO_KIND, kind), data))


def new_bridge(name: str, mac: bytes) -> Message:
    """A bridge, down. A fixed MAC: otherwise it changes with every port, and neighbours' caches go stale."""
    info = nest(_IFLA_LINKINFO, text(_INFO_KIND, "bridge"))
    body = _ifinfo() + text(_IFLA_IFNAME, name) + attr(_IFLA_ADDRESS, mac) + info
    return Message(_NEWLINK, F_CREATE | F_EXCL, body)


def set_mtu(name: str, mtu: int) -> Message:
    return Message(_NEWLINK, 0, _ifinfo() + text(_IFLA_IFNAME, name) + u32(_IFLA_MTU, mtu))


def set_up(index: int, *, mac: bytes = b"", mtu: int = 0) -> Message:
    """Bring a link up; before that, give it an address and an MTU where they are named."""
    body = _ifinfo(index, IFF_UP, IFF_UP)
    body += attr(_IFLA_ADDRESS, mac) if mac else b""
    return Message(_NEWLINK, 0, body + (u32(_IFLA_MTU, mtu) if mtu else b""))


def set_master(name: str, bridge: int) -> Message:
    """Make the link a port of the bridge with that index; 0 releases it."""
    return Message(_NEWLINK, 0, _ifinfo() + text(_IFLA_IFNAME, name) + u32(_IFLA_MASTER, bridge))


def isolate(name: str) -> Message:
    """Down and out of its bridge, at once; deleting would wait tens of milliseconds for the kernel's grace periods."""
    return Message(_NEWLINK, 0, _ifinfo(0, 0, IFF_UP) + text(_IFLA_IFNAME, name) + u32(_IFLA_MASTER, 0))


def del_link(index: int) -> Message:
    return Message(_DELLINK, 0, _ifinfo(index))


def get_link(name: str) -> Message:
    return Message(_GETLINK, 0, _ifinfo() + text(_IFLA_IFNAME, name))


def new_address(index: int, address: bytes, prefix: int) -> Message:
    """Give the interface an address of 4 or 16 bytes; EEXIST where it has it.

    An IPv6 address can be used at once: no other host is asked whether it has it (IFA_F_NODAD), for we gave it out.
    """
    if len(address) == 16:
        body = struct.pack("=BBBBi", socket.AF_INET6, prefix, _IFA_F_NODAD, 0, index)
        return Message(_NEWADDR, F_CREATE | F_EXCL, body + attr(2, address) + attr(1, address))
    broadcast = int.from_bytes(address, "big") | ((1 << (32 - prefix)) - 1)
    body = struct.pack("=BBBBi", socket.AF_INET, prefix, 0, 0, index)
    body += attr(2, address) + attr(1, address)  # LOCAL, ADDRESS
    if prefix < 31:
        body += attr(4, broadcast.to_bytes(4, "big"))  # BROADCAST
    return Message(_NEWADDR, F_CREATE | F_EXCL, body)


def new_default_route(index: int, gateway: bytes) -> Message:
    """A default route by a gateway of 4 or 16 bytes; EEXIST where there is one of the same metric."""
    family = socket.AF_INET if len(gateway) == 4 else socket.AF_INET6
    # No prefix, main table, RTPROT_BOOT, universe, unicast (rtnetlink(7))
    body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, _TABLE_MAIN, 3, 0, 1, 0)
    return Message(_NEWROUTE, F_CREATE | F_EXCL, body + attr(_RTA_GATEWAY, gateway) + u32(_RTA_OIF, index))


def new_route(index: int, destination: bytes, prefix: int) -> Message:
    """A route to what is reached directly by the interface; EEXIST where there is one."""
    family, scope = (socket.AF_INET, 253) if len(destination) == 4 else (socket.AF_INET6, 0)  # 253: link
    body = struct.pack("=BBBBBBBBI", family, prefix, 0, 0, _TABLE_MAIN, 3, scope, 1, 0)
    return Message(_NEWROUTE, F_CREATE | F_EXCL, body + attr(_RTA_DST, destination) + u32(_RTA_OIF, index))


def del_default_route(version: int) -> Message:
    """Delete a default route; ESRCH where there is none."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    # Scope nowhere, no protocol and no kind: whichever it has.
    return Message(_DELROUTE, 0, struct.pack("=BBBBBBBBI", family, 0, 0, 0, _TABLE_MAIN, 0, 255, 0, 0))


def new_tbf(index: int, rate: int) -> Message:
    """A token bucket filter (tc-tbf(8)) on what the interface sends; ``rate`` in bits per second.

    A burst of 10 ms is let through at once (64 KiB at least: segments that a veth carries are as large), and what would
    wait for more than 50 ms is dropped.
    """
    each = rate // 8  # bytes per second
    burst = min(max(each // 100, 1 << 16), 0x7FFFFFFF)
    limit = min(burst + each // 20, 0x7FFFFFFF)
    # struct tc_tbf_qopt: two tc_ratespec (link layer Ethernet, so that no rate table is needed), limit, buffer, mtu
    spec = struct.pack("=BBHhHI", 0, 1, 0, 0, 0, min(each, 0xFFFFFFFF))
    options = attr(1, spec + bytes(12) + struct.pack("=III", limit, 0, 0)) + u32(6, burst)
    if each > 0xFFFFFFFF:
        options += attr(4, struct.pack("=Q", each))
    body = struct.pack("=BxxxiIII", socket.AF_UNSPEC, index, 0x10000, _TC_ROOT, 0)
    return Message(_NEWQDISC, F_CREATE | F_EXCL, body + text(1, "tbf") + nest(2, options))


def parse_link(body: bytes) -> Link:
    index, flags = struct.unpack_from("=iI", body, 4)
    found = attr_map(body, 16)
    info = attr_map(found.get(_IFLA_LINKINFO, b""))
    return Link(
        index,
        string(found.get(_IFLA_IFNAME, b"")),
        bool(flags & IFF_UP),
        int.from_bytes(found.get(_IFLA_MTU, b""), sys.byteorder),
        int.from_bytes(found.get(_IFLA_MASTER, b""), sys.byteorder),
        string(info.get(_INFO_KIND, b"")),
        struct.unpack_from("=Q", found.get(_IFLA_STATS64, bytes(8)))[0],
        int.from_bytes(found.get(_IFLA_GROUP, b""), sys.byteorder),
    )


def links(socket_: Netlink) -> list[Link]:
    """All interfaces of the socket's namespace."""
    return [parse_link(body) for body in socket_.dump(_GETLINK, _ifinfo())]


def routes(socket_: Netlink, version: int = 4) -> list[Route]:
    """All routes of IPv4 or IPv6, those of the local table (the host's own addresses) left out."""
    found = []
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    for body in socket_.dump(_GETROUTE, struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)):
        fields = dict(attrs(body, 12))
        table = struct.unpack("=I", fields[_RTA_TABLE])[0] if _RTA_TABLE in fields else body[4]
        if table == _TABLE_LOCAL:
            continue
        address = int.from_bytes(fields.get(_RTA_DST, b""), "big")
        interface = struct.unpack("=I", fields[_RTA_OIF])[0] if _RTA_OIF in fields else 0
        metric = struct.unpack("=I", fields[_RTA_PRIORITY])[0] if _RTA_PRIORITY in fields else 0
        found.append(Route((address, body[1]), interface, metric, table, version))
    return found


def addresses(socket_: Netlink) -> list[tuple[int, str, int]]:
    """All addresses of both versions: index of the interface, address, length of its prefix; no link-local ones."""
    found = []
    for body in socket_.dump(_GETADDR, struct.pack("=BBBBi", socket.AF_UNSPEC, 0, 0, 0, 0)):
        fields = attr_map(body, 8)
        raw = fields.get(2, fields.get(1, b""))  # LOCAL; ADDRESS is the peer's on a point-to-point link
        text = socket.inet_ntop(socket.AF_INET if body[0] == socket.AF_INET else socket.AF_INET6, raw)
        if not text.startswith(("fe80:", "169.254.")):
            found.append((struct.unpack_from("=i", body, 4)[0], text, body[1]))
    return found


def _stats(socket_: Netlink) -> Iterator[tuple[int, bytes]]:
    """Index and struct rtnl_link_stats64 of every interface: RTM_GETSTATS with IFLA_STATS_LINK_64 only."""
    for body in socket_.dump(_GETSTATS, struct.pack("=BxxxII", 0, 0, 1)):
        stats = attr_map(body, 12).get(1)
        if stats is not None:
            yield struct.unpack_from("=I", body, 4)[0], stats


def counters(socket_: Netlink) -> dict[int, tuple[int, int]]:
    """(received, sent) bytes of every interface by index."""
    return {index: struct.unpack_from("=QQ", stats, 16) for index, stats in _stats(socket_)}


def full_counters(socket_: Netlink) -> dict[int, Counters]:
    """All counters of every interface by index."""
    return {index: Counters(*struct.unpack_from("=8Q", stats)) for index, stats in _stats(socket_)}
