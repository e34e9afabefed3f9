"""Network namespaces, by file descriptor (network_namespaces(7)). No name is bound anywhere: nothing to leak.

``setns`` and ``unshare`` act on the calling thread alone, so one worker thread may work inside a container's network
while the rest of the process stays outside.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import TypeVar

from core.kernel.process import CLONE_NEWNET, setns, unshare

T = TypeVar("T")
_OWN = "/proc/thread-self/ns/net"
_NS_GET_USERNS, _NS_GET_NSTYPE = 0xB701, 0xB703  # ioctl_ns(2)
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1  # netdevice(7)
_IFREQ = struct.Struct("=16sh22x")


def enter(fd: int) -> None:
    """Move the calling thread into the namespace.

    :raises OSError: EPERM without CAP_SYS_ADMIN, EINVAL for another kind of file
    """
    setns(fd, CLONE_NEWNET)


def bring_up_loopback() -> None:
    """``lo`` of the calling thread's namespace, with the addresses that the kernel gives it.

    :raises OSError:
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", _IFF_UP))


def current() -> int:
    """A new descriptor of the calling thread's namespace."""
    return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)


def of_process(pid: int) -> int:
    """A new descriptor of a process's namespace.

    :raises OSError: ENOENT where it has ended
    """
    return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def open_at(path: str) -> int:
    """A new descriptor of the namespace that is bound to a file.

    :raises OSError: ENOENT where there is no such file, EINVAL where it is another kind of file
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if fcntl.ioctl(fd, _NS_GET_NSTYPE) == CLONE_NEWNET:
            return fd
    except OSError as error:
        if error.errno != errno.ENOTTY:
            os.close(fd)
            raise
    os.close(fd)
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)


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

    def work() -> int:
        unshare(CLONE_NEWNET)
        configure()
        return current()

    return _aside(work)


def _aside(work: Callable[[], T]) -> T:
    """Do it in a thread that ends then, wherever it is."""
    import threading  # late: what it does after a fork costs each monitor half a megabyte

    result: list[T | BaseException] = []

    def keep() -> None:
        try:
            result.append(work())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=keep, name="netns")
    thread.start()
    thread.join()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def do_inside(fd: int, work: Callable[[], T]) -> T:
    """:func:`inside`, also where one cannot come back from there: then by a thread that ends inside.

    :raises OSError:
    """
    if administered():
        with inside(fd):
            return work()

    def enter_and_work() -> T:
        enter(fd)
        return work()

    return _aside(enter_and_work)


def within(pid: int, work: Callable[[], T]) -> T:
    """:func:`do_inside` for the namespace of a process.

    :raises OSError: ENOENT where the process has ended
    """
    fd = of_process(pid)
    try:
        return do_inside(fd, work)
    finally:
        os.close(fd)


def inode(fd: int) -> int:
    """The number that names a namespace in /proc (``net:[NUMBER]``)."""
    return os.fstat(fd).st_ino


def is_here(fd: int) -> bool:
    """Is it the calling thread's own?"""
    here = current()
    try:
        return inode(fd) == inode(here)
    finally:
        os.close(here)


def _owner(fd: int) -> int | None:
    """A descriptor of the user namespace that owns a namespace; None where that one is above ours.

    :raises OSError:
    """
    try:
        return fcntl.ioctl(fd, _NS_GET_USERNS)
    except OSError as error:
        if error.errno == errno.EPERM:
            return None
        raise


def belongs_here(fd: int) -> bool:
    """Is the namespace owned by the user namespace that this process is in?

    :raises OSError:
    """
    owner = _owner(fd)
    if owner is None:
        return False
    try:
        return os.fstat(owner).st_ino == os.stat("/proc/self/ns/user").st_ino
    finally:
        os.close(owner)


def administered() -> bool:
    """May root of this process's user namespace change links, addresses and the firewall of its network namespace? Not
    where that one belongs to the host, and we are in a user namespace."""
    fd = current()
    try:
        owner = _owner(fd)
    finally:
        os.close(fd)
    if owner is None:
        return False
    os.close(owner)
    return True
