"""A process goes on as another one: :func:`hop` is a fork that copies nothing, since the one that calls it stops there.

The new process has the old one's memory (``CLONE_VM``), in new namespaces, another cgroup, with another pid, and is
alone in it: no page is copied, now or when it is written to, as after a fork, where each costs a fault in both. The old
one, whose stack the new one goes on with, closes its descriptors and waits to be killed, in a few instructions of our
own that use registers alone: no function of the C library may be entered there, nor a signal's handler, which would run
on the new one's stack. That it waits keeps the memory until then: the exec of the new process need not take it down.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import signal
import struct

from core.kernel.clone import CLONE_INTO_CGROUP, CLONE_PARENT, CLONE_PARENT_SETTID, SYS_CLONE, SYS_CLONE3, Place

_CLONE_VM = 0x100
_SET_TID_ADDRESS = 218 if os.uname().machine == "x86_64" else 96

# function(call, first, second, third): the system call with these arguments; returns what it returns, in the old
# process only where it failed. System V and AAPCS64 calling conventions; syscall(2) has the kernel's.
_CODE = {
    "x86_64": bytes.fromhex(
        "4889f8"  # mov rax, rdi
        "4889f7"  # mov rdi, rsi
        "4889d6"  # mov rsi, rdx
        "4889ca"  # mov rdx, rcx
        "4d31d2"  # xor r10, r10
        "4d31c0"  # xor r8, r8
        "0f05"  # syscall
        "4885c0"  # test rax, rax
        "7f01"  # jg old
        "c3"  # ret
        "31ff"  # old: xor edi, edi
        "beffffffff"  # mov esi, -1
        "31d2"  # xor edx, edx
        "b8b4010000"  # mov eax, 436 (close_range)
        "0f05"  # syscall
        "31ff31f631d24531d24531c0"  # wait: xor edi, edi; esi; edx; r10d; r8d
        "b80f010000"  # mov eax, 271 (ppoll)
        "0f05"  # syscall
        "ebeb"  # jmp wait
    ),
    "aarch64": struct.pack(
        "<23I",
        0xAA0003E8,  # mov x8, x0
        0xAA0103E0,  # mov x0, x1
        0xAA0203E1,  # mov x1, x2
        0xAA0303E2,  # mov x2, x3
        0xD2800003,  # mov x3, #0
        0xD2800004,  # mov x4, #0
        0xD4000001,  # svc #0
        0xF100001F,  # cmp x0, #0
        0x5400004C,  # b.gt old
        0xD65F03C0,  # ret
        0xD2800000,  # old: mov x0, #0
        0x12800001,  # mov w1, #-1
        0xD2800002,  # mov x2, #0
        0xD2803688,  # mov x8, #436 (close_range)
        0xD4000001,  # svc #0
        0xD2800000,  # wait: mov x0, #0
        0xD2800001,  # mov x1, #0
        0xD2800002,  # mov x2, #0
        0xD2800003,  # mov x3, #0
        0xD2800004,  # mov x4, #0
        0xD2800928,  # mov x8, #73 (ppoll)
        0xD4000001,  # svc #0
        0x17FFFFF9,  # b wait
    ),
}
# The interpreter lock stays held: it is carried over.
_Function = ctypes.PYFUNCTYPE(ctypes.c_long, *[ctypes.c_long] * 4)


@functools.cache
def _function() -> tuple[mmap.mmap, object] | None:
    """The code, in memory of its own; None for a machine that has none, or a host that lets nobody make such memory."""
    code = _CODE.get(os.uname().machine)
    if code is None or _shadow_stack():
        return None
    try:
        memory = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.write(code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        # Never writable and executable at once.
        if _libc.mprotect(ctypes.c_void_p(address), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC):
            return None
    except OSError:
        return None
    return memory, _Function(address)


_libc = ctypes.PyDLL(None, use_errno=True)


def _shadow_stack() -> bool:
    """Does the processor keep a second stack of return addresses (arch/x86/shstk)? A thread's is its own: the new
    process would have an empty one."""
    with open("/proc/self/status") as file:
        return any(line.startswith("x86_Thread_features:") and "shstk" in line for line in file)


def can_hop() -> bool:
    """Is there code for this machine, and may it be executed?"""
    return _function() is not None


def hop(place: Place, flags: int = 0, cgroup_fd: int = -1) -> None:
    """Return in a new process, a child of our *parent's* (``CLONE_PARENT``), whose affair it is to kill this one.

    Only for a process with a single thread. Its descriptors are copied (a lock by fcntl(2) is lost); the new process
    has no death signal and no timers. The new pid is in ``place`` before the new process runs. Until it executes
    something its pages, and those of files in memory, are charged to the cgroup of the old one, which owns the memory.

    Not into a time namespace: until it executes something the new process would stay in the old one's; older kernels
    refuse it (EINVAL).

    :param flags: CLONE_NEW* of further namespaces
    :param cgroup_fd: the folder of a cgroup v2 group to be born in
        (where :func:`core.kernel.clone.can_fork_into` says yes)
    :raises OSError: this process goes on
    """
    made = _function()
    if made is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), "hop")
    # Otherwise the kernel would note the old one's end in memory that the C library goes on using (set_tid_address(2)).
    _libc.syscall(ctypes.c_long(_SET_TID_ADDRESS), None)
    field = place.own()
    address = ctypes.addressof(field)
    flags |= _CLONE_VM | CLONE_PARENT | CLONE_PARENT_SETTID
    call = made[1]
    before = ctypes.create_string_buffer(_SIGNALS)
    _libc.pthread_sigmask(_SETMASK, b"\xff" * _SIGNALS, before)
    if cgroup_fd < 0:
        result = call(SYS_CLONE, flags | signal.SIGCHLD, 0, address)  # type: ignore[operator]
    else:
        # The signal at its end is that of ours (clone3(2) takes none with CLONE_PARENT).
        packed = struct.pack("=11Q", flags | CLONE_INTO_CGROUP, 0, 0, address, 0, 0, 0, 0, 0, 0, cgroup_fd)
        arguments = ctypes.create_string_buffer(packed, len(packed))
        result = call(SYS_CLONE3, ctypes.addressof(arguments), len(arguments), 0)  # type: ignore[operator]
    _libc.pthread_sigmask(_SETMASK, before, None)  # in the new process, or in this one that goes on
    if result < 0:
        raise OSError(-result, os.strerror(-result), "hop")


_SIGNALS = 128  # bytes of the C library's sigset_t
_SETMASK = int(signal.SIG_SETMASK)
