"""Health checks: a command inside, now and then; some failures in a row make a container unhealthy (Docker's rules)."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from core.errors import Conflict, WharfError
from core.supervise.child import Process
from core.supervise.loop import Loop, Timer

if TYPE_CHECKING:
    from core.model.container import Healthcheck

OUTPUT = 4096  # bytes of a check's output that are kept

Run = Callable[["tuple[str, ...]", "tuple[int, int, int]"], Process]


class Health:
    """Checks one container while it runs.

    :param run: forks the check's command with the given standard streams
    :param changed: called with each new state of (status, failures in a row, output)
    """

    def __init__(self, loop: Loop, check: Healthcheck, run: Run, changed: Callable[[str, int, str], None]) -> None:
        self._loop = loop
        self._check = check
        self._run = run
        self._changed = changed
        self._argv = check.test[1:] if check.test[0] == "CMD" else ("/bin/sh", "-c", check.test[1])
        self._timer: Timer | None = None
        self._child: Process | None = None
        self._pipe = -1
        self._output = bytearray()
        self._failures = 0
        self._since = time.monotonic()
        self._status = ""

    def start(self) -> None:
        """The container has just started."""
        self._since = time.monotonic()
        self._failures = 0
        self._set("starting", "")
        self._timer = self._loop.after(self._pause(), self._probe)

    def stop(self) -> None:
        """The container has ended, and a check that was under way with it."""
        if self._timer:
            self._timer.cancel()
        if self._child is not None:
            self._forget_child()

    def resume(self, status: str, failures: int) -> None:
        """Go on with a container that was checked by another monitor before."""
        self._status, self._failures = status or "starting", failures
        self._timer = self._loop.after(self._pause(), self._probe)

    def _probe(self) -> None:
        self._output.clear()
        self._pipe, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(theirs, True)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._child = self._run(self._argv, (null, theirs, theirs))
        except Conflict:  # paused: nothing can be said now
            self._close_pipe()
            self._timer = self._loop.after(self._pause(), self._probe)
            return
        except (OSError, WharfError) as error:
            self._close_pipe()
            self._verdict(False, str(error))
            return
        finally:
            os.close(theirs)
            os.close(null)
        self._loop.watch(self._pipe, self._read)
        self._loop.watch(self._child.line.fileno(), self._news)
        self._timer = self._loop.after(self._check.timeout, self._too_slow)

    def _news(self, events: int) -> None:
        child = self._child
        if child is None:
            return
        line = child.line.fileno()
        try:
            if child.advance():
                self._loop.unwatch(line)
                self._loop.watch(child.pidfd, self._ended)
        except WharfError as error:
            self._loop.unwatch(line)
            self._child = None
            self._close_pipe()
            self._verdict(False, str(error))

    def _read(self, events: int) -> None:
        try:
            data = os.read(self._pipe, OUTPUT)
        except BlockingIOError:
            data = b""
        self._output += data[: OUTPUT - len(self._output)]
        if not data and events & select.EPOLLHUP:
            self._loop.unwatch(self._pipe)

    def _ended(self, events: int) -> None:
        child = self._child
        if child is None:
            return
        self._loop.unwatch(child.pidfd)
        os.close(child.pidfd)
        self._child = None
        code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        self._read(0)
        self._close_pipe()
        self._verdict(code == 0, self._output.decode(errors="replace"))

    def _too_slow(self) -> None:
        self._forget_child()
        self._verdict(False, f"the check took more than {self._check.timeout:g} s")

    def _forget_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            for fd in (child.line.fileno(), child.pidfd):
                self._loop.unwatch(fd)
            # The whole session of the check: a shell's children would stay otherwise.
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            child.destroy()
        self._close_pipe()

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            self._loop.unwatch(self._pipe)
            os.close(self._pipe)
            self._pipe = -1

    def _verdict(self, good: bool, output: str) -> None:
        if self._timer:
            self._timer.cancel()
        if good:
            self._failures = 0
            self._set("healthy", output)
        else:
            # Failures in the start period do not count, until the first success.
            self._failures += 0 if self._in_start_period() else 1
            bad = self._failures >= self._check.retries
            self._set("unhealthy" if bad else self._status, output)
        self._timer = self._loop.after(self._pause(), self._probe)

    def _in_start_period(self) -> bool:
        return self._status == "starting" and time.monotonic() - self._since < self._check.start_period

    def _pause(self) -> float:
        """Seconds until the next check."""
        # A container that an earlier version has started has no other interval for its start period.
        first = getattr(self._check, "start_interval", 0.0) if self._in_start_period() else 0.0
        return first or self._check.interval

    def _set(self, status: str, output: str) -> None:
        self._status = status
        self._changed(status, self._failures, output)
