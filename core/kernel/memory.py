"""The pages of this process's own memory."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import re
import struct
from collections.abc import Sequence

from core.kernel.libc import call

_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, Linux 5.14
_PRESENT, _EXCLUSIVE = 1 << 63, 1 << 56
_WRITABLE = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw-p ", re.M)


Pages = Sequence[tuple[int, int]]  # first address, and the one behind the last


def writable() -> Pages:
    """All that can be written to and is this process's own."""
    with open("/proc/self/maps") as file:
        return [(int(start, 16), int(end, 16)) for start, end in _WRITABLE.findall(file.read())]


def own(pages: Pages) -> None:
    """Copy what a fork has left in common with the parent, all at once, so that no later write has to wait for it.

    Where the kernel cannot do that nothing happens: the writes do it.
    """
    for first, last in pages:
        try:
            call("madvise", ctypes.c_void_p(first), ctypes.c_size_t(last - first), _POPULATE_WRITE)
        except OSError:
            continue  # another layout than where the pages were noted


def written() -> Pages:
    """What is no more in common with any other process: written to since the fork (Documentation/admin-guide/mm/
    pagemap.rst, bit 56). Nothing where the kernel does not tell (CONFIG_PROC_PAGE_MONITOR)."""
    found: list[tuple[int, int]] = []
    size = mmap.PAGESIZE
    with contextlib.suppress(OSError), open("/proc/self/pagemap", "rb", buffering=0) as file:
        for start, end in writable():
            file.seek(start // size * 8)
            for number, (entry,) in enumerate(struct.iter_unpack("=Q", file.read((end - start) // size * 8))):
                if entry & _PRESENT and entry & _EXCLUSIVE:
                    first = start + number * size
                    if found and found[-1][1] == first:
                        found[-1] = (found[-1][0], first + size)
                    else:
                        found.append((first, first + size))
    return found
