"""The headers of a tar's members, as :mod:`core.images.tarwrite` and the archives of images have them.

Formats: ustar; pax records where that cannot hold a value (POSIX.1-2017).
"""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Mapping

from core.errors import Conflict
from core.images.tar import BLOCK, BLOCK_DEVICE, CHAR, FILE

_MOST_ID, _MOST_SIZE, _MOST_SECOND = 0o7777777, 0o77777777777, 0o77777777777
_ASCII = bytes(range(128)) + b"_" * 128


def _attributes(path: bytes, attributes: Mapping[str, bytes]) -> dict[bytes, bytes]:
    """As GNU tar and bsdtar write them. :raises Conflict: one that no tar can hold"""
    for key in attributes:
        if "=" in key:
            raise Conflict(
                f"cannot archive the attribute {key!r} of {os.fsdecode(path)!r}",
                "no tar can hold one with = in its name",
                "Remove it with setfattr -x",
            )
    return {b"SCHILY.xattr." + os.fsencode(key): value for key, value in attributes.items()}


def header(
    path: bytes,
    kind: bytes,
    status: os.stat_result,
    size: int,
    attributes: Mapping[str, bytes],
    link: bytes = b"",
    *,
    sparse: bool = False,
) -> bytes:
    """What stands before a member's content, extended header included.

    :param size: bytes of content in the archive; the file's own is ``status``'
    """
    extra: dict[bytes, bytes] = {}
    name = path
    if sparse:
        extra[b"GNU.sparse.major"], extra[b"GNU.sparse.minor"] = b"1", b"0"
        extra[b"GNU.sparse.name"], extra[b"GNU.sparse.realsize"] = path, b"%d" % status.st_size
        name = _short(b"GNUSparseFile.0/" + path.rpartition(b"/")[2][:80])
    if len(name) > 100 or not name.isascii():
        extra[b"path"] = name
        name = _short(name)
    if len(link) > 100 or not link.isascii():
        extra[b"linkpath"] = link
        link = _short(link)
    second, rest = divmod(status.st_mtime_ns, 10**9)
    if rest or not 0 <= second <= _MOST_SECOND:
        extra[b"mtime"] = _time(status.st_mtime_ns)
        second = second if 0 <= second <= _MOST_SECOND else 0
    uid, gid = status.st_uid, status.st_gid
    if uid > _MOST_ID:
        extra[b"uid"], uid = b"%d" % uid, 0
    if gid > _MOST_ID:
        extra[b"gid"], gid = b"%d" % gid, 0
    if size > _MOST_SIZE:
        extra[b"size"], size = b"%d" % size, 0
    extra |= _attributes(path, attributes)
    device = (os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in (CHAR, BLOCK_DEVICE) else (0, 0)
    block = _block(name, kind, status.st_mode & 0o7777, uid, gid, size, second, link, device)
    return _pax(path, extra) + block if extra else block


def ordinary(path: bytes, status: os.stat_result) -> bytes | None:
    """:func:`header` of a regular file without attributes, in a third of the time; None where it is not one of those
    that have a short name in ASCII, small ids and a time of our days."""
    size, uid, gid = status.st_size, status.st_uid, status.st_gid
    second, rest = divmod(status.st_mtime_ns, 10**9)
    if len(path) > 100 or not path.isascii() or uid > _MOST_ID or gid > _MOST_ID:
        return None
    if size > _MOST_SIZE or not 0 <= second <= _MOST_SECOND:
        return None
    numbers = (path.ljust(100, b"\0"), status.st_mode & 0o7777, uid, gid, size, second)
    head = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % numbers
    block = b"%b%06o\0 %b" % (head, (zlib.adler32(head) & 0xFFFF) - 1 + _FILE_SUM, _FILE_TAIL)
    if not rest:
        return block
    time = (b"%d.%09d" % (second, rest)).rstrip(b"0")
    record = b"%d mtime=%b\n" % (len(time) + 10, time)  # of which two are the length's own digits
    name = b"PaxHeaders.0/" + path.rpartition(b"/")[2][:80]
    middle, added = _extension(len(record))
    check = (zlib.adler32(name) & 0xFFFF) - 1 + added
    padded = (name.ljust(100, b"\0"), middle, check, _PAX_TAIL, record.ljust(BLOCK, b"\0"), block)
    return b"%b%b%06o\0 %b%b%b" % padded


@functools.lru_cache(64)
def _extension(size: int) -> tuple[bytes, int]:
    """Of the header of ``size`` bytes of pax records: what stands between name and sum, and what all adds to the sum
    that is not the name."""
    middle = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (0o644, 0, 0, size, 0)
    return middle, _sum(middle) + _PAX_SUM


def file_header(path: str, size: int) -> bytes:
    """Of a file in an archive of images: nobody's, of no time."""
    name = os.fsencode(path)
    extra = {b"size": b"%d" % size} if size > _MOST_SIZE else {}
    block = _block(name, FILE, 0o644, 0, 0, 0 if extra else size, 0, b"", (0, 0))
    return _pax(name, extra) + block if extra else block


def mark_header(path: bytes) -> bytes:
    """A whiteout: an empty file whose owner and time nobody looks at."""
    extra = {b"path": path} if len(path) > 100 or not path.isascii() else {}
    block = _block(_short(path) if extra else path, FILE, 0o600, 0, 0, 0, 0, b"", (0, 0))
    return _pax(path, extra) + block if extra else block


def _short(name: bytes) -> bytes:
    """For readers that know no pax records: something like the name."""
    return name[:100].translate(_ASCII)


def _block(
    name: bytes,
    kind: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    link: bytes,
    device: tuple[int, int],
) -> bytes:
    head = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(100, b"\0"), mode, uid, gid, size, mtime)
    tail, rest = _tail(kind, link, device)
    return b"%b%06o\0 %b" % (head, _sum(head) + rest, tail)


@functools.lru_cache(64)  # the same for all that is neither link nor device
def _tail(kind: bytes, link: bytes, device: tuple[int, int]) -> tuple[bytes, int]:
    """What follows a header's sum, and what it adds to that, in which the field for the sum itself counts as spaces."""
    tail = b"%b%bustar\x0000%b%07o\0%07o\0%b" % (kind, link.ljust(100, b"\0"), bytes(64), *device, bytes(167))
    return tail, _sum(tail[:256]) + _sum(tail[256:]) + 8 * 32


def _sum(data: bytes) -> int:
    """Of at most 256 bytes. Adler-32's lower half is that + 1, modulo 65521, which they cannot reach: five times faster
    than sum()."""
    return (zlib.adler32(data) & 0xFFFF) - 1


def _time(nanoseconds: int) -> bytes:
    """pax's decimal seconds."""
    second, rest = divmod(abs(nanoseconds), 10**9)
    text = b"%d.%09d" % (second, rest) if rest else b"%d" % second
    text = text.rstrip(b"0") if rest else text
    return b"-" + text if nanoseconds < 0 else text


def _pax(path: bytes, extra: Mapping[bytes, bytes]) -> bytes:
    data = b"".join(_record(key, extra[key]) for key in sorted(extra))
    name = _short(b"PaxHeaders.0/" + path.rstrip(b"/").rpartition(b"/")[2][:80])
    block = _block(name, b"x", 0o644, 0, 0, len(data), 0, b"", (0, 0))
    return block + data + bytes(-len(data) % BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    """``length key=value\\n``, where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length += 1
    return b"%d %b=%b\n" % (length, key, value)


_FILE_TAIL, _FILE_SUM = _tail(FILE, b"", (0, 0))
_PAX_TAIL, _PAX_SUM = _tail(b"x", b"", (0, 0))
