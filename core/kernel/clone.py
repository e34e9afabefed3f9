"""A fork that begins its life in a cgroup v2 group (clone3(2), ``CLONE_INTO_CGROUP``, Linux ≥ 5.7).

Moving a process by writing ``cgroup.procs`` takes the kernel's thread-group lock for writing, which waits for an RCU
grace period: 10 ms on an idle host. A child that is *born* in the group needs no move.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import signal
import struct

_CLONE3 = 435
_CLONE_INTO_CGROUP = 0x200000000
# The interpreter lock must stay held: the child's copy of it belongs to the calling thread.
_libc = ctypes.PyDLL(None, use_errno=True)
_before, _parent, _child = (
    getattr(ctypes.pythonapi, f"PyOS_{name}") for name in ("BeforeFork", "AfterFork_Parent", "AfterFork_Child")
)
for _hook in (_before, _parent, _child):
    _hook.restype = None


def _arguments(cgroup_fd: int, flags: int) -> ctypes.Array[ctypes.c_char]:
    """``struct clone_args`` up to its field ``cgroup``."""
    flags |= _CLONE_INTO_CGROUP
    packed = struct.pack("=11Q", flags, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup_fd)
    return ctypes.create_string_buffer(packed, len(packed))


@functools.cache
def can_fork_into() -> bool:
    """Does the kernel know :func:`fork_into`, and may this process call it? (Seccomp filters around us often forbid
    clone3.) Asked with a descriptor that cannot be: EBADF comes only from a kernel that looked at it."""
    arguments = _arguments(0x7FFFFFFF, 0)
    _libc.syscall(ctypes.c_long(_CLONE3), arguments, ctypes.c_long(len(arguments)))
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
    number, size = ctypes.c_long(_CLONE3), ctypes.c_long(len(arguments))
    _before()
    pid = int(_libc.syscall(number, arguments, size))
    if pid == 0:
        _child()
        return 0
    _parent()
    if pid < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"clone3: {os.strerror(code)}")
    return pid
