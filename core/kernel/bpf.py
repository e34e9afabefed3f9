"""Programs for the kernel: seccomp filters (classic BPF) and device programs of cgroup v2 (eBPF).

Raw calls without policy; errors are :class:`OSError` with the kernel's errno. Sources: seccomp(2), bpf(2).
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import resource
import struct

from core.kernel.libc import SYS_BPF, SYS_SECCOMP, syscall

_SECCOMP_SET_MODE_FILTER, _SECCOMP_GET_ACTION_AVAIL = 1, 2
# SECCOMP_FILTER_FLAG_* of linux/seccomp.h
FILTER_TSYNC, FILTER_LOG, FILTER_SPEC_ALLOW, FILTER_NEW_LISTENER = 1, 2, 4, 8
FILTER_TSYNC_ESRCH, FILTER_WAIT_KILLABLE_RECV = 16, 32
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE = 15, 6
_ALLOW_MULTI, _REPLACE = 2, 4
_ATTR_SIZE = 128  # at least what any of these commands reads; the kernel wants the rest to be zero


class _Program(ctypes.Structure):
    """``struct sock_fprog``"""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def install_filter(program: bytes, flags: int = 0) -> int | None:
    """Put the calling thread, and all it starts, under a seccomp filter for good.

    :param program: an array of ``struct sock_filter``
    :param flags: SECCOMP_FILTER_FLAG_* of seccomp(2)
    :returns: the listener's descriptor (close-on-exec) if FILTER_NEW_LISTENER is among the flags
    :raises OSError: EACCES without no_new_privs and CAP_SYS_ADMIN, EINVAL for a malformed program or an unknown flag,
        ESRCH if another thread cannot be put under the filter (FILTER_TSYNC), EBUSY if there is a listener already
    """
    listens = flags & FILTER_NEW_LISTENER
    if listens and flags & FILTER_TSYNC:
        flags |= FILTER_TSYNC_ESRCH  # else the result could be a descriptor as well as a thread: the kernel refuses
    buffer = ctypes.create_string_buffer(program, len(program))
    header = _Program(len(program) // 8, ctypes.addressof(buffer))
    result = syscall(SYS_SECCOMP, _SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(header), what="seccomp")
    if result and not listens:
        raise OSError(errno.ESRCH, f"thread {result} has a filter that this one cannot follow", "seccomp")
    return result if listens else None


@functools.cache
def action_available(action: int) -> bool:
    """Does the kernel know the seccomp return value ``action`` (SECCOMP_RET_*)?"""
    try:
        syscall(SYS_SECCOMP, _SECCOMP_GET_ACTION_AVAIL, 0, ctypes.byref(ctypes.c_uint32(action)))
    except OSError:
        return False
    return True


@functools.cache
def filter_flag_available(flag: int) -> bool:
    """Does the kernel know ``flag`` (SECCOMP_FILTER_FLAG_*)? Nothing is installed by asking."""
    if flag == FILTER_WAIT_KILLABLE_RECV:
        flag |= FILTER_NEW_LISTENER  # is refused without it
    try:
        syscall(SYS_SECCOMP, _SECCOMP_SET_MODE_FILTER, flag, None)
    except OSError as error:
        return error.errno == errno.EFAULT  # the flags are looked at first, then the program, which is none
    return False


def _bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    """bpf(2): the return value and the attributes as the kernel left them."""
    buffer = ctypes.create_string_buffer(attributes.ljust(_ATTR_SIZE, b"\0"), _ATTR_SIZE)
    return syscall(SYS_BPF, command, buffer, _ATTR_SIZE, what="bpf"), buffer.raw


def load_device_program(instructions: bytes) -> int:
    """Load an eBPF program of type CGROUP_DEVICE; returns its descriptor (close-on-exec).

    :raises OSError: EPERM without CAP_BPF or CAP_SYS_ADMIN, EINVAL or EACCES where the verifier refuses
    """
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(b"MIT")
    attributes = struct.pack(
        "=IIQQ", _TYPE_CGROUP_DEVICE, len(instructions) // 8, ctypes.addressof(code), ctypes.addressof(licence)
    )
    try:
        return _bpf(_PROG_LOAD, attributes)[0]
    except PermissionError:
        # Before Linux 5.11 programs count against RLIMIT_MEMLOCK, and too little of it is an EPERM.
        hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
        return _bpf(_PROG_LOAD, attributes)[0]


def device_programs(cgroup_fd: int) -> list[int]:
    """Ids of the device programs attached to a cgroup (not its ancestors')."""
    ids = (ctypes.c_uint32 * 64)()
    attributes = struct.pack("=IIIIQI", cgroup_fd, _ATTACH_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), len(ids))
    raw = _bpf(_PROG_QUERY, attributes)[1]
    count: int = struct.unpack_from("=I", raw, 24)[0]
    return list(ids[:count])


def attach_device_program(cgroup_fd: int, program_fd: int) -> None:
    """Make ``program_fd`` the cgroup's device program, in place of any that it has.

    One is replaced atomically; before Linux 5.6 both are in force for a moment, and an access needs the leave of both.
    Programs of ancestors stay in force.
    """
    attributes = struct.pack("=IIII", cgroup_fd, program_fd, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI)
    old: list[int] = []
    try:
        for number in device_programs(cgroup_fd):
            old.append(_bpf(_PROG_GET_FD_BY_ID, struct.pack("=I", number))[0])
        if old:
            flags = _ALLOW_MULTI | _REPLACE
            try:
                _bpf(_PROG_ATTACH, struct.pack("=IIIII", cgroup_fd, program_fd, _ATTACH_CGROUP_DEVICE, flags, old[-1]))
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                _bpf(_PROG_ATTACH, attributes)
            else:
                os.close(old.pop())
        else:
            _bpf(_PROG_ATTACH, attributes)
        for program in old:
            _bpf(_PROG_DETACH, struct.pack("=III", cgroup_fd, program, _ATTACH_CGROUP_DEVICE))
    finally:
        for program in old:
            os.close(program)
