"""Links, addresses, routes and counters: rtnetlink(7) requests as plain functions over :class:`Netlink`."""

from __future__ import annotations

import socket
import struct
import sys
from typing import NamedTuple

from core.kernel.netlink import F_CREATE, F_EXCL, Message, Netlink, attr, attr_map, attrs, nest, string, text, u32

IFF_UP = 0x1

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _NEWROUTE, _GETROUTE, _GETSTATS = 20, 24, 26, 94
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 10, 18
_IFLA_STATS64 = 23
_IFLA_AF_SPEC, _IFLA_NET_NS_FD = 26, 28
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_PEER = 1
_BRPORT_MODE = 4
_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE = 8, 1
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_TABLE = 1, 4, 5, 6, 15
_TABLE_LOCAL = 255


class Link(NamedTuple):
    """An interface. ``kind``: the driver's name (veth, bridge, …), empty for hardware. ``received``: packets."""

    number: int
    name: str
    up: bool
    mtu: int
    master: int
    kind: str
    received: int


class Route(NamedTuple):
    """An IPv4 route; ``destination`` as (address, prefix length), the default route is (0, 0)."""

    destination: tuple[int, int]
    interface: int
    metric: int
    table: int


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


def port_up(name: str) -> Message:
    """Bring a bridge port up, in hairpin mode and without an IPv6 link-local address.

    Hairpin: with br_netfilter a container that calls its own published port comes back through the same port.
    """
    port = nest(_IFLA_LINKINFO, text(_INFO_SLAVE_KIND, "bridge"), nest(_INFO_SLAVE_DATA, attr(_BRPORT_MODE, b"\1")))
    mode = attr(_INET6_ADDR_GEN_MODE, bytes([_ADDR_GEN_NONE]))
    family = nest(_IFLA_AF_SPEC, nest(socket.AF_INET6, mode))
    return Message(_NEWLINK, 0, _ifinfo(0, IFF_UP, IFF_UP) + text(_IFLA_IFNAME, name) + port + family)


def new_bridge(name: str, mac: bytes) -> Message:
    """A bridge, down. A fixed MAC: otherwise it changes with every port, and neighbours' caches go stale."""
    info = nest(_IFLA_LINKINFO, text(_INFO_KIND, "bridge"))
    body = _ifinfo() + text(_IFLA_IFNAME, name) + attr(_IFLA_ADDRESS, mac) + info
    return Message(_NEWLINK, F_CREATE | F_EXCL, body)


def set_mtu(name: str, mtu: int) -> Message:
    return Message(_NEWLINK, 0, _ifinfo() + text(_IFLA_IFNAME, name) + u32(_IFLA_MTU, mtu))


def set_up(index: int) -> Message:
    return Message(_NEWLINK, 0, _ifinfo(index, IFF_UP, IFF_UP))


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
    """Give the interface an IPv4 address (4 bytes); EEXIST where it has it."""
    broadcast = int.from_bytes(address, "big") | ((1 << (32 - prefix)) - 1)
    body = struct.pack("=BBBBi", socket.AF_INET, prefix, 0, 0, index)
    body += attr(2, address) + attr(1, address) + attr(4, broadcast.to_bytes(4, "big"))  # LOCAL, ADDRESS, BROADCAST
    return Message(_NEWADDR, F_CREATE | F_EXCL, body)


def new_default_route(index: int, gateway: bytes) -> Message:
    # family, no prefix, main table, RTPROT_BOOT, universe, unicast (rtnetlink(7))
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 254, 3, 0, 1, 0)
    return Message(_NEWROUTE, F_CREATE | F_EXCL, body + attr(_RTA_GATEWAY, gateway) + u32(_RTA_OIF, index))


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
    )


def links(socket_: Netlink) -> list[Link]:
    """All interfaces of the socket's namespace."""
    return [parse_link(body) for body in socket_.dump(_GETLINK, _ifinfo())]


def routes(socket_: Netlink) -> list[Route]:
    """All IPv4 routes, those of the local table (the host's own addresses) left out."""
    found = []
    for body in socket_.dump(_GETROUTE, struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)):
        fields = dict(attrs(body, 12))
        table = struct.unpack("=I", fields[_RTA_TABLE])[0] if _RTA_TABLE in fields else body[4]
        if table == _TABLE_LOCAL:
            continue
        address = int.from_bytes(fields.get(_RTA_DST, b"\0\0\0\0"), "big")
        interface = struct.unpack("=I", fields[_RTA_OIF])[0] if _RTA_OIF in fields else 0
        metric = struct.unpack("=I", fields[_RTA_PRIORITY])[0] if _RTA_PRIORITY in fields else 0
        found.append(Route((address, body[1]), interface, metric, table))
    return found


def counters(socket_: Netlink) -> dict[int, tuple[int, int]]:
    """(received, sent) bytes of every interface by index: RTM_GETSTATS with IFLA_STATS_LINK_64 only."""
    found = {}
    for body in socket_.dump(_GETSTATS, struct.pack("=BxxxII", 0, 0, 1)):
        index = struct.unpack_from("=I", body, 4)[0]
        stats = attr_map(body, 12).get(1)
        if stats is not None:
            found[index] = struct.unpack_from("=QQ", stats, 16)  # rtnl_link_stats64: packets, packets, bytes, bytes
    return found
