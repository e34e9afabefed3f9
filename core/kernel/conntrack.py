"""Tracked connections: find and delete those of one address (ctnetlink, linux/netfilter/nfnetlink_conntrack.h)."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Iterable
from typing import NamedTuple

from core.kernel.netlink import Message, Netlink, NetlinkError, attr, attr_map, nest

_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
_ORIG, _REPLY, _ID, _FILTER = 1, 2, 12, 25
_SRC, _DST = 1, 2  # CTA_IP_V4_SRC, CTA_IP_V4_DST; also the bits of CTA_FILTER_*_FLAGS
_SRC6, _DST6 = 3, 4  # CTA_IP_V6_SRC, CTA_IP_V6_DST
_FILTER_PROTO_NUM, _FILTER_PROTO_DST_PORT = 1 << 3, 1 << 5
_FEW = 4000


class Tuple(NamedTuple):
    """One direction of a connection: addresses as 4 or 16 bytes, ports 0 where the protocol has none."""

    source: bytes
    destination: bytes
    protocol: int
    source_port: int
    destination_port: int


class Flow(NamedTuple):
    """A tracked connection; ``raw`` names it to the kernel, with its ``family`` (AF_*)."""

    original: Tuple
    reply: Tuple
    raw: bytes
    family: int


def _head(family: int) -> bytes:
    return struct.pack("!BBH", family, 0, 0)


def parse_tuple(data: bytes) -> Tuple:
    """The payload of CTA_TUPLE_ORIG or CTA_TUPLE_REPLY."""
    fields = attr_map(data)
    address, protocol = attr_map(fields.get(1, b"")), attr_map(fields.get(2, b""))
    ports = [int.from_bytes(protocol.get(i, b"\0"), "big") for i in (2, 3)]
    source, destination = (address.get(four, address.get(six, b"")) for four, six in ((_SRC, _SRC6), (_DST, _DST6)))
    return Tuple(source, destination, protocol.get(1, b"\0")[0], *ports)


def _dump(nl: Netlink, family: int, wanted: bytes, needles: Collection[bytes]) -> list[Flow]:
    """Flows that hold some of the bytes. Callers look again: kernels before 5.8 ignore the filter ``wanted``."""
    found = []
    try:
        answers = nl.dump(_GET, _head(family) + wanted)
    except NetlinkError as error:
        if error.errno == errno.EINVAL:
            return []  # no such subsystem: this kernel has no nf_conntrack_netlink, nothing can be done
        raise
    for body in answers:
        if any(needle in body for needle in needles):
            fields = attr_map(body, 4)
            raw = attr(_ORIG | 0x8000, fields[_ORIG]) + attr(_ID, fields.get(_ID, b""))
            found.append(Flow(parse_tuple(fields[_ORIG]), parse_tuple(fields[_REPLY]), raw, body[0]))
    return found


def _flags(direction: int, bits: int) -> bytes:
    return nest(_FILTER, *(attr(i, struct.pack("=I", bits if i == direction else 0)) for i in (1, 2)))


def of_addresses(nl: Netlink, addresses: Collection[bytes]) -> list[Flow]:
    """Connections that one of the addresses began, and those that end at it, also by way of a published port.

    The kernel walks its whole table for every dump, full or not: one unfiltered walk is cheaper than two filtered ones
    for each address while there are few connections.
    """
    try:
        with open("/proc/sys/net/netfilter/nf_conntrack_count", encoding="ascii") as file:
            few = int(file.read()) < _FEW
    except FileNotFoundError:
        return []  # nothing is tracked
    if few and addresses:
        flows = _dump(nl, socket.AF_UNSPEC, b"", addresses)
    else:
        flows = [flow for address in addresses for flow in _of_address(nl, address)]
    return [f for f in flows if f.original.source in addresses or f.reply.source in addresses]


def _of_address(nl: Netlink, address: bytes) -> Iterable[Flow]:
    """Picked out by the kernel."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    ip = nest(1, attr(_SRC if family == socket.AF_INET else _SRC6, address))
    asks = [nest(_ORIG, ip) + _flags(1, _SRC), nest(_REPLY, ip) + _flags(2, _SRC)]
    return {f.raw: f for ask in asks for f in _dump(nl, family, ask, [address])}.values()


def of_ports(nl: Netlink, protocol: int, ports: Collection[int], families: Collection[int]) -> list[Flow]:
    """Connections of these families (AF_*) whose first packet went to one of these destination ports."""
    kind, bits = attr(1, bytes([protocol])), _FILTER_PROTO_NUM
    needle = b""
    if len(ports) == 1:  # then the kernel can pick them out
        needle = struct.pack("!H", *ports)
        kind, bits = kind + attr(3, needle), bits | _FILTER_PROTO_DST_PORT
    wanted = nest(_ORIG, nest(2, kind)) + _flags(1, bits)
    flows = [f for family in families for f in _dump(nl, family, wanted, [needle])]
    return [f for f in flows if f.original.protocol == protocol and f.original.destination_port in ports]


def delete(nl: Netlink, flows: list[Flow]) -> None:
    """Forget them; one that ended meanwhile is no error.

    :raises NetlinkError: the kernel refused
    """
    for flow in flows:
        nl.talk([Message(_DELETE, 0, _head(flow.family) + flow.raw)])[0].check(errno.ENOENT)
