"""How the kernel schedules the calling process, and what it takes it for: all of it is handed on by fork and exec."""

from __future__ import annotations

import ctypes
import struct

from core.kernel.libc import SYS_IOPRIO_SET, SYS_SCHED_SETATTR, call, syscall

# SCHED_* of sched(7)
POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
# sched_setattr(2)
FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
# ioprio_set(2)
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
# personality(2)
DOMAINS = {"LINUX": 0x0000, "LINUX32": 0x0008}

_ATTRIBUTES = struct.Struct("=IIQiIQQQ")  # struct sched_attr, its first version of 48 bytes
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_CLASS_SHIFT = 13


def set_scheduler(
    policy: int,
    *,
    flags: int = 0,
    nice: int = 0,
    priority: int = 0,
    runtime: int = 0,
    deadline: int = 0,
    period: int = 0,
) -> None:
    """sched_setattr(2); ``runtime``, ``deadline`` and ``period`` in nanoseconds.

    :raises OSError: EPERM without CAP_SYS_NICE, EINVAL for values that do not go together
    """
    packed = _ATTRIBUTES.pack(_ATTRIBUTES.size, policy, flags, nice, priority, runtime, deadline, period)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    syscall(SYS_SCHED_SETATTR, 0, buffer, 0, what="sched_setattr")


def set_io_priority(io_class: int, priority: int) -> None:
    """:param priority: 0 (first) to 7

    :raises OSError: EPERM for the real-time class without CAP_SYS_ADMIN or CAP_SYS_NICE
    """
    value = io_class << _IOPRIO_CLASS_SHIFT | priority
    syscall(SYS_IOPRIO_SET, _IOPRIO_WHO_PROCESS, 0, value, what="ioprio_set")


def set_personality(domain: int) -> None:
    """:raises OSError:"""
    call("personality", ctypes.c_ulong(domain))
