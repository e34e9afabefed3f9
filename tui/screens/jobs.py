"""What is under way and what has ended: progress per layer of the one under the cursor; ``x`` cancels it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.widget import Widget
from textual.widgets import Static

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

    COLUMNS = (
        Column("state", "STATE", 9),
        Column("title", "JOB", minimum=20, weight=1),
        Column("progress", "", _BAR + 5, align="right", priority=2),
        Column("time", "TIME", 4, align="right", priority=1),
    )

    def __init__(self, jobs: Jobs) -> None:
        super().__init__()
        self._jobs = jobs
        self._table = LineTable(self.COLUMNS, empty="nothing is under way", id="jobs-table")
        self._why = Static("", classes="error", id="jobs-why")
        self._progress = PullView(id="progress")

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
        self._table.set_rows([_row(job) for job in shown])
        self._detail()

    @on(LineTable.Highlighted)
    def _detail(self) -> None:
        job = self._chosen()
        self._why.update(text.safe(job.error if job else ""))
        self._why.display = bool(job and job.error)
        progress = job.progress if job is not None and job.state == "running" else None
        self._progress.display = progress is not None
        if progress is not None:
            self._progress.set_progress(progress)

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


def _row(job: Job) -> Row:
    words = _STYLES.get(job.state, "")
    part = job.done / job.total if job.total else 0.0
    drawn = f"{bar(part, _BAR)} {part * 100:3.0f}%" if job.total and job.state == "running" else ""
    seconds = (job.ended or time.monotonic()) - job.began
    return Row(job.key, (Cell(job.state, words), job.title, Cell(drawn, words), Cell(text.age(seconds), "text-muted")))
