"""System calls through the C library: raw, no policy. Every failure is an ``OSError`` with ``errno`` set.

Numbers from 424 on are the same on every architecture (Linux' unified table); the few older ones that the C library
does not wrap are named per machine.
"""

from __future__ import annotations

import ctypes
import os

_LIBC = ctypes.CDLL(None, use_errno=True)
_SYSCALL = _LIBC.syscall
_SYSCALL.restype = ctypes.c_long
# As wide as a register, and ctypes turns integers, bytes, its own objects and None into it without our help.
_SYSCALL.argtypes = [ctypes.c_long] + [ctypes.c_void_p] * 6
_PADDING = [(0,) * (6 - count) for count in range(7)]
for _name in ("capset", "fstatfs", "mount", "setns", "sethostname", "umount2", "unshare"):
    getattr(_LIBC, _name)  # looked up here once, and not by every process that is forked
_PRCTL = _LIBC.prctl
_PRCTL.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4

MACHINE = os.uname().machine
_ARM = MACHINE == "aarch64"
SYS_RENAMEAT2 = 276 if _ARM else 316
SYS_PIVOT_ROOT = 41 if _ARM else 155
SYS_ADD_KEY = 217 if _ARM else 248
SYS_KEYCTL = 219 if _ARM else 250
SYS_IOPRIO_SET = 30 if _ARM else 251
SYS_SCHED_SETATTR = 274 if _ARM else 314
SYS_BPF = 280 if _ARM else 321
SYS_SECCOMP = 277 if _ARM else 317
SYS_OPEN_TREE = 428
SYS_MOVE_MOUNT = 429
SYS_FSOPEN = 430
SYS_FSCONFIG = 431
SYS_FSMOUNT = 432
SYS_FSPICK = 433
SYS_CLOSE_RANGE = 436
SYS_OPENAT2 = 437
SYS_MOUNT_SETATTR = 442

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_NO_AUTOMOUNT = 0x800

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_MMAP_THRESHOLD = 32 * 1024 * 1024  # bytes; more is refused

_CLOSE_RANGE_CLOEXEC = 4
_UINT_MAX = 0xFFFFFFFF


def keep_freed(most: int) -> None:
    """Have this process's malloc(3) keep up to ``most`` freed bytes, large blocks among them. Otherwise those go back
    to the kernel one by one, and come again as pages that it must clear first. Does nothing where the C library knows
    no such setting (musl)."""
    if (mallopt := getattr(_LIBC, "mallopt", None)) is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, most)


def fail(what: str) -> OSError:
    """The error of the last call as an ``OSError`` whose file name says what was tried."""
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), what)


def syscall(number: int, *args: object, what: str = "") -> int:
    """Call the kernel. Integers go as ``long``; ``bytes`` and ctypes objects as pointers.

    :raises OSError: the call returned -1
    """
    result: int = _SYSCALL(number, *args, *_PADDING[len(args)])
    if result == -1:
        raise fail(what or f"syscall {number}")
    return result


def call(name: str, *args: object) -> int:
    """Call a C library function that returns -1 on error.

    :raises OSError:
    """
    result = int(getattr(_LIBC, name)(*args))
    if result == -1:
        raise fail(name)
    return result


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2).

    :raises OSError:
    """
    result = int(_PRCTL(option, arg2, arg3, arg4, arg5))
    if result == -1:
        raise fail(f"prctl {option}")
    return result


def filesystem_type(fd: int) -> int:
    """The magic number of the file system that ``fd`` is on (statfs(2)), such as 0x9FA0 for proc.

    :raises OSError:
    """
    buffer = ctypes.create_string_buffer(256)  # struct statfs, which begins with it, has 120 bytes
    call("fstatfs", fd, buffer)
    return ctypes.c_long.from_buffer(buffer).value


def close_range(first: int, last: int = _UINT_MAX, *, cloexec: bool = False) -> None:
    """Close (or mark close-on-exec) every descriptor from ``first`` to ``last``, both included (Linux 5.9, 5.11)."""
    syscall(SYS_CLOSE_RANGE, first, last, _CLOSE_RANGE_CLOEXEC if cloexec else 0, what="close_range")


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor that is not in ``keep``."""
    start = 0
    for fd in sorted(keep):
        if fd > start:
            close_range(start, fd - 1)
        start = fd + 1
    close_range(start)
