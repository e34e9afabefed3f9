"""Processes: namespaces, descriptors of processes, and the flags that fork and exec hand on."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import signal
import struct
import time
from collections.abc import Iterator

from core.kernel.libc import SYS_KEYCTL, call, prctl, syscall

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_GET_SECUREBITS = 27
_PR_SET_SECUREBITS = 28
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_KEYCTL_JOIN_SESSION_KEYRING = 1
_PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, struct pidfd_info) with its first 64 bytes
_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_INFO = struct.Struct("=QQ11Ii")
_PF_EXITING = 0x4  # include/linux/sched.h


def unshare(flags: int) -> None:
    """Leave the namespaces in ``flags`` for new ones (unshare(2)).

    :raises OSError:
    """
    call("unshare", flags)


def setns(fd: int, flags: int) -> None:
    """Join a namespace, or with a pidfd all of that process's namespaces in ``flags`` (setns(2), Linux 5.8).

    :raises OSError:
    """
    call("setns", fd, flags)


def set_hostname(name: str) -> None:
    data = os.fsencode(name)
    call("sethostname", data, ctypes.c_size_t(len(data)))


def set_domainname(name: str) -> None:
    data = os.fsencode(name)
    call("setdomainname", data, ctypes.c_size_t(len(data)))


@contextlib.contextmanager
def files_as(uid: int, gid: int) -> Iterator[None]:
    """Meanwhile this thread makes files as that owner (setfsuid(2)), and keeps all capabilities.

    :raises OSError: EPERM without CAP_SETPCAP, CAP_SETUID and CAP_SETGID
    """
    bits = prctl(_PR_GET_SECUREBITS)
    before = call("setfsuid", -1), call("setfsgid", -1)
    prctl(_PR_SET_SECUREBITS, bits | _SECBIT_NO_SETUID_FIXUP)
    try:
        # Their results are what was before: what is now must be asked.
        call("setfsgid", gid), call("setfsuid", uid)
        if (call("setfsuid", -1), call("setfsgid", -1)) != (uid, gid):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), "setfsuid")
        yield
    finally:
        call("setfsuid", before[0]), call("setfsgid", before[1])
        prctl(_PR_SET_SECUREBITS, bits)


def set_death_signal(signo: int) -> None:
    """Have the kernel send ``signo`` to this process when its parent dies; 0 clears it."""
    prctl(_PR_SET_PDEATHSIG, signo)


def set_dumpable(on: bool) -> None:
    """Whether others of the same user may trace this process and open its /proc/PID/{exe,fd,…} (prctl(2))."""
    prctl(_PR_SET_DUMPABLE, int(on))


def set_subreaper(on: bool = True) -> None:
    """Become the parent of all descendants that lose theirs, or leave them to the next one above."""
    prctl(_PR_SET_CHILD_SUBREAPER, int(on))


# Made once: a buffer of another length is another type, whose making costs a forked process 250 KB of copied pages.
_name = ctypes.create_string_buffer(16)


def set_name(name: str) -> None:
    """The name in ``ps -o comm``; at most 15 bytes."""
    _name.value = name.encode()[:15]
    prctl(_PR_SET_NAME, ctypes.addressof(_name))


def set_title(title: str) -> None:
    """What ``ps`` shows as this process's command line (as long as the original one has room), and its name.

    The memory of the original arguments is overwritten (fields 48 and 49 of /proc/PID/stat); setting other addresses
    would need CAP_SYS_RESOURCE.
    """
    set_name(title.partition(" ")[0])
    start, end = argument_area()
    data = title.encode()[: end - start - 1]
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, data, len(data))


@functools.cache
def argument_area() -> tuple[int, int]:
    """Where the kernel looks for this process's arguments: first address, and the one behind the last. A forked child
    has them at the same place."""
    fields = _stat("self") or []
    return int(fields[45]), int(fields[46])


def _stat(pid: int | str) -> list[bytes] | None:
    """/proc/PID/stat from the third field on; None where the process is gone. Without a file object, whose making takes
    longer than the kernel's part."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):  # the latter where it goes in the very moment of opening
        return None
    try:
        return os.read(fd, 4096).rpartition(b")")[2].split()
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)


@functools.cache
def boot_id() -> str:
    """The kernel's id of this boot (proc_sys_kernel(5)); it cannot change while a process lives."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def set_no_new_privs() -> None:
    """From here on no exec can gain privileges, set-user-ID files included."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def new_session_keyring() -> None:
    """Leave the caller's session keyring for a new, empty one.

    :raises OSError: ``ENOSYS`` where the kernel has no keyrings
    """
    syscall(SYS_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, None, what="keyctl")


def start_time(pid: int) -> int:
    """When the process started, in clock ticks since boot (field 22 of /proc/PID/stat, proc(5)); 0 if it is gone.

    Together with the pid it names a process for good: pids are used again, start times are not.
    """
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def age(started: int) -> float:
    """Seconds since a :func:`start_time`, time that the host slept included."""
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK"))


def is_running(pid: int, started: int) -> bool:
    """True while the process with that pid and :func:`start_time` lives; a zombie does not."""
    fields = _stat(pid)
    return fields is not None and int(fields[19]) == started and fields[0] not in (b"Z", b"X")


def goes_on(pid: int, started: int) -> bool:
    """Like :func:`is_running`, but False already once the process has been killed or has begun to end: on a busy host
    it may be a while until it is gone. Of one with a single thread: what is asked is the first one."""
    fields = _stat(pid)
    if fields is None or int(fields[19]) != started or fields[0] in (b"Z", b"X") or int(fields[6]) & _PF_EXITING:
        return False
    # SIGKILL wakes whoever sleeps: one that does has none.
    return fields[0] == b"S" or not _is_killed(pid)


def _is_killed(pid: int) -> bool:
    """Is SIGKILL among the pending signals? Sent to the whole process it stays there to the end."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = file.read().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return True
    pending = [int(line[8:], 16) for line in lines if line.startswith((b"SigPnd:\t", b"ShdPnd:\t"))]
    return any(bits & 1 << signal.SIGKILL - 1 for bits in pending)


def open_pidfd(pid: int, started: int) -> int | None:
    """A descriptor of the process with that pid and start time; ``None`` if it is gone (or its pid is another's)."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        # The number lives on as that of a session whose other members are still there: older kernels say it so.
        if error.errno != errno.EINVAL:
            raise
        return None
    # Checked after opening: from here on the descriptor cannot come to mean another process.
    if start_time(pid) != started:
        os.close(fd)
        return None
    return fd


def exit_status(pidfd: int) -> int | None:
    """The wait status of a process that has been reaped by anyone (``PIDFD_GET_INFO``, Linux 6.15).

    ``None`` where the kernel cannot tell, or the process has not been reaped yet.
    """
    buffer = bytearray(_PIDFD_INFO.size)
    struct.pack_into("=Q", buffer, 0, _PIDFD_INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, buffer)
    except OSError:
        return None
    mask, *_, status = _PIDFD_INFO.unpack(buffer)
    return int(status) if mask & _PIDFD_INFO_EXIT else None


def zombie_status(pid: int, started: int) -> int | None:
    """The wait status of a process that ended but was not reaped yet (last field of /proc/PID/stat)."""
    fields = _stat(pid)
    if fields is None:
        return None
    return int(fields[49]) if int(fields[19]) == started and fields[0] in (b"Z", b"X") else None
