"""Where the disk is full in the middle of a pull: how much is missing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from core.errors import NoSpace
from core.units import human_size

_USUAL = 2.5  # bytes unpacked from one of a gzip layer, where nothing better is known


def is_full(error: BaseException) -> bool:
    """True for every error that says so: the engine's, the kernel's."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, NoSpace)


def missing(folder: Path, layers: Iterable[tuple[int, int]], seen: Iterable[tuple[int, int]]) -> NoSpace:
    """The error for a pull or load that has run out of space, once what it has left half-made is deleted.

    :param folder: on the file system that is full
    :param layers: of each that is not there yet: bytes of its blob, and how many of them are on this disk already
    :param seen: of each that was unpacked: bytes of its blob and of its files, from which the others are judged
    """
    rest, done = list(layers), list(seen)
    packed, files = sum(size for size, _ in done), sum(size for _, size in done)
    download = sum(size - have for size, have in rest)
    unpacked = int(sum(size for size, _ in rest) * (files / packed if packed else _USUAL))
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    need = download + unpacked
    words = f"some {human_size(max(need - free, 1))} are missing: " if need > free else "not all of it can be used: "
    if download:
        words += f"{human_size(download)} are still to be downloaded, "
    words += f"about {human_size(unpacked)} to be unpacked, {human_size(free)} are free"
    fix = "Free some space and pull again: it goes on from here" if download else "Free some space and try again"
    return NoSpace(f"the disk of {folder} is full", words, fix)
