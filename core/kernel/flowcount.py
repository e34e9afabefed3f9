"""Tracked connections of some addresses, with what is counted of them (linux/netfilter/nfnetlink_conntrack.h)."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection
from typing import NamedTuple

from core.kernel.conntrack import parse_tuple
from core.kernel.netlink import Netlink, NetlinkError, attr_map

_GET = 1 << 8 | 1
_ORIG, _REPLY, _STATUS, _COUNT_ORIG, _COUNT_REPLY = 1, 2, 3, 9, 10
_ASSURED, _SEEN_REPLY = 4, 2
_PROTOCOLS = {6: "tcp", 17: "udp"}


class End(NamedTuple):
    """Address and port."""

    ip: str
    port: int


class Tracked(NamedTuple):
    """One connection. ``source`` calls ``destination``; answers go from ``answers_from`` to ``answers_to``, which are
    other ends where the host translates. Bytes are None where nf_conntrack_acct is off."""

    protocol: str
    source: End
    destination: End
    answers_from: End
    answers_to: End
    assured: bool  # there was traffic both ways, for some time
    answered: bool
    sent: int | None  # by the source
    received: int | None


def _ends(data: bytes) -> tuple[str, End, End]:
    """Protocol, source and destination of one direction."""
    found = parse_tuple(data)
    source, destination = (
        End(socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw) if raw else "", port)
        for raw, port in ((found.source, found.source_port), (found.destination, found.destination_port))
    )
    return _PROTOCOLS.get(found.protocol, ""), source, destination


def _bytes(data: bytes | None) -> int | None:
    counted = attr_map(data).get(2) if data else None
    return int.from_bytes(counted, "big") if counted else None


def tracked(nl: Netlink, addresses: Collection[str]) -> list[Tracked]:
    """TCP and UDP connections that one of the addresses began or answers; none where nothing is tracked.

    One walk through the kernel's table for all of them: it takes a few milliseconds, full or not.
    """
    needles = [socket.inet_pton(socket.AF_INET6 if ":" in one else socket.AF_INET, one) for one in addresses]
    if not needles:
        return []
    try:
        bodies = nl.dump(_GET, struct.pack("!BBH", socket.AF_UNSPEC, 0, 0))
    except NetlinkError as error:
        if error.errno == errno.EINVAL:  # no nf_conntrack_netlink
            return []
        raise
    found = [_parse(body) for body in bodies if any(needle in body for needle in needles)]
    known = set(addresses)
    return [one for one in found if one.protocol and (one.source.ip in known or one.answers_from.ip in known)]


def _parse(body: bytes) -> Tracked:
    fields = attr_map(body, 4)
    protocol, source, destination = _ends(fields.get(_ORIG, b""))
    _, answers_from, answers_to = _ends(fields.get(_REPLY, b""))
    status = int.from_bytes(fields.get(_STATUS, b"\0"), "big")
    return Tracked(
        protocol, source, destination, answers_from, answers_to, bool(status & _ASSURED), bool(status & _SEEN_REPLY),
        _bytes(fields.get(_COUNT_ORIG)), _bytes(fields.get(_COUNT_REPLY)),
    )  # fmt: skip
