"""What is under way and what has ended: progress per layer of the one under the cursor; ``x`` cancels it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.widget import Widget
from textual.widgets import Static

from core.model import Speed
from tui import text
from tui.messages import JobsChanged
from tui.screens.base import Dialog
from tui.widgets.linetable import Cell, Column, LineTable, Row
from tui.widgets.meter import bar
from tui.widgets.progress import PullView

if TYPE_CHECKING:
    from tui.jobs import Job, Jobs

_STYLES = {"running": "accent", "done": "success", "failed": "error", "cancelled": "text-muted"}
_BAR = 12  # cells


class JobsScreen(Dialog[None]):
    """Opens what was hidden (a pull runs on when its dialog is left), and cancels it."""

    BINDINGS: ClassVar = [("escape,q,J", "leave", "Back"), ("x,ctrl+x", "cancel", "Cancel")]
    TITLE_TEXT = "Jobs"
    KEYS_TEXT = "x cancel · Esc back, they go on"

    # What no job has to show takes no room: the name of a job is what one looks for.
    NAMES = (Column("state", "STATE", 9), Column("title", "JOB", minimum=20, weight=1, cut="reference"))
    MOVES = (
        Column("progress", "", _BAR + 5, align="right", priority=2),
        Column("rate", "RATE", 8, align="right", priority=3),
        Column("left", "LEFT", 5, align="right", priority=3),
    )
    WHY = (Column("why", "WHY", minimum=16, weight=1, priority=1),)
    TIME_COLUMN = Column("time", "TIME", 4, align="right", priority=1)

    def __init__(self, jobs: Jobs) -> None:
        super().__init__()
        self._jobs = jobs
        self._has = False, False  # jobs that move; that have failed
        self._table = LineTable(self._columns(), empty="nothing is under way", id="jobs-table")
        self._why = Static("", classes="error", id="jobs-why")
        self._progress = PullView(id="progress")

    def _columns(self) -> tuple[Column, ...]:
        moves, fails = self._has
        return (*self.NAMES, *(self.MOVES if moves else ()), *(self.WHY if fails else ()), self.TIME_COLUMN)

    def parts(self) -> list[Widget]:
        return [self._table, self._why, self._progress]

    def on_mount(self) -> None:
        self.query_one("#box").styles.width = 100
        self._show()
        self._table.focus()
        self.set_interval(1.0, self._show)  # the times go on where nothing else moves

    @on(JobsChanged)
    def _changed(self) -> None:
        self._show()

    def _show(self) -> None:
        shown = list(reversed(self._jobs.shown))
        self._table.styles.height = min(12, max(1, len(shown))) + 1
        moves = any(job.total and job.state == "running" for job in shown)
        fails = any(job.error for job in shown)
        if (moves, fails) != self._has:
            self._has = moves, fails
            key = self._table.cursor_key
            self._table.set_rows([])  # those that are there have other cells
            self._table.set_columns(self._columns())
            self._table.set_rows([_row(job, moves, fails) for job in shown])
            self._table.move_to(key or "")
        else:
            self._table.set_rows([_row(job, moves, fails) for job in shown])
        self._detail()

    @on(LineTable.Highlighted)
    def _detail(self) -> None:
        job = self._chosen()
        self._why.update(text.safe(job.error if job else ""))
        self._why.display = bool(job and job.error)
        progress = job.progress if job is not None and job.state == "running" else None
        self._progress.display = progress is not None
        if job is not None and progress is not None:
            self._progress.set_progress(progress, job.speed)

    def _chosen(self) -> Job | None:
        return next((job for job in self._jobs.shown if job.key == self._table.cursor_key), None)

    def action_cancel(self) -> None:
        job = self._chosen()
        if job is None or job.state != "running":
            return
        if not job.can_cancel:
            text.notify(self, f"{job.title}: this cannot be stopped half-way", severity="warning", timeout=3)
            return
        job.cancel()


def _row(job: Job, moves: bool, fails: bool) -> Row:
    """Cells for the columns that are shown."""
    words = _STYLES.get(job.state, "")
    cells: list[str | Cell] = [Cell(job.state, words), job.title]
    if moves:
        part = job.done / job.total if job.total else 0.0
        drawn = f"{bar(part, _BAR)} {part * 100:3.0f}%" if job.total and job.state == "running" else ""
        speed = job.speed if job.state == "running" else Speed()
        cells.append(Cell(drawn, words))
        cells.append(text.decimal_rate(speed.rate) if speed.rate is not None else "")
        cells.append(text.span(speed.left) if speed.left is not None else "")
    if fails:
        cells.append(Cell(" ".join(job.error.split("\n")[:2]), "error"))
    seconds = (job.ended or time.monotonic()) - job.began
    return Row(job.key, (*cells, Cell(text.age(seconds), "text-muted")))
