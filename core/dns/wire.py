"""DNS messages: a question taken out of a packet, an answer put into one (RFC 1035, 3596, 6891).

Names stay as they are on the wire, a length before each label: what is looked up is the same bytes in lower case. No
compression pointer is ever followed. A question cannot use one, as nothing stands before it; every name after it is
only skipped, and ends with its first pointer.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

A, PTR, OPT, AAAA, IXFR, AXFR, ANY = 1, 12, 41, 28, 251, 252, 255
_IN = 1

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16

HEADER = 12  # bytes
PLAIN = 512  # bytes of a UDP answer for who does not say that it takes more
LARGEST = 65535  # bytes of an answer over TCP
_OURS = 1232  # bytes of a UDP question that we say we take: what passes everywhere (DNS flag day 2020)

# Addresses change with every start of a container: nobody may keep one for later.
_TTL = 0  # seconds

_QR, _OPCODE, _AA, _TC, _RD, _RA, _CD = 0x8000, 0x7800, 0x0400, 0x0200, 0x0100, 0x0080, 0x0010
_HEAD = struct.Struct("!6H")
_TAIL = struct.Struct("!HH")  # of a question: type, class
_RECORD = struct.Struct("!HHIH")  # of a record: type, class, seconds to live, length
_DO = 0x8000  # DNSSEC answers wanted; copied into the answer (RFC 3225)


class Malformed(Exception):
    """The packet is not a question that we answer; ``code`` says why. ``question`` is empty where it made no sense."""

    def __init__(self, code: int, question: bytes = b"") -> None:
        super().__init__(code)
        self.code = code
        self.question = question


class Query(NamedTuple):
    """One question.

    :param number: the message's id
    :param flags: of its header
    :param name: in lower case, as on the wire
    :param kind: A, PTR …
    :param question: as it came, with its type and class
    :param size: bytes of the longest answer that it takes over UDP
    :param opt: the OPT record for the answer; empty where the question has none
    """

    number: int
    flags: int
    name: bytes
    kind: int
    question: bytes
    size: int
    opt: bytes


def is_question(data: bytes) -> bool:
    """False for what must not be answered: a packet without a header, or an answer itself."""
    return len(data) >= HEADER and not data[2] & 0x80


def parse(data: bytes) -> Query | None:
    """The question in a packet; None where it is none (see :func:`is_question`).

    :raises Malformed: answer with :func:`refusal`
    """
    if not is_question(data):
        return None
    number, flags, questions, answers, authorities, more = _HEAD.unpack_from(data)
    if flags & _OPCODE:
        raise Malformed(NOTIMP)
    if questions != 1:
        raise Malformed(FORMERR)
    try:
        end = _after_labels(data, HEADER)
        kind, what = _TAIL.unpack_from(data, end)
        others = answers + authorities + more
        size, opt, version = _options(data, end + 4, others) if others else (PLAIN, b"", 0)
    except (IndexError, struct.error):
        raise Malformed(FORMERR) from None
    question = data[HEADER : end + 4]
    if version:
        raise Malformed(BADVERS, question)
    if what != _IN or kind in (AXFR, IXFR, OPT):
        raise Malformed(REFUSED, question)
    return Query(number, flags, data[HEADER:end].lower(), kind, question, size, opt)


def _after_labels(data: bytes, offset: int) -> int:
    """Where a name without pointers ends. :raises IndexError: with the packet; :raises Malformed:"""
    begin = offset
    while length := data[offset]:
        offset += length + 1
        if length > 63 or offset - begin > 254:
            raise Malformed(FORMERR)
    return offset + 1


def _options(data: bytes, offset: int, records: int) -> tuple[int, bytes, int]:
    """(size, opt, version of EDNS) of a question with further records, of which only OPT says something to us.

    Each takes eleven bytes at least: the packet ends before a wrong count becomes expensive.
    """
    size, opt, version = PLAIN, b"", 0
    for _ in range(records):
        root = not data[offset]
        while length := data[offset]:
            if length >= 0xC0:
                offset += 1  # a pointer: two bytes, and the name ends
                break
            if length > 63:
                raise Malformed(FORMERR)
            offset += length + 1
        kind, theirs, flags, length = _RECORD.unpack_from(data, offset + 1)
        offset += 11 + length
        if offset > len(data):
            raise Malformed(FORMERR)
        if kind == OPT:
            if opt or not root:
                raise Malformed(FORMERR)
            size, opt, version = max(PLAIN, theirs), _opt(flags & _DO), flags >> 16 & 0xFF
    return size, opt, version


def _opt(flags: int, code: int = NOERROR) -> bytes:
    """An OPT record; ``code``: the part of the response code that the header has no room for is in it."""
    return b"\0" + _RECORD.pack(OPT, _OURS, (code >> 4) << 24 | flags, 0)


def answer(
    query: Query, records: Sequence[bytes] = (), *, limit: int = LARGEST, code: int = NOERROR, ours: bool = True
) -> bytes:
    """An answer; what does not fit is left out, and that is told (TC).

    :param records: made by :func:`record`
    :param limit: bytes
    :param ours: it is about a name that nobody else decides
    """
    flags = _QR | _RA | (query.flags & (_RD | _CD)) | code
    if ours:
        flags |= _AA
    body = b"".join(records)
    room = limit - HEADER - len(query.question) - len(query.opt)
    if len(body) > room:
        records, flags = _fitting(records, room), flags | _TC
        body = b"".join(records)
    head = _HEAD.pack(query.number, flags, 1, len(records), 0, 1 if query.opt else 0)
    return head + query.question + body + query.opt


def _fitting(records: Sequence[bytes], room: int) -> Sequence[bytes]:
    for count, each in enumerate(records):
        room -= len(each)
        if room < 0:
            return records[:count]
    return records


def refusal(data: bytes, error: Malformed) -> bytes:
    """The answer to a packet that :func:`parse` has found malformed."""
    number, flags = struct.unpack_from("!HH", data)
    flags = _QR | (flags & (_OPCODE | _RD)) | (error.code & 0xF)
    opt = _opt(0, error.code) if error.code == BADVERS else b""
    head = _HEAD.pack(number, flags, 1 if error.question else 0, 0, 0, 1 if opt else 0)
    return head + error.question + opt


def record(kind: int, value: bytes) -> bytes:
    """A record about the name of the question, which a pointer stands for."""
    return b"\xc0\x0c" + _RECORD.pack(kind, _IN, _TTL, len(value)) + value


def name(text: str) -> bytes:
    """A name in lower case, as on the wire. :raises ValueError: it cannot be one"""
    labels = [label.encode() for label in text.lower().rstrip(".").split(".")]
    if not all(0 < len(label) < 64 for label in labels):
        raise ValueError(f"not a domain name: {text!r}")
    coded = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    if len(coded) > 255:
        raise ValueError(f"not a domain name: {text!r}")
    return coded


def address(text: str) -> tuple[int, bytes]:
    """(A or AAAA, value) of an address. :raises ValueError: it is none"""
    kind, family = (AAAA, socket.AF_INET6) if ":" in text else (A, socket.AF_INET)
    try:
        return kind, socket.inet_pton(family, text)
    except OSError:
        raise ValueError(f"not an address: {text!r}") from None


def reverse(value: bytes) -> bytes:
    """The name that a PTR question has for an address (RFC 1035 section 3.5, RFC 3596 section 2.5)."""
    if len(value) == 4:
        return _join((b"%d" % byte for byte in reversed(value)), b"\7in-addr\4arpa\0")
    return _join((b"%x" % digit for byte in reversed(value) for digit in (byte & 15, byte >> 4)), b"\3ip6\4arpa\0")


def _join(labels: Iterable[bytes], rest: bytes) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in labels) + rest


# ─ answers of other servers ─


def answers(data: bytes, number: int, question: bytes) -> bool:
    """Is the packet an answer to this question?

    A server that could not read the question may leave it out of its answer, which then says nothing but that.
    """
    if len(data) < HEADER:
        return False
    theirs, flags, questions = struct.unpack_from("!3H", data)
    if theirs != number or not flags & _QR or flags & _OPCODE:
        return False
    if questions == 0:
        return flags & 0xF not in (NOERROR, NXDOMAIN)
    asked = data[HEADER : HEADER + len(question)]
    # Some servers tell the name in lower case; type and class are no letters.
    return questions == 1 and asked[-4:] == question[-4:] and asked[:-4].lower() == question[:-4].lower()


def code_of(data: bytes) -> int:
    """Response code of an answer."""
    return data[3] & 0xF


def is_truncated(data: bytes) -> bool:
    return bool(data[2] & _TC >> 8)


def relayed(data: bytes, query: Query, limit: int = LARGEST) -> bytes:
    """Another server's answer as the answer to ``query``; without content, and told so, where it is too long."""
    if len(data) > limit:
        flags = struct.unpack_from("!H", data, 2)[0] | _TC
        head = _HEAD.pack(query.number, flags, 1, 0, 0, 1 if query.opt else 0)
        return head + query.question + query.opt
    head = struct.pack("!H", query.number) + data[2:HEADER]
    # The letters as they were asked (a client may compare them); the length is the same.
    asked = query.question if data[4:6] == b"\0\1" else b""
    return head + asked + data[HEADER + len(asked) :]
