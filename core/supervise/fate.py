"""How a process ended that was never, or is no longer, our child."""

from __future__ import annotations

import select
import socket
import time
from typing import cast

from core.errors import WharfError
from core.kernel import process
from core.supervise.protocol import receive

PATIENCE = 5.0  # seconds until somebody has reaped it
_STEP = 0.01


def wait_status(pidfd: int, pid: int, started: int, launcher: socket.socket) -> int | None:
    """The wait status of an ended process, from whoever knows it.

    In this order: the pidfd (Linux 6.15), /proc while it is a zombie, the launcher that reaped it. None where nobody
    can know.
    """
    end = time.monotonic() + PATIENCE
    poll = select.poll()
    poll.register(launcher, select.POLLIN)
    while True:
        status = process.exit_status(pidfd) if pidfd >= 0 else None
        if status is None:
            status = process.zombie_status(pid, started)
        if status is not None:
            return status
        if time.monotonic() > end:
            return None
        ready = poll.poll(_STEP * 1000)
        if ready and ready[0][1] & select.POLLIN:
            status = _told(launcher, pid)
            if status is not None:
                return status
        elif ready:
            time.sleep(_STEP)  # the launcher has gone: its end of the line stays ready


def _told(launcher: socket.socket, pid: int) -> int | None:
    try:
        message, _ = receive(launcher)
    except (OSError, EOFError, WharfError):
        return None
    return cast(int, message["status"]) if message.get("exited") == pid else None
