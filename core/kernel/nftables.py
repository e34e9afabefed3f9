"""nftables over netlink: tables, chains, sets, rules and elements, without the ``nft`` binary.

Constants and layouts: linux/netfilter/nf_tables.h. In concatenated keys every field takes a multiple of 4 bytes.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from core.kernel.netlink import F_APPEND, F_CREATE, Message, Netlink, attr, attr_map, attrs, be32, nest, string
from core.kernel.netlink import text as word

INET = 1  # NFPROTO_INET: IPv4 and IPv6 in one table
IPV4, IPV6 = 2, 10
ACCEPT, DROP, JUMP = 1, 0, -3
HOOK_PREROUTING, HOOK_FORWARD, HOOK_OUTPUT, HOOK_POSTROUTING = 0, 2, 3, 4
EVENTS_GROUP = 7  # NFNLGRP_NFTABLES

SUBSYSTEM = 10 << 8
NEWTABLE, GETTABLE, DELTABLE = SUBSYSTEM, SUBSYSTEM | 1, SUBSYSTEM | 2
NEWCHAIN, GETCHAIN, DELCHAIN = SUBSYSTEM | 3, SUBSYSTEM | 4, SUBSYSTEM | 5
NEWRULE, GETRULE, DELRULE = SUBSYSTEM | 6, SUBSYSTEM | 7, SUBSYSTEM | 8
NEWSET, DELSET = SUBSYSTEM | 9, SUBSYSTEM | 11
NEWSETELEM, GETSETELEM, DELSETELEM = SUBSYSTEM | 12, SUBSYSTEM | 13, SUBSYSTEM | 14

# Data types, only so that `nft list` can print the sets (nftables/datatype.h).
TYPE_NFPROTO, TYPE_ADDRESS, TYPE_ADDRESS6, TYPE_PROTOCOL, TYPE_SERVICE, TYPE_IFNAME = 2, 7, 8, 12, 13, 41
_WIDTH = {TYPE_NFPROTO: 1, TYPE_ADDRESS: 4, TYPE_ADDRESS6: 16, TYPE_PROTOCOL: 4, TYPE_SERVICE: 4, TYPE_IFNAME: 16}
_EXACT = {TYPE_ADDRESS: 4, TYPE_ADDRESS6: 16, TYPE_PROTOCOL: 1, TYPE_SERVICE: 2, TYPE_IFNAME: 16}
_SET_INTERVAL, _SET_MAP, _SET_CONCAT = 0x4, 0x8, 0x80
_ELEM_INTERVAL_END = 1
_CHUNK = 300  # elements in one message: the list's length field has 16 bits


def _head(family: int) -> bytes:
    return struct.pack("!BBH", family, 0, 0)


# ─ expressions ─ registers 1 to 4 hold 16 bytes each; 8 + n names 4 bytes of them: 9 is the second word of register 1


def _expr(name: str, *fields: bytes) -> bytes:
    return nest(1, word(1, name), nest(2, *fields))


def meta(key: int, register: int = 1) -> bytes:
    """Load packet metadata; see META_*."""
    return _expr("meta", be32(2, key), be32(1, register))


META_IIFNAME, META_OIFNAME, META_NFPROTO, META_L4PROTO, META_IIFKIND, META_OIFKIND = 6, 7, 15, 16, 26, 27


def compare(data: bytes, *, equal: bool = True, register: int = 1) -> bytes:
    return _expr("cmp", be32(1, register), be32(2, 0 if equal else 1), nest(3, attr(1, data)))


def network_header(offset: int, size: int, register: int = 1) -> bytes:
    return _expr("payload", be32(1, register), be32(2, 1), be32(3, offset), be32(4, size))


def transport_header(offset: int, size: int, register: int = 1) -> bytes:
    return _expr("payload", be32(1, register), be32(2, 2), be32(3, offset), be32(4, size))


def lookup(set_name: str, *, into: int | None = None, negate: bool = False) -> bytes:
    """Go on only where register 1 is in the set; with ``into`` the map's value goes to that register."""
    value = be32(3, into) if into is not None else b""
    return _expr("lookup", word(1, set_name), be32(2, 1), value, be32(5, 1 if negate else 0))


def ct_bits(key: int, mask: int) -> bytes:
    """Go on only where the connection's ``key`` (0 state, 2 status) has one of the bits."""
    bits = struct.pack("=I", mask)
    return (
        _expr("ct", be32(1, 1), be32(2, key))
        + _expr("bitwise", be32(1, 1), be32(2, 1), be32(3, 4), nest(4, attr(1, bits)), nest(5, attr(1, bytes(4))))
        + compare(bytes(4), equal=False)
    )


def destination_is_local() -> bytes:
    """``fib daddr type local``: the packet is for one of this host's addresses."""
    return _expr("fib", be32(1, 1), be32(2, 3), be32(3, 2)) + compare(struct.pack("=I", 2))


def verdict(code: int, chain: str = "") -> bytes:
    return _expr("immediate", be32(1, 0), nest(2, nest(2, be32(1, code), word(2, chain) if chain else b"")))


