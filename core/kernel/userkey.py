"""Secrets that the kernel keeps for this user for a while (keyrings(7), user-keyring(7)): in no file, never swapped,
gone with their time or at the next boot. Where the kernel has no keyrings, or does not allow them, nothing is kept."""

from __future__ import annotations

import contextlib
import ctypes

from core.kernel.libc import SYS_ADD_KEY, SYS_KEYCTL, syscall

_THREAD_KEYRING, _USER_KEYRING = -1, -4
_SETPERM, _LINK, _UNLINK, _SEARCH, _READ, _SET_TIMEOUT, _INVALIDATE = 5, 8, 9, 10, 11, 15, 21
_OWN = 0x3F0B0000  # all for who possesses it; for the user's other processes: view, read, search
_LONGEST = 4096


def put(name: str, secret: bytes, seconds: float) -> None:
    """Keep ``secret``, in place of an older one, for so long.

    It is made in this thread's keyring and linked into the user's when all is set: many sessions (sudo, services,
    containers) have no link to the user's keyring, so that what is made there is not theirs to give a time to.
    """
    with contextlib.suppress(OSError):
        key = syscall(SYS_ADD_KEY, b"user", name.encode(), secret, len(secret), _THREAD_KEYRING, what="add_key")
        try:
            syscall(SYS_KEYCTL, _SET_TIMEOUT, key, max(1, round(seconds)), what="keyctl")
            syscall(SYS_KEYCTL, _SETPERM, key, _OWN, what="keyctl")
            syscall(SYS_KEYCTL, _LINK, key, _USER_KEYRING, what="keyctl")
        finally:
            syscall(SYS_KEYCTL, _UNLINK, key, _THREAD_KEYRING, what="keyctl")


def get(name: str) -> bytes | None:
    """What is kept; None where its time is over."""
    try:
        key = syscall(SYS_KEYCTL, _SEARCH, _USER_KEYRING, b"user", name.encode(), 0, what="keyctl")
        buffer = ctypes.create_string_buffer(_LONGEST)
        size = syscall(SYS_KEYCTL, _READ, key, buffer, _LONGEST, what="keyctl")
    except OSError:
        return None
    return buffer.raw[:size] if size <= _LONGEST else None


def drop(name: str) -> None:
    """Forget it now."""
    with contextlib.suppress(OSError):
        key = syscall(SYS_KEYCTL, _SEARCH, _USER_KEYRING, b"user", name.encode(), 0, what="keyctl")
        syscall(SYS_KEYCTL, _INVALIDATE, key, what="keyctl")  # unlike revoking, it asks for no right but search
