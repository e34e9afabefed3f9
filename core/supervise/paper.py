"""What a monitor writes down, also when the disk is full: it tries again, and forgets nothing meanwhile."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from core.supervise.loop import Loop
from core.supervise.records import EXIT, ExitRecord, RunState, write_exit, write_exit_aside, write_state
from core.supervise.rundir import RunDir

_AGAIN = 1.0  # seconds


class Paper:
    """The exit record and the state of one container.

    :param exit_path: of exit.json
    :param settled: called when a record that had to wait is in its place
    """

    def __init__(self, loop: Loop, exit_path: str, settled: Callable[[], None]) -> None:
        self._loop = loop
        self._exit_path = exit_path
        self._settled = settled
        self._exit: ExitRecord | None = None
        self._state: RunState | None = None
        self._timer = False
        self.rundir: RunDir | None = None

    @property
    def owes(self) -> bool:
        """True while the exit record is not in its place."""
        return self._exit is not None

    def note_exit(self, record: ExitRecord) -> None:
        """Never raises: a known exit code must not be lost because a disk is full or broken."""
        self._exit = record
        if self._write_exit():
            return
        try:
            if self.rundir is not None and self.rundir.ours:
                write_exit_aside(self.rundir.path, record)  # engines look there too
        except OSError:
            pass  # this process still knows it
        self._later()

    def note_state(self, state: RunState) -> None:
        """Never raises. Nothing is written where an engine has removed the folder: it saw the exit record."""
        self._state = state
        if not self._write_state():
            self._later()

    def _write_exit(self) -> bool:
        record = self._exit
        if record is None:
            return True
        try:
            # A container that was removed meanwhile needs no record, and its folder must not come back.
            if os.path.isdir(os.path.dirname(self._exit_path)):
                write_exit(self._exit_path, record)
            if self.rundir is not None and self.rundir.ours:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.rundir.file(EXIT))  # what is there is older now, and it is read first
        except OSError:
            return False
        self._exit = None
        return True

    def _write_state(self) -> bool:
        state, rundir = self._state, self.rundir
        try:
            if state is not None and rundir is not None and rundir.ours:
                write_state(rundir.path, state)
        except FileNotFoundError:
            pass
        except OSError:
            return False
        self._state = None
        return True

    def _later(self) -> None:
        if not self._timer:
            self._timer = True
            self._loop.after(_AGAIN, self._try_again)

    def _try_again(self) -> None:
        self._timer = False
        owed = self.owes
        if owed and self.rundir is not None and not self.rundir.ours:
            # An engine has brought our copy to its place and removed the folder; the next run may have begun.
            self._exit = None
        if not (self._write_exit() & self._write_state()):
            self._later()
        elif owed:
            self._settled()
