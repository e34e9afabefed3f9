"""Forks that :func:`os.fork` has no words for: into a cgroup v2 group (clone3(2), ``CLONE_INTO_CGROUP``, Linux ≥ 5.7),
and of a sibling (clone(2), ``CLONE_PARENT``).

Moving a process by writing ``cgroup.procs`` takes the kernel's thread-group lock for writing, which waits for an RCU
grace period: 10 ms on an idle host. A child that is *born* in the group needs no move.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import itertools
import mmap
import os
import signal
import struct

SYS_CLONE3 = 435
SYS_CLONE = 220 if os.uname().machine == "aarch64" else 56
CLONE_PARENT = 0x8000
CLONE_PARENT_SETTID = 0x100000
CLONE_INTO_CGROUP = 0x200000000
_PID = struct.Struct("=i")
# The interpreter lock must stay held: the child's copy of it belongs to the calling thread.
_libc = ctypes.PyDLL(None, use_errno=True)
_before, _parent, _child = (
    getattr(ctypes.pythonapi, f"PyOS_{name}") for name in ("BeforeFork", "AfterFork_Parent", "AfterFork_Child")
)
for _hook in (_before, _parent, _child):
    _hook.restype = None


def _arguments(cgroup_fd: int, flags: int) -> ctypes.Array[ctypes.c_char]:
    """``struct clone_args`` up to its field ``cgroup``."""
    flags |= CLONE_INTO_CGROUP
    packed = struct.pack("=11Q", flags, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup_fd)
    return ctypes.create_string_buffer(packed, len(packed))


@functools.cache
def can_fork_into() -> bool:
    """Does the kernel know :func:`fork_into`, and may this process call it? (Seccomp filters around us often forbid
    clone3.) Asked with a descriptor that cannot be: EBADF comes only from a kernel that looked at it."""
    arguments = _arguments(0x7FFFFFFF, 0)
    _libc.syscall(ctypes.c_long(SYS_CLONE3), arguments, ctypes.c_long(len(arguments)))
    return ctypes.get_errno() == errno.EBADF


def fork_into(cgroup_fd: int, flags: int = 0) -> int:
    """:func:`os.fork`, with the child in the group whose folder ``cgroup_fd`` is open on.

    Only for a process with a single thread: the C library's own fork handlers do not run.

    :param flags: further CLONE_* flags, such as CLONE_NEW*
    :returns: the child's pid, 0 in the child
    :raises OSError: where :func:`can_fork_into` says no; EBUSY where the group may not hold processes,
        ENOENT where it is gone
    """
    arguments = _arguments(cgroup_fd, flags)
    return _fork("clone3", SYS_CLONE3, arguments, ctypes.c_long(len(arguments)))


def fork_new(flags: int) -> int:
    """:func:`os.fork`, for a process with a single thread, with the child in new namespaces (``CLONE_NEW*``).

    :returns: the child's pid, 0 in the child
    :raises OSError:
    """
    none = ctypes.c_long(0)
    return _fork("clone", SYS_CLONE, ctypes.c_long(flags | signal.SIGCHLD), none, none, none, none)


class Place:
    """Where the kernel writes the pids of those that :func:`fork_sibling` and :func:`core.kernel.hop.hop` make, one
    after the other: memory shared by the process that calls for them and by the one that makes the first, but not by
    what it becomes."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def pid(self, number: int) -> int:
        """0: there is no such process."""
        return int(_PID.unpack_from(self._memory, number * _PID.size)[0])

    @property
    def last(self) -> int:
        """The pid of the last one; 0: there is none."""
        count = self._count()
        return self.pid(count - 1) if count else 0

    def _count(self) -> int:
        return next(number for number in itertools.count() if not self.pid(number))

    def close(self) -> None:
        self._memory.close()

    def own(self) -> ctypes.c_int:
        """The field of the next one, for the making process: children by fork do not get it. To be kept until the
        process is made."""
        self._memory.madvise(mmap.MADV_DONTFORK)
        return ctypes.c_int.from_buffer(self._memory, self._count() * _PID.size)


def fork_sibling(place: Place) -> int:
    """:func:`os.fork`, for a process with a single thread, but the child is our *parent's* (``CLONE_PARENT``).

    Its pid is in ``place`` before it runs a single instruction, so that the parent knows it whatever becomes of us, and
    without a word that another process could forge.

    :returns: the child's pid, 0 in the child
    :raises OSError:
    """
    field = place.own()
    flags = ctypes.c_long(CLONE_PARENT | CLONE_PARENT_SETTID | signal.SIGCHLD)
    none = ctypes.c_long(0)
    return _fork("clone", SYS_CLONE, flags, none, ctypes.byref(field), none, none)


def _fork(name: str, number: int, *arguments: object) -> int:
    _before()
    pid = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if pid == 0:
        _child()
        return 0
    _parent()
    if pid < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return pid
