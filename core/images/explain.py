"""The kernel's refusals while a layer is unpacked, in the engine's words."""

from __future__ import annotations

import errno
import os

from core.errors import NoSpace, Unavailable, Unsupported, WharfError
from core.images import tar

_BAD_ARCHIVE = frozenset(
    {errno.ELOOP, errno.ENOTDIR, errno.EXDEV, errno.ENAMETOOLONG, errno.EEXIST, errno.ENOENT, errno.EISDIR, errno.EPERM}
    | {errno.EINVAL, errno.EMLINK, errno.EFBIG, errno.ERANGE, errno.E2BIG}
)


def explain(error: OSError, name: bytes = b"") -> WharfError:
    """The engine's error for one of the kernel's while unpacking ``name``."""
    what = os.fsdecode(name[:200]) or "the layer"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace("the disk is full", f"no room to unpack {what}", "Remove images or containers, and try again")
    if error.errno == errno.ENOTSUP:
        return Unsupported(
            "the file system of the data root is not fit for images",
            f"it cannot hold the extended attributes of {what}",
            "Put the data root on ext4, xfs or btrfs",
        )
    if error.errno in _BAD_ARCHIVE:
        return tar.broken(f"{what!r} cannot be made: {error.strerror}")
    return Unavailable("the layer cannot be unpacked", f"{what}: {error.strerror}", "Check the disk and try again")
