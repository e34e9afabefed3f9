"""Network namespaces, by file descriptor (network_namespaces(7)). No name is bound anywhere: nothing to leak.

``setns`` and ``unshare`` act on the calling thread alone, so one worker thread may work inside a container's network
while the rest of the process stays outside.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator

from core.kernel.process import CLONE_NEWNET, setns, unshare

_OWN = "/proc/thread-self/ns/net"
_NS_GET_USERNS = 0xB701  # ioctl_ns(2)


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


def made_aside(configure: Callable[[], None]) -> int:
    """A new namespace, where ``configure`` has been run; the caller owns the descriptor.

    By a thread that ends inside: in a user namespace one may leave the host's network namespace, but not come back.

    :raises OSError:
    """
    result: list[int | BaseException] = []

    def work() -> None:
        try:
            unshare(CLONE_NEWNET)
            configure()
            result.append(current())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=work, name="netns")
    thread.start()
    thread.join()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def inode(fd: int) -> int:
    """The number that names a namespace in /proc (``net:[NUMBER]``)."""
    return os.fstat(fd).st_ino


def administered() -> bool:
    """May root of this process's user namespace change links, addresses and the firewall of its network namespace? Not
    where that one belongs to the host, and we are in a user namespace."""
    fd = current()
    try:
        os.close(fcntl.ioctl(fd, _NS_GET_USERNS))
    except OSError as error:
        if error.errno == errno.EPERM:  # its owner is a user namespace above ours
            return False
        raise
    finally:
        os.close(fd)
    return True