def masked(mask: bytes, value: bytes, *, equal: bool = True) -> bytes:
    """Go on only where register 1, of which ``mask`` leaves some bits, is ``value``."""
    size = len(mask)
    zero = nest(5, attr(1, bytes(size)))
    return _expr("bitwise", be32(1, 1), be32(2, 1), be32(3, size), nest(4, attr(1, mask)), zero) + compare(
        value, equal=equal
    )


def dnat_to_registers(family: int = IPV4) -> bytes:
    """New destination from register 1: the address, and behind it the port."""
    port = 12 if family == IPV6 else 9
    return _expr("nat", be32(1, 1), be32(2, family), be32(3, 1), be32(4, 1), be32(5, port), be32(6, port))


def dnat(address: bytes, port: int) -> bytes:
    """This new destination."""
    loads = [(1, address), (2, struct.pack("!H", port))]
    return b"".join(_expr("immediate", be32(1, n), nest(2, attr(1, data))) for n, data in loads) + _expr(
        "nat", be32(1, 1), be32(2, IPV4), be32(3, 1), be32(4, 1), be32(5, 2), be32(6, 2)
    )


def masquerade() -> bytes:
    return _expr("masq")


# ─ objects ─


class SetSpec(NamedTuple):
    """A set, or with ``value`` a map. ``key`` and ``value`` list the TYPE_* of the fields."""

    name: str
    key: tuple[int, ...]
    value: tuple[int, ...] = ()
    interval: bool = False


class Element(NamedTuple):
    """One element; ``end`` closes an interval (inclusive for concatenated keys, exclusive for simple ones)."""

    key: bytes
    value: bytes = b""
    end: bytes = b""


def _type_code(fields: Sequence[int]) -> int:
    code = 0
    for field in fields:
        code = code << 6 | field
    return code


def new_table(name: str, tag: bytes) -> Message:
    return Message(NEWTABLE, F_CREATE, _head(INET) + word(1, name) + attr(6, tag))


def del_table(name: str) -> Message:
    return Message(DELTABLE, 0, _head(INET) + word(1, name))


def new_chain(table: str, name: str, hook: tuple[str, int, int] | None = None) -> Message:
    """``hook``: (type filter or nat, HOOK_*, priority); none makes a chain to jump to. The policy is accept."""
    body = _head(INET) + word(1, table) + word(3, name)
    if hook:
        kind, number, priority = hook
        body += nest(4, be32(1, number), be32(2, priority)) + be32(5, ACCEPT) + word(7, kind)
    return Message(NEWCHAIN, F_CREATE, body)


def new_set(table: str, spec: SetSpec, number: int) -> Message:
    """``number`` must be unique among the sets of one transaction."""
    flags = (_SET_MAP if spec.value else 0) | (_SET_INTERVAL if spec.interval else 0)
    ranged = spec.interval and len(spec.key) > 1
    body = _head(INET) + word(1, table) + word(2, spec.name)
    body += be32(3, flags | (_SET_CONCAT if ranged else 0))
    body += be32(4, _type_code(spec.key)) + be32(5, sum(_WIDTH[f] for f in spec.key))
    if spec.value:
        body += be32(6, _type_code(spec.value)) + be32(7, sum(_WIDTH[f] for f in spec.value))
    if ranged:  # the kernel looks each field up by itself and needs their sizes
        body += nest(9, nest(2, *(nest(1, be32(1, _EXACT[f])) for f in spec.key)))
    body += be32(10, number)
    if len(spec.key) == 1:
        # For `nft list`: is the key in the host's byte order (names) or the network's?
        body += attr(13, b"\0\4" + struct.pack("=I", 1 if spec.key[0] == TYPE_IFNAME else 2))
    return Message(NEWSET, F_CREATE, body)


def rule(family: int, table: str, chain: str, *expressions: bytes, append: bool = True, comment: str = "") -> Message:
    """A rule at the chain's end, or at its head."""
    body = _head(family) + word(1, table) + word(2, chain) + nest(4, *expressions)
    if comment:
        note = comment.encode() + b"\0"
        body += attr(7, bytes([0, len(note)]) + note)
    return Message(NEWRULE, F_CREATE | (F_APPEND if append else 0), body)


def del_rule(family: int, table: str, chain: str, handle: bytes) -> Message:
    return Message(DELRULE, 0, _head(family) + word(1, table) + word(2, chain) + attr(3, handle))


def _encode(element: Element, concatenated: bool) -> list[bytes]:
    value = nest(2, attr(1, element.value)) if element.value else b""
    if not element.end:
        return [nest(1, nest(1, attr(1, element.key)), value)]
    if concatenated:
        return [nest(1, nest(1, attr(1, element.key)), nest(10, attr(1, element.end)), value)]
    # A simple interval is two elements: its start, and the first key behind it.
    last = nest(1, nest(1, attr(1, element.end)), be32(3, _ELEM_INTERVAL_END))
    return [nest(1, nest(1, attr(1, element.key)), value), last]


