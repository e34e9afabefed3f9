"""Named byte strings in one compressed file: a layer's index, and the table of its split archive.

::

    zstd frame with a checksum: magic, length of the head (u32), head (JSON: name → bytes), the strings

Numbers are columns of the machine's own byte order (:mod:`array`): a store does not travel.
"""

# No dataclasses and no typing: the unpack server loads this.

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

from backports import zstd

from core.errors import Corrupt

_MAGIC = b"wharf columns 1\n"
_LENGTH = struct.Struct("<I")
_OPTIONS: dict[int, int] = {zstd.CompressionParameter.compression_level: 3, zstd.CompressionParameter.checksum_flag: 1}


def pack(parts: Mapping[str, bytes]) -> bytes:
    """The file's content."""
    head = json.dumps({name: len(part) for name, part in parts.items()}).encode()
    return zstd.compress(b"".join((_MAGIC, _LENGTH.pack(len(head)), head, *parts.values())), options=_OPTIONS)


def unpack(data: bytes) -> dict[str, bytes]:
    """What :func:`pack` was given.

    :raises Corrupt: the disk has damaged it
    """
    try:
        plain = zstd.decompress(data)
        if not plain.startswith(_MAGIC):
            raise ValueError("it does not begin as it should")
        at = len(_MAGIC) + _LENGTH.size
        [length] = _LENGTH.unpack_from(plain, len(_MAGIC))
        sizes, parts = json.loads(plain[at : at + length]), {}
        at += length
        for name, size in sizes.items():
            parts[name] = plain[at : at + size]
            at += size
        if at != len(plain):
            raise ValueError("its length is wrong")
    except (zstd.ZstdError, ValueError, struct.error) as error:
        raise Corrupt(
            "a layer's records are damaged", str(error), "Mend the layer with: wharf fsck --repair"
        ) from error
    return parts
