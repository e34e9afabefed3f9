"""The container's terminal, made in the container's own devpts."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import termios

from core.errors import StartFailed
from core.kernel import resolve
from core.runtime.defaults import Json
from core.runtime.task import Report

_TIOCGPTPEER = 0x5441
_TIOCSPTLCK = 0x40045431


def open_master(directory: int, name: str) -> int:
    """A new terminal's master side from the ``ptmx`` at ``name`` below ``directory``, unlocked.

    :raises StartFailed: it is not the terminal multiplexer (the container may have put something else there)
    """
    fd = resolve.open_in_root(
        directory, name, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK, resolve=resolve.IN_ROOT | resolve.NO_SYMLINKS
    )
    status = os.fstat(fd)
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(5, 2):
        raise StartFailed("cannot make a terminal", f"{name} is not the terminal multiplexer", step="terminal")
    fcntl.ioctl(fd, _TIOCSPTLCK, struct.pack("i", 0))
    return fd


def take(master: int, process: Json, report: Report) -> int:
    """Make the other side 0, 1, 2 of this process and hand the master on.

    By ``TIOCGPTPEER``, not by a path below /dev/pts that could have been swapped (CVE-2025-52565).

    :returns: a further descriptor of the slave, close-on-exec
    """
    slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    size = process.get("consoleSize")
    if isinstance(size, dict):
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size["height"], size["width"], 0, 0))
    for number in range(3):
        os.dup2(slave, number, inheritable=True)
    report.terminal(master)
    os.close(master)
    return slave


def control() -> None:
    """Make the terminal on 0 the controlling one of this process, a session leader."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
