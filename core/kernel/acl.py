"""Access control lists (acl(5)) that a folder gets from the one that it is made in: an engine's own folders, and those
that become an image's layer or a container's, are to be as they were made, whatever the host has above them."""

# No typing: the unpack server loads this.

from __future__ import annotations

import errno
import os

_NONE = (errno.ENODATA, errno.ENOTSUP)


def drop(folder: int | str | os.PathLike[str]) -> None:
    """Take both lists off a folder, its own and the one that new files in it would get. :raises OSError:"""
    for name in ("system.posix_acl_access", "system.posix_acl_default"):
        try:
            os.removexattr(folder, name)
        except OSError as error:
            if error.errno not in _NONE:
                raise
