"""What the kernel refuses, in the engine's words."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from core.errors import NoPrivilege, Unavailable, WharfError


@contextlib.contextmanager
def step(what: str, cid: str = "") -> Iterator[None]:
    """The kernel's errors in the engine's words.

    :raises NoPrivilege: EPERM or EACCES
    :raises Unavailable: any other
    """
    try:
        yield
    except WharfError:
        raise
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
            raise NoPrivilege(
                f"cannot {what}", error.strerror or "", "Networks need root (CAP_NET_ADMIN and CAP_SYS_ADMIN)",
                object_id=cid, step=what,
            ) from error  # fmt: skip
        raise Unavailable(
            f"cannot {what}", error.strerror or str(error), "See: wharf doctor", object_id=cid, step=what
        ) from error
