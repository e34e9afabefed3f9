"""Network namespaces, by file descriptor (network_namespaces(7)). No name is bound anywhere: nothing to leak.

``setns`` and ``unshare`` act on the calling thread alone, so one worker thread may work inside a container's network
while the rest of the process stays outside.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from core.kernel.process import CLONE_NEWNET, setns, unshare

_OWN = "/proc/thread-self/ns/net"


def enter(fd: int) -> None:
    """Move the calling thread into the namespace.

    :raises OSError: EPERM without CAP_SYS_ADMIN, EINVAL for another kind of file
    """
    setns(fd, CLONE_NEWNET)


def current() -> int:
    """A new descriptor of the calling thread's namespace."""
    return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)


def of_process(pid: int) -> int:
    """A new descriptor of a process's namespace.

    :raises OSError: ENOENT where it has ended
    """
    return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def inside(fd: int) -> Iterator[None]:
    """Do something with the calling thread in namespace ``fd``; it comes back in any case."""
    home = current()
    try:
        enter(fd)
        try:
            yield
        finally:
            enter(home)
    finally:
        os.close(home)


@contextlib.contextmanager
def fresh() -> Iterator[int]:
    """A new, empty namespace with the calling thread in it; yields a descriptor that the caller owns.

    After an exception in the body the descriptor is closed, and with it the namespace is gone.
    """
    home = current()
    try:
        unshare(CLONE_NEWNET)
        try:
            fd = current()
            try:
                yield fd
            except BaseException:
                os.close(fd)
                raise
        finally:
            enter(home)
    finally:
        os.close(home)


def inode(fd: int) -> int:
    """The number that names a namespace in /proc (``net:[NUMBER]``)."""
    return os.fstat(fd).st_ino