def _elements(kind: int, flags: int, table: str, spec: SetSpec, elements: Iterable[Element]) -> list[Message]:
    coded = [part for e in elements for part in _encode(e, len(spec.key) > 1)]
    start = _head(INET) + word(1, table) + word(2, spec.name)
    return [Message(kind, flags, start + nest(3, *coded[i : i + _CHUNK])) for i in range(0, len(coded), _CHUNK)]


def add_elements(table: str, spec: SetSpec, elements: Iterable[Element]) -> list[Message]:
    """Adding one that is there with the same value does nothing; with another value it is EEXIST or EBUSY."""
    return _elements(NEWSETELEM, F_CREATE, table, spec, elements)


def del_elements(table: str, spec: SetSpec, elements: Iterable[Element]) -> list[Message]:
    """ENOENT where one is missing (then none is deleted)."""
    return _elements(DELSETELEM, 0, table, spec, elements)


# ─ talking ─


def commit(nl: Netlink, messages: Sequence[Message]) -> None:
    """All of ``messages`` as one transaction.

    :raises NetlinkError: the first refusal; nothing was changed
    """
    if messages:
        body = struct.pack("!BBH", socket.AF_UNSPEC, 0, SUBSYSTEM >> 8)
        nl.transaction(Message(16, 0, body), messages, Message(17, 0, body))


def tables(nl: Netlink) -> list[str]:
    """The names of all ``inet`` tables."""
    return [string(attr_map(body, 4)[1]) for body in nl.dump(GETTABLE, _head(INET)) if body[0] == INET]


def table_tag(nl: Netlink, table: str) -> bytes | None:
    """The user data given at the table's creation; ``None`` where there is no such table."""
    reply = nl.request(GETTABLE, 0, _head(INET) + word(1, table)).check(errno.ENOENT)
    return None if reply.error else attr_map(reply.bodies[0], 4).get(6, b"")


def chain_policy(nl: Netlink, family: int, table: str, chain: str) -> int | None:
    """ACCEPT or DROP for a base chain, -1 for another, ``None`` where there is none."""
    reply = nl.request(GETCHAIN, 0, _head(family) + word(1, table) + word(3, chain)).check(errno.ENOENT)
    if reply.error:
        return None
    policy = attr_map(reply.bodies[0], 4).get(5)
    return struct.unpack("!I", policy)[0] if policy else -1


class RuleInfo(NamedTuple):
    """``refuses``: it drops or rejects whatever comes to it."""

    chain: str
    handle: bytes
    comment: str
    refuses: bool = False


def _refuses(expressions: bytes) -> bool:
    """Counted or logged perhaps, but on no condition: dropped or rejected."""
    steps = [(string(f.get(1, b"")), f.get(2, b"")) for f in (attr_map(data) for _, data in attrs(expressions))]
    steps = [(name, data) for name, data in steps if name not in ("counter", "log")]
    if len(steps) != 1:
        return False
    name, data = steps[0]
    fields = attr_map(data)
    if name == "immediate":
        verdict_of = attr_map(attr_map(fields.get(2, b"")).get(2, b""))
        return verdict_of.get(1) == struct.pack("!I", DROP)
    return name == "reject" or (name == "target" and string(fields.get(1, b"")) in ("REJECT", "DROP"))


def rules(nl: Netlink, family: int, table: str, chain: str = "") -> list[RuleInfo]:
    """The rules of a table, or of one chain; none where it does not exist."""
    body = _head(family) + word(1, table) + (word(2, chain) if chain else b"")
    found = []
    for answer in nl.dump(GETRULE, body):
        fields = attr_map(answer, 4)
        if string(fields[1]) != table or (chain and string(fields[2]) != chain):
            continue  # kernels differ in how much of the request they use as a filter
        note = fields.get(7, b"")
        comment = string(note[2 : 2 + note[1]]) if len(note) > 2 and note[0] == 0 else ""
        found.append(RuleInfo(string(fields[2]), fields[3], comment, _refuses(fields.get(4, b""))))
    return found


def elements(nl: Netlink, table: str, spec: SetSpec) -> set[Element]:
    """What a set holds now, in the form that :func:`add_elements` takes.

    :raises NetlinkError: ENOENT where there is no such set
    """
    found: list[tuple[Element, bool]] = []
    for answer in nl.dump(GETSETELEM, _head(INET) + word(1, table) + word(2, spec.name)):
        for _, item in attrs(attr_map(answer, 4).get(3, b"")):
            fields = attr_map(item)
            key, value, end = (attr_map(fields.get(i, b"")).get(1, b"") for i in (1, 2, 10))
            closing = bool(fields.get(3, b"\0")[-1] & _ELEM_INTERVAL_END)
            found.append((Element(key, value, end), closing))
    if not spec.interval or len(spec.key) > 1:
        return {element for element, _ in found}
    return _pair(found)


def _pair(found: list[tuple[Element, bool]]) -> set[Element]:
    """Starts and ends of simple intervals put together again. Where two touch, the kernel keeps both marks."""
    starts = sorted(e.key for e, closing in found if not closing)
    ends = sorted(e.key for e, closing in found if closing)
    return {Element(s, b"", next((e for e in ends if e > s), b"")) for s in starts}
