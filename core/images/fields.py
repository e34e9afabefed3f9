"""What stands in a tar's headers: numbers, sums, times, pax records. Whatever is not as it should be is refused.

Archives have tens of thousands of entries, and each has a dozen fields: what comes again and again is remembered, and
the common forms are recognised before the rare ones.
"""

# No dataclasses and no typing: the unpack server loads this.

from __future__ import annotations

import functools
import os
import zlib

from core.errors import Corrupt

POINTS = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")  # keys that pax sparse format 0.0 repeats


def broken(why: str) -> Corrupt:
    """The error for a layer that is not a proper tar archive."""
    return Corrupt("the layer is damaged", why, "Pull the image again, or have its maker build it anew")


def shown(name: bytes) -> str:
    """The beginning of a name, or of something else in an archive, in quotes and for people."""
    return repr(os.fsdecode(name[:80]))


@functools.lru_cache(4096)  # owners, modes and times come again and again
def number(field: bytes) -> int:
    """A header's number: octal digits, or GNU's base 256 where the first bit is set.

    :raises Corrupt:
    """
    if field[0] & 0x80:
        if field[0] == 0xFF:
            return int.from_bytes(field, "big", signed=True)
        return int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
    digits = field.strip(b" \0").partition(b"\0")[0].strip()
    if not digits:
        return 0
    try:
        if digits.isdigit():  # int() alone would take "1_0", "+7" and "-7" too
            return int(digits, 8)
    except ValueError:
        pass
    raise broken(f"a header has {shown(field)} where an octal number belongs")


@functools.lru_cache(1024)
def access(fields: bytes) -> tuple[int, int, int]:
    """(mode, uid, gid), which stand side by side in a header; an archive has few of them that differ."""
    return number(fields[:8]) & 0o7777, number(fields[8:16]), number(fields[16:])


@functools.lru_cache(16384)
def adler(stored: bytes) -> int:
    """The lower half of the Adler-32 of a header whose field for the sum, which counts as spaces in it, is ``stored``:
    the sum of all bytes + 1."""
    return number(stored) - 8 * 32 + sum(stored) + 1


def check_sum(block: bytes, stored: bytes) -> None:
    """:param stored: the block's field for the sum

    :raises Corrupt: the sum is wrong
    """
    # Adler-32's lower half is counted modulo 65521, which a block of ASCII cannot reach: a tenth of the time of sum().
    if block.isascii() and zlib.adler32(block) & 0xFFFF == adler(stored):
        return
    rest = block[:148] + b" " * 8 + block[156:]
    expected = number(stored)
    if sum(rest) != expected and sum(byte - 256 if byte > 127 else byte for byte in rest) != expected:
        raise broken("a header's checksum is wrong")


def decimal(value: bytes, most: int = 20) -> int:
    """A pax number of up to ``most`` digits.

    :raises Corrupt: not digits, or more than any field needs
    """
    if not value.isdigit() or len(value) > most:
        raise broken(f"a pax record has {shown(value[:40])} where a decimal number belongs")
    return int(value)


# How the records begin that are nothing but a time, as Go and Python write them → how long they are.
_TIMES = {b"%d mtime=" % length: length for length in range(11, 40)}
_POWERS = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000]
_length = functools.lru_cache(1024)(decimal)  # of records: few that differ


def nanoseconds(value: bytes) -> int:
    """From pax's decimal seconds, exactly: ``-1.5`` is 1.5 s before the epoch. :raises Corrupt:"""
    missing = 20 - len(value)
    if 0 <= missing < 9 and value[10] == 0x2E and (digits := value[:10] + value[11:]).isdigit():
        return int(digits) * _POWERS[missing]  # a time in this century
    whole, _, part = value.removeprefix(b"-").partition(b".")
    result = decimal(whole + part[:9].ljust(9, b"0"), 29)
    return -result if value[:1] == b"-" else result


def pax_records(data: bytes, extra: dict[bytes, bytes], points: list[bytes]) -> None:
    """Put each record ``length key=value\\n`` into ``extra``, or its value into ``points``.

    :raises Corrupt:
    """
    at, whole = 0, len(data)
    if _TIMES.get(data[:9]) == whole and data[-1] == 0x0A:
        extra[b"mtime"] = data[9:-1]
        return
    while at < whole:
        space = data.find(b" ", at, at + 20)
        if space < 0:
            raise broken("a pax record has no length")
        end = at + _length(data[at:space])
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end > whole or end <= space + 1 or data[end - 1] != 0x0A or not equals or not key:
            raise broken("a pax record's length is wrong")
        if key in POINTS:
            points.append(value)
        else:
            extra[key] = value
        at = end
