"""A process on its way to become the container's first one, or one that joins it, whichever runtime makes it."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from typing import Protocol

from core.errors import StartFailed


class Line(Protocol):
    """Becomes readable when there is news."""

    def fileno(self) -> int: ...


class Process(Protocol):
    """What a monitor, an exec and a health check need of it.

    ``pid`` (of the command only from then on), ``pidfd`` and ``master`` (the terminal, if one was made) belong to the
    caller once :meth:`advance` has returned True.
    """

    pid: int
    pidfd: int
    master: int | None
    gated: bool  # it waits for its start, and not for us

    @property
    def line(self) -> Line: ...

    def advance(self) -> bool:
        """Take the news. :returns: True once the command runs :raises WharfError: it failed and is gone"""

    def bury(self) -> None:
        """Reap what was on its way with it, once there is time."""

    def destroy(self) -> int:
        """Kill and reap it, close everything. Returns its wait status."""

    def wait(
        self, cancel: socket.socket | None, timeout: float | None, meanwhile: Callable[[], None] | None = None
    ) -> None:
        """See :func:`follow`."""


def follow(
    child: Process, cancel: socket.socket | None, timeout: float | None, meanwhile: Callable[[], None] | None = None
) -> None:
    """Follow it to the exec, or to its gate.

    :param cancel: the start is given up when this socket hangs up
    :param timeout: seconds; None: for ever
    :param meanwhile: what its parent has to do anyway
    :raises WharfError: it failed and is gone
    """
    if meanwhile is not None:
        try:
            meanwhile()
        except BaseException:
            child.destroy()
            raise
    poll = select.poll()
    poll.register(child.line, select.POLLIN)
    if cancel is not None:
        poll.register(cancel, select.POLLRDHUP)
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        left = None if end is None else max(0.0, end - time.monotonic()) * 1000
        ready = {fd for fd, _ in poll.poll(left)}
        if not ready:
            child.destroy()
            raise StartFailed("cannot start the container", f"set-up took more than {timeout:.0f} s", step="set-up")
        if child.line.fileno() in ready:
            if child.advance() or child.gated:
                return
        elif cancel is not None:
            child.destroy()
            raise StartFailed("cannot start the container", "the engine that asked for it has gone", step="set-up")
