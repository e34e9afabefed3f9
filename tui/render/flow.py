"""Flow control: never more on the way to the terminal than it takes in a moment.

A pty, an SSH connection and the app's own writer together hold dozens of frames. Over 30 kB/s that is seconds of
stale pictures between a key and what it does. So after each :data:`WINDOW` bytes the terminal is asked a question
that it answers only when it has read that far, and frames are held until the answer is there; what changes
meanwhile is in the next frame.
"""

from __future__ import annotations

import time
from enum import Enum

WINDOW = 2048
"""Bytes after which to ask."""

_PATIENCE = 3.0  # seconds without an answer until frames go out all the same
_FIRST_PATIENCE = 0.5  # the same for a terminal that has never answered
_TRIES = 3  # unanswered questions in a row until no more are asked


class Question(Enum):
    """What the terminal is asked."""

    MODE = "\x1b[?2026$p"  # DECRQM; terminals that know synchronized output answer
    CURSOR = "\x1b[6n"  # CPR; all others, tmux among them


class Flow:
    """Counts bytes, asks, waits. ``clock`` gives seconds (monotonic)."""

    def __init__(self, question: Question = Question.CURSOR) -> None:
        self.question = question
        self.enabled = True
        self.paused = False
        self.clock = time.monotonic
        self._sent = 0
        self._asked_at: float | None = None
        self._unanswered = 0
        self._answers = False  # it has answered before

    def held(self) -> bool:
        """True while a frame has to wait."""
        if self._asked_at is None:
            return False
        if self.clock() - self._asked_at < self.patience:
            return True
        self._asked_at = None
        self._unanswered += 1
        if self._unanswered >= _TRIES:
            self.enabled = False
        return False

    @property
    def waiting(self) -> bool:
        """True while an answer is owed."""
        return self._asked_at is not None

    @property
    def patience(self) -> float:
        """Seconds after which to try again although no answer came."""
        return _PATIENCE if self._answers else _FIRST_PATIENCE

    def wrote(self, count: int) -> str:
        """``count`` bytes go out; returns what to send after them (a question, or nothing)."""
        self._sent += count
        if not self.enabled or self.paused or self._sent < WINDOW or self._asked_at is not None:
            return ""
        self._sent = 0
        self._asked_at = self.clock()
        return self.question.value

    def answered(self) -> bool:
        """The terminal has read all up to the question; True where frames were waiting for it."""
        waited = self._asked_at is not None
        self._answers = self._answers or waited
        self._asked_at = None
        self._unanswered = 0
        return waited

    def reset(self) -> None:
        """Nothing is on the way: the terminal was handed over and came back."""
        self.paused = False
        self._sent = 0
        self._asked_at = None
