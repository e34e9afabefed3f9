"""``tmpcopyup``: a tmpfs that begins with what the image has at its place."""

from __future__ import annotations

import errno
import os
import stat

_CHUNK = 1 << 20
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_tree(source: int, target: int) -> None:
    """Copy what is below one directory to below another, owners, modes and times included; devices and sockets are
    left out, and no link is followed.

    :raises OSError: ``ENOSPC`` where the target is too small
    """
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listdir(source):
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            _copy_folder(source, target, name)
        elif stat.S_ISREG(status.st_mode):
            _copy_file(source, target, name, status)
        elif stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        else:
            continue
        times = status.st_atime_ns, status.st_mtime_ns
        os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)


def _copy_folder(source: int, target: int, name: str) -> None:
    inner = os.open(name, _FLAGS | os.O_DIRECTORY, dir_fd=source)
    try:
        os.mkdir(name, 0o700, dir_fd=target)
        copy = os.open(name, _FLAGS | os.O_DIRECTORY, dir_fd=target)
        try:
            copy_tree(inner, copy)
        finally:
            os.close(copy)
    finally:
        os.close(inner)


def _copy_file(source: int, target: int, name: str, status: os.stat_result) -> None:
    reader = os.open(name, _FLAGS | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=source)
    try:
        if not stat.S_ISREG(os.fstat(reader).st_mode):
            raise OSError(errno.EAGAIN, "somebody has put something else there meanwhile", name)
        writer = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            while os.sendfile(writer, reader, None, _CHUNK):
                pass
            os.fchown(writer, status.st_uid, status.st_gid)
            os.fchmod(writer, stat.S_IMODE(status.st_mode))  # after the owner: a change of that takes set-user-ID away
        finally:
            os.close(writer)
    finally:
        os.close(reader)
