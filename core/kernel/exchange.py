"""Swap two paths in one step: renameat2(2) with RENAME_EXCHANGE (Linux 3.15; ext4, xfs, btrfs, tmpfs)."""

from __future__ import annotations

import os
from pathlib import Path

from core.kernel.libc import AT_FDCWD, SYS_RENAMEAT2, syscall

_EXCHANGE = 2


def exchange(one: Path, other: Path) -> None:
    """Each gets the other's name; there is no moment at which one of them is missing.

    :raises OSError: ``EINVAL`` where the file system cannot
    """
    syscall(SYS_RENAMEAT2, AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), _EXCHANGE, what=str(other))
