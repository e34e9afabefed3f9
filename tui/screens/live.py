"""Tables that are asked for anew with every snapshot, as long as they are in front."""

from __future__ import annotations

import time
from typing import Generic, TypeVar

from textual import on

from core.errors import WharfError
from tui.messages import SnapshotReady
from tui.screens.table import TableScreen
from tui.snapshot import Snapshot

A = TypeVar("A")
R = TypeVar("R")
_REST = 4  # times as long as the answer took …
_LONGEST = 2.0  # … and at most so many seconds: it is to be live on a slow machine, too


class LiveTable(TableScreen[A, R], Generic[A, R]):
    """``ask`` as of a table. The next question waits for the answer to the one before, and then four times as long as
    that took: what is dear to find out is asked for less often than once a second."""

    snapshot = Snapshot()
    _under_way = False
    _began = 0.0  # when the last question was put, and until when there is to be none; both of time.monotonic()
    _rest = 0.0
    _due = False  # the question has changed since it was put

    def begin(self) -> None:
        self._table.focus()
        self._again()

    def ask_anew(self) -> None:
        """The question has changed: put it at once, or as soon as the answer to the last is there."""
        if self._under_way:
            self._due = True
        else:
            self._again()

    def _again(self) -> None:
        self._under_way, self._due = True, False
        self._began = time.monotonic()
        self._ask(self._answered)

    def _answered(self, answer: A | WharfError) -> None:
        self._under_way = False
        now = time.monotonic()
        self._rest = now + min(_LONGEST, _REST * (now - self._began))
        self._show(answer)
        if self.is_attached:
            self.shown()
            if self._due:
                self._again()

    def shown(self) -> None:
        """An answer is on the screen."""

    @on(SnapshotReady)
    def _snapshot_ready(self, message: SnapshotReady) -> None:
        message.stop()
        self.snapshot = message.snapshot
        if not self._under_way and self.is_current and time.monotonic() >= self._rest:
            self._again()
