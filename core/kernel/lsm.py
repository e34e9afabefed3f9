"""Labels of security modules for the next exec of this process: AppArmor and SELinux.

They are written to files of /proc, through a descriptor of a proc file system that is surely one: by a path the write
could be led elsewhere, and the process would run unconfined (CVE-2019-16884, CVE-2023-28642, CVE-2025-52881).
"""

from __future__ import annotations

import errno
import os

from core.errors import StartFailed, Unsupported
from core.kernel import libc, resolve

_PROC = 0x9FA0  # PROC_SUPER_MAGIC
_HOW = resolve.BENEATH | resolve.NO_XDEV


def set_apparmor(proc: int, profile: str) -> None:
    """Have the next exec run under an AppArmor profile (which must be loaded).

    :param proc: descriptor of a proc file system's root
    :raises Unsupported: no AppArmor in this kernel :raises StartFailed: no such profile
    """
    fd = _open(proc, "thread-self/attr/apparmor/exec")
    if fd is None:
        raise Unsupported(
            f"cannot use the AppArmor profile {profile!r}", "AppArmor is not enabled in this kernel", "Leave it out"
        )
    _write(fd, f"exec {profile}", f"the AppArmor profile {profile!r}", "Load it with apparmor_parser first")


def set_selinux(proc: int, label: str) -> None:
    """Have the next exec run with an SELinux label.

    :raises Unsupported: no SELinux in this kernel :raises StartFailed: the policy has no such label
    """
    if not selinux_enabled(proc):
        raise Unsupported(
            f"cannot use the SELinux label {label!r}", "SELinux is not enabled in this kernel", "Leave it out"
        )
    fd = _open(proc, "thread-self/attr/exec")
    if fd is None:
        raise Unsupported(f"cannot use the SELinux label {label!r}", "the kernel has no place to write it", "")
    _write(fd, label, f"the SELinux label {label!r}", "Check it against the policy of this host")


def selinux_enabled(proc: int) -> bool:
    """Does the kernel know selinuxfs (which it registers only where SELinux is on)?"""
    fd = resolve.open_in_root(proc, "filesystems", os.O_RDONLY, resolve=_HOW)
    try:
        return b"selinuxfs" in os.read(fd, 65536)
    finally:
        os.close(fd)


def _open(proc: int, path: str) -> int | None:
    if libc.filesystem_type(proc) != _PROC:
        raise StartFailed("cannot set the security label", "/proc is not a proc file system", "")
    try:
        fd = resolve.open_in_root(proc, path, os.O_WRONLY, resolve=_HOW)
    except FileNotFoundError:
        return None
    if libc.filesystem_type(fd) != _PROC:
        os.close(fd)
        raise StartFailed("cannot set the security label", f"{path} is not on a proc file system", "")
    return fd


def _write(fd: int, text: str, what: str, fix: str) -> None:
    try:
        os.write(fd, text.encode())
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL, errno.EACCES, errno.EPERM):
            raise StartFailed(f"cannot use {what}", str(error.strerror), fix) from error
        raise
    finally:
        os.close(fd)
