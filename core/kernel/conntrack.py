"""Tracked connections: find and delete those of one address (ctnetlink, linux/netfilter/nfnetlink_conntrack.h)."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection
from typing import NamedTuple

from core.kernel.netlink import Message, Netlink, NetlinkError, attr, attr_map, nest

_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
_ORIG, _REPLY, _ID, _FILTER = 1, 2, 12, 25
_SRC, _DST = 1, 2  # CTA_IP_V4_SRC, CTA_IP_V4_DST; also the bits of CTA_FILTER_*_FLAGS
_FILTER_PROTO_NUM, _FILTER_PROTO_DST_PORT = 1 << 3, 1 << 5
_FEW = 4000
_HEAD = struct.pack("!BBH", socket.AF_INET, 0, 0)


class Tuple(NamedTuple):
    """One direction of a connection: addresses as 4 bytes, ports 0 where the protocol has none."""

    source: bytes
    destination: bytes
    protocol: int
    source_port: int
    destination_port: int


class Flow(NamedTuple):
    """A tracked connection; ``raw`` names it to the kernel."""

    original: Tuple
    reply: Tuple
    raw: bytes


def _tuple(data: bytes) -> Tuple:
    fields = attr_map(data)
    address, protocol = attr_map(fields.get(1, b"")), attr_map(fields.get(2, b""))
    ports = [int.from_bytes(protocol.get(i, b"\0"), "big") for i in (2, 3)]
    return Tuple(address.get(1, b""), address.get(2, b""), protocol.get(1, b"\0")[0], *ports)


def _dump(nl: Netlink, wanted: bytes, needle: bytes) -> list[Flow]:
    """Flows that hold the bytes somewhere. Callers look again: kernels before 5.8 ignore the filter ``wanted``."""
    found = []
    try:
        answers = nl.dump(_GET, _HEAD + wanted)
    except NetlinkError as error:
        if (
            error.errno == errno.EINVAL
        ):  # no such subsystem: this kernel has no nf_conntrack_netlink, nothing can be done
            return []
        raise
    for body in answers:
        if needle in body:
            fields = attr_map(body, 4)
            raw = attr(_ORIG | 0x8000, fields[_ORIG]) + attr(_ID, fields.get(_ID, b""))
            found.append(Flow(_tuple(fields[_ORIG]), _tuple(fields[_REPLY]), raw))
    return found


def _flags(direction: int, bits: int) -> bytes:
    return nest(_FILTER, *(attr(i, struct.pack("=I", bits if i == direction else 0)) for i in (1, 2)))


def of_address(nl: Netlink, address: bytes) -> list[Flow]:
    """Connections that the address began, and those that end at it, also by way of a published port.

    The kernel walks its whole table for every dump, full or not: one unfiltered walk is cheaper than two filtered ones
    while there are few connections.
    """
    try:
        with open("/proc/sys/net/netfilter/nf_conntrack_count", encoding="ascii") as file:
            few = int(file.read()) < _FEW
    except FileNotFoundError:
        return []  # nothing is tracked
    ip = nest(1, attr(_SRC, address))
    asks = [b""] if few else [nest(_ORIG, ip) + _flags(1, _SRC), nest(_REPLY, ip) + _flags(2, _SRC)]
    flows = {f.raw: f for ask in asks for f in _dump(nl, ask, address)}
    return [f for f in flows.values() if address in (f.original.source, f.reply.source)]


def of_ports(nl: Netlink, protocol: int, ports: Collection[int]) -> list[Flow]:
    """Connections whose first packet went to one of these destination ports."""
    kind, bits = attr(1, bytes([protocol])), _FILTER_PROTO_NUM
    needle = b""
    if len(ports) == 1:  # then the kernel can pick them out
        needle = struct.pack("!H", *ports)
        kind, bits = kind + attr(3, needle), bits | _FILTER_PROTO_DST_PORT
    flows = _dump(nl, nest(_ORIG, nest(2, kind)) + _flags(1, bits), needle)
    return [f for f in flows if f.original.protocol == protocol and f.original.destination_port in ports]


def delete(nl: Netlink, flows: list[Flow]) -> None:
    """Forget them; one that ended meanwhile is no error.

    :raises NetlinkError: the kernel refused
    """
    for flow in flows:
        nl.talk([Message(_DELETE, 0, _HEAD + flow.raw)])[0].check(errno.ENOENT)
