"""Capabilities (capabilities(7)): names, and the sets of the calling process."""

from __future__ import annotations

import ctypes
import errno
import functools
from collections.abc import Iterable

from core.kernel.libc import call, prctl

NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
    "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP "
    "MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()
NUMBERS = {f"CAP_{name}": number for number, name in enumerate(NAMES)}

_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


def mask(names: Iterable[str]) -> int:
    """Bits of the named capabilities (``CAP_CHOWN`` …).

    :raises KeyError: an unknown name
    """
    bits = 0
    for name in names:
        bits |= 1 << NUMBERS[name]
    return bits


def bounding() -> list[str]:
    """Names of the capabilities in this process's bounding set: nothing it starts can have more."""
    return list(_bounding())


@functools.cache
def _bounding() -> tuple[str, ...]:
    return tuple(name for name, number in NUMBERS.items() if _in_bounding(number))


def _in_bounding(number: int) -> bool:
    try:
        return prctl(_PR_CAPBSET_READ, number) == 1
    except OSError:  # EINVAL: the kernel does not know it
        return False


def limit_bounding(keep: int) -> None:
    """Drop from the bounding set all but the bits in ``keep``, those this table does not name included.

    :raises OSError:
    """
    _bounding.cache_clear()
    for number in range(64):
        if keep >> number & 1:
            continue
        try:
            prctl(_PR_CAPBSET_DROP, number)  # one that has gone already is no error
        except OSError as error:
            if error.errno == errno.EINVAL:
                return  # past the kernel's last capability
            if _in_bounding(number):
                raise


def keep_over_setuid(on: bool) -> None:
    """Keep the permitted set when the user id changes from 0; exec clears this."""
    prctl(_PR_SET_KEEPCAPS, int(on))


def set_process(effective: int, permitted: int, inheritable: int) -> None:
    """Set this thread's three sets (capset(2), version 3).

    :raises OSError: ``EPERM``: more than it holds
    """
    header = _Header(_VERSION_3, 0)
    low, high = 0xFFFFFFFF, 32
    words = (ctypes.c_uint32 * 6)(
        effective & low, permitted & low, inheritable & low, effective >> high, permitted >> high, inheritable >> high
    )
    call("capset", ctypes.byref(header), ctypes.byref(words))


def set_ambient(bits: int) -> None:
    """Make exactly ``bits`` ambient (they must be permitted and inheritable).

    :raises OSError:
    """
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(bits.bit_length()):
        if bits >> number & 1:
            prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)
