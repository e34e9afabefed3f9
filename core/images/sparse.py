"""Sparse files in tar archives: the old GNU format and pax formats 0.0, 0.1, 1.0 (GNU tar manual, "Sparse Formats")."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from core.errors import Corrupt

_BLOCK = 512
_MOST_EXTENTS = 1 << 20
_LONGEST = 1 << 62

Extents = list[tuple[int, int]]


def _broken(why: str) -> Corrupt:
    return Corrupt("the layer is damaged", f"a sparse file's map {why}", "Have the image's maker build it anew")


def _decimal(value: bytes) -> int:
    if not value.isdigit() or len(value) > 20:
        raise _broken(f"has {value[:40]!r} for a number")
    return int(value)


def _octal(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0").partition(b"\0")[0].strip() or b"0"
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise _broken(f"has {field!r} for a number")
    return int(digits, 8)


def known(extra: Mapping[bytes, bytes], points: list[bytes]) -> bool:
    """Whether these pax records are a sparse file's, of GNU tar's format 0.0, 0.1 (perhaps without saying so) or 1.0. A
    file with other ones is plain, as it is for Go."""
    version = extra.get(b"GNU.sparse.major", b""), extra.get(b"GNU.sparse.minor", b"")
    if version == (b"", b""):
        return bool(points or extra.get(b"GNU.sparse.map"))
    return version in ((b"0", b"0"), (b"0", b"1"), (b"1", b"0"))


def read_map(
    take: Callable[[int], bytes], block: bytes, extra: Mapping[bytes, bytes], points: list[bytes], size: int
) -> tuple[Extents, int, int]:
    """The map of the sparse file whose header is ``block``.

    :param take: reads the archive on from behind the header
    :param extra: its pax records; ``points`` the repeated ones of format 0.0
    :param size: bytes of content in the archive, where format 1.0 begins with the map
    :returns: (extents, length of the file, bytes of the content that the map took)
    :raises Corrupt: extents that overlap, exceed the file, or do not match the content
    """
    taken = 0
    if block[156:157] == b"S":
        extents, length = _old_map(take, block)
    elif extra.get(b"GNU.sparse.major") == b"1":
        length = _decimal(extra.get(b"GNU.sparse.realsize", b""))
        extents, taken = _map_in_content(take, size)
    elif b"GNU.sparse.map" in extra or points:
        length = _decimal(extra.get(b"GNU.sparse.size", b""))
        numbers = extra[b"GNU.sparse.map"].split(b",") if b"GNU.sparse.map" in extra else points
        extents = _pairs([_decimal(value) for value in numbers])
    else:
        raise _broken("is missing")
    _check(extents, length, size - taken)
    return extents, length, taken


def _pairs(numbers: list[int]) -> Extents:
    if len(numbers) % 2 or len(numbers) > 2 * _MOST_EXTENTS:
        raise _broken("has an odd or absurd count of numbers")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _old_map(take: Callable[[int], bytes], block: bytes) -> tuple[Extents, int]:
    """Four pairs in the header, then 21 in each following block while the flag says so."""
    length = _octal(block[483:495])
    numbers: list[int] = []
    area, more = block[386:482], block[482]
    while True:
        for at in range(0, len(area), 24):
            if not area[at]:
                break
            numbers += [_octal(area[at : at + 12]), _octal(area[at + 12 : at + 24])]
        if not more:
            return _pairs(numbers), length
        if len(numbers) > 2 * _MOST_EXTENTS:
            raise _broken("does not end")
        following = take(_BLOCK)
        area, more = following[:504], following[504]


def _map_in_content(take: Callable[[int], bytes], size: int) -> tuple[Extents, int]:
    """Decimal lines at the start of the content: their count, then offset and length of each extent."""
    data, taken = b"", 0

    def line() -> int:
        nonlocal data, taken
        while b"\n" not in data:
            if taken + _BLOCK > size or len(data) > 64:
                raise _broken("is cut short")
            data += take(_BLOCK)
            taken += _BLOCK
        head, _, data = data.partition(b"\n")
        return _decimal(head)

    count = line()
    if count > _MOST_EXTENTS:
        raise _broken(f"has {count} extents")
    return _pairs([line() for _ in range(2 * count)]), taken


def _check(extents: Extents, length: int, content: int) -> None:
    end = 0
    for offset, size in extents:
        if offset < end:
            raise _broken("has overlapping extents")
        end = offset + size
    if end > length or length > _LONGEST or sum(size for _, size in extents) != content:
        raise _broken("does not match the file's size")
