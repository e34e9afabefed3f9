"""Is every link of a network as it should be? The steps as they come; the first broken one, and how to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.binding import BindingType

from core.engine import Engine
from core.errors import WharfError
from core.model import NetStep
from tui import text
from tui.jobs import Job, Jobs
from tui.screens.table import TableScreen
from tui.widgets.linetable import Cell, Column, Row


class NetworkCheckScreen(TableScreen[list[NetStep], None]):
    """Looks as soon as it is open, and again by ``r``. Esc hides it; its end is told by a notification then."""

    KEYS_TEXT = "Esc hide, it goes on (J shows it) · ctrl+x cancel"
    DONE_TEXT: ClassVar[str] = "r check again · ↑ ↓ move · Esc back"
    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,q", "leave", "Back; a check goes on"),
        ("ctrl+x", "cancel", "Cancel"),
        ("r", "repeat", "Check again"),
    ]
    COLUMNS = (
        Column("status", "", 1),
        Column("subject", "WHOSE", minimum=14, weight=1, priority=1),
        Column("link", "LINK", 14),
        Column("found", "FOUND", minimum=24, weight=4),
    )
    EMPTY = "nothing to check"

    def __init__(self, engine: Engine, jobs: Jobs, ref: str, subject: str) -> None:
        """``subject``: what ``ref`` is, like "network web", for the heading."""
        super().__init__(lambda show: None)
        self._asking = False  # it may last: keys are for this screen meanwhile
        self._engine = engine
        self._jobs = jobs
        self._ref = ref
        self._subject = subject
        self._job: Job | None = None
        self._steps: list[NetStep] = []

    def heading(self) -> str:
        return f"Check of {self._subject}"

    def begin(self) -> None:
        self._table.focus()
        self._run()

    def _run(self) -> None:
        self._steps = []
        self._table.set_empty("…")
        self._table.set_rows([])
        self._keys(self.KEYS_TEXT)
        self.say("looking at each link, one after the other")

        async def work(job: Job) -> None:
            async for step in self._engine.check_network(self._ref):
                self._steps.append(step)
                if self.is_attached:
                    self._table.set_rows(self.rows(self._steps))
                    self._table.action_bottom()

        title = f"check {self._subject}"
        self._job = self._jobs.run(title, work, then=lambda _: self._ended(), failed=self._failed, can_cancel=True)

    def _keys(self, words: str) -> None:
        self.query_one("#box").border_subtitle = text.safe(words)

    def rows(self, answer: list[NetStep]) -> Sequence[Row]:
        return [_row(number, step) for number, step in enumerate(answer)]

    def _ended(self) -> None:
        broken = next((number for number, step in enumerate(self._steps) if step.status == "broken"), None)
        if not self.is_attached:
            words = self._sum()
            text.notify(self.app, words, severity="information" if broken is None else "warning")
            return
        self._keys(self.DONE_TEXT)
        self._table.set_empty(self.EMPTY)
        self._table.move_to(str(broken or 0))
        self.moved(self._table.cursor_key)

    def _failed(self, error: WharfError) -> None:
        if not self.is_attached:
            text.notify_error(self.app, error, title=f"check {self._subject}")
            return
        self._keys(self.DONE_TEXT)
        self._show(error)

    def _sum(self) -> str:
        """What came of it, in a line or two."""
        step = next((step for step in self._steps if step.status == "broken"), None)
        if step is not None:
            return "\n".join([f"Broken: {step.name} of {step.subject}", step.found, *([step.fix] if step.fix else [])])
        warned = sum(step.status == "warning" for step in self._steps)
        ok = sum(step.status == "ok" for step in self._steps)
        return f"{self._subject}: {ok} links are as they should be" + (f", {warned} to look at" if warned else "")

    def moved(self, key: str | None) -> None:
        if key is None or self._job is None or self._job.state == "running":
            return
        step = self._steps[int(key)]
        lines = [f"{step.subject}, {step.name}: {step.status}", step.found, *([step.fix] if step.fix else [])]
        first = next((one for one in self._steps if one.status == "broken"), None)
        if step is first:
            lines[0] = f"The first broken link: {step.name} of {step.subject}"
        elif first is None and step.status != "warning":
            lines = [self._sum(), "", *lines]
        self.say("\n".join(lines), "$foreground")

    def action_repeat(self) -> None:
        if self._job is not None and self._job.state != "running":
            self._run()

    def action_cancel(self) -> None:
        if self._job is not None and self._job.state == "running":
            self._job.cancel()
            self.dismiss(None)


def _row(number: int, step: NetStep) -> Row:
    glyphs = text.glyphs()
    sign = {
        "ok": Cell(glyphs.ok, "success"),
        "warning": Cell("!", "warning bold"),
        "broken": Cell(glyphs.failed, "error bold"),
    }.get(step.status, Cell(glyphs.dot, "text-muted"))
    style = {"broken": "error", "warning": "warning", "skipped": "text-muted"}.get(step.status, "")
    return Row(str(number), (sign, Cell(step.subject, "text-muted"), Cell(step.name, style), Cell(step.found, style)))
