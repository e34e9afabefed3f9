"""The extended attributes of an archive's entries (xattr(7)): which are taken, and how they are set."""

from __future__ import annotations

import errno
import os

from core.images import tar

# The kernel would follow a redirect to anywhere in the other layers.
_REFUSED = (b"trusted.overlay.", b"user.overlay.")
# The first belongs to the host's policy, not to the image; the second no Linux file system but NFS can hold.
_SKIPPED = frozenset({b"security.selinux", b"system.nfs4_acl"})
_NAME_SPACES = (b"security.", b"system.", b"trusted.", b"user.")  # others, of other systems, nothing here can hold
_ACL, _ACL_VERSION = b"system.posix_acl_", b"\2\0\0\0"


def wanted(path: bytes, key: bytes, value: bytes) -> bool:
    """False: it is to be left out.

    :param path: of the entry, for the error
    :raises Corrupt: it is overlayfs' own, or none
    """
    name = os.fsdecode(path)
    if key.startswith(_REFUSED):
        raise tar.broken(f"{name!r} brings the attribute {os.fsdecode(key)}, which is overlayfs' own")
    if not key or b"\0" in key:
        raise tar.broken(f"{name!r} has an attribute whose name is no name")
    if key.startswith(_ACL) and value[:4] != _ACL_VERSION:
        raise tar.broken(f"{name!r} has an access list that is none")
    return key.startswith(_NAME_SPACES) and key not in _SKIPPED


def put(where: int | bytes, path: bytes, key: bytes, value: bytes, *, limited: bool) -> None:
    """Set one on an open file, or on a name in the working directory.

    :param limited: in a user namespace, where some of them cannot be set
    :raises Corrupt: the file system cannot hold it
    """
    try:
        os.setxattr(where, key, value, follow_symlinks=isinstance(where, int))
    except PermissionError:
        # trusted.* and most of security.* belong to the host's root: nobody inside could read them.
        if not limited or not key.startswith((b"trusted.", b"security.")):
            raise
    except OSError as error:
        # ext4 says so too where the attributes of one file exceed a block.
        if error.errno == errno.ENOSPC and os.statvfs(".").f_bavail:
            what = f"{os.fsdecode(path)!r} has attributes that the file system cannot hold"
            raise tar.broken(f"{what}: {os.fsdecode(key)} with {len(value)} bytes") from error
        raise
