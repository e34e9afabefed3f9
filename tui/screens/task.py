"""A dialog that asks for a few things and then does one: what goes wrong is said in it, and can be mended there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import events, on
from textual.containers import Grid
from textual.suggester import SuggestFromList
from textual.widget import Widget
from textual.widgets import Checkbox, Input, Static

from core.engine import Engine
from core.errors import WharfError
from core.model import PullProgress, Speed
from tui import text
from tui.jobs import Job, Jobs
from tui.screens.base import Check, Dialog
from tui.widgets.progress import PullView


@dataclass(frozen=True)
class Field:
    """One line to type; ``key`` is also the input's id. ``known`` are suggested while one types."""

    key: str
    label: str = ""  # "": the line has all the width
    value: str = ""
    hint: str = ""
    secret: bool = False
    needed: bool = True
    known: tuple[str, ...] = ()


class TaskScreen(Dialog[None]):
    """Asks, then works as a job, with progress where there is any. Esc hides it and the job runs on; ctrl+x cancels."""

    CSS_PATH: ClassVar = ["dialog.tcss", "task.tcss"]
    BINDINGS: ClassVar = [("escape", "leave", "Hide"), ("ctrl+x", "cancel", "Cancel"), ("ctrl+r,enter", "submit", "Go")]
    ASK: str = ""
    KEYS_TEXT = "↵ go · Esc back"
    CAN_CANCEL: ClassVar[bool] = True
    FIRST: str = ""  # the line that has the focus at the start; "" the first

    def __init__(self, engine: Engine, jobs: Jobs) -> None:
        super().__init__()
        self._engine = engine
        self._jobs = jobs
        self._job: Job | None = None
        self._last: Widget | None = None  # had the focus when it began: there it goes on after a failure
        self._said = ""
        self._typing = False  # keys came while it worked
        self._inputs: dict[str, Input] = {}
        self._checks: dict[str, Check] = {}
        self._needed: dict[str, str] = {}
        self._error = Static("", classes="error")
        self._progress = PullView(id="progress")

    # -- what each dialog says ----------------------------------------------------------------------------------------
    def fields(self) -> Sequence[Field]:
        """The lines to type."""
        raise NotImplementedError

    def checks(self) -> Sequence[tuple[str, str]]:
        """(key, words) of boxes to check."""
        return ()

    def job_title(self) -> str:
        raise NotImplementedError

    def complaint(self) -> str:
        """What is wrong with what was typed, before anything is asked of the engine."""
        return ""

    def advice(self, error: WharfError) -> str:
        """What this dialog itself can do about a failure."""
        return ""

    async def work(self, job: Job) -> str:
        """Do it. Returns what to tell the user, "" nothing."""
        raise NotImplementedError

    def on_key(self, event: events.Key) -> None:
        """While it works the fields take nothing: not now, and not when it fails in the middle of a word."""
        self._typing = self._job is not None and (self._typing or event.is_printable)

    @on(Input.Changed)
    @on(Checkbox.Changed)
    def _changed(self) -> None:
        """What was wrong is being mended."""
        if self._job is None:
            self._error.display = False

    # -- what they share ----------------------------------------------------------------------------------------------
    def typed(self, key: str) -> str:
        return self._inputs[key].value.strip()

    def checked(self, key: str) -> bool:
        return self._checks[key].value

    async def follow(self, job: Job, steps: AsyncIterator[PullProgress]) -> PullProgress:
        """Show a transfer until it ends; its last state."""
        return await self._jobs.progress(job, steps, self._watch)

    def watcher(self, job: Job) -> Callable[[PullProgress], None]:
        """For engine calls that tell how far they are."""
        return self._jobs.watcher(job, self._watch)

    def parts(self) -> list[Widget]:
        fields = self.fields()
        cells: list[Widget] = []
        for field in fields:
            made = Input(field.value, placeholder=field.hint, id=field.key, password=field.secret)
            made.select_on_focus = False
            made.cursor_blink = False  # it would repaint twice a second for ever
            if field.known:
                made.suggester = SuggestFromList(field.known, case_sensitive=True)
            self._inputs[field.key] = made
            if field.needed:
                self._needed[field.key] = field.label or self.ASK.rstrip(":")
            if field.label:
                cells += [Static(text.safe(field.label), classes="label"), made]
        lines: list[Widget] = [self._inputs[field.key] for field in fields if not field.label]
        if cells:
            lines.append(Grid(*cells, classes="task-fields"))
        self._checks = {key: Check(words, compact=True, id=key) for key, words in self.checks()}
        asked = [Static(text.safe(self.ASK), classes="quiet")] if self.ASK else []
        return [*asked, *lines, *self._checks.values(), self._error, self._progress]

    def on_mount(self) -> None:
        self._progress.display = self._error.display = False
        self._inputs[self.FIRST or next(iter(self._inputs))].focus()

    @on(Input.Submitted)
    def action_submit(self) -> None:
        """Check what was typed, and begin."""
        if self._job is not None:
            return
        missing = next((key for key in self._needed if not self.typed(key)), None)
        if missing is not None:
            self._inputs[missing].focus()
            if len(self._inputs) > 1:
                self._say(f"{self._needed[missing]}?")
            return
        if wrong := self.complaint():
            self._say(wrong)
            return
        self._begin()

    def _begin(self) -> None:
        self._error.display = self._typing = False
        self._last = self.focused or self._last
        self._freeze(True)
        self.query_one("#box").border_subtitle = text.safe(
            "Esc hide, it goes on (J shows it)" + (" · ctrl+x cancel" if self.CAN_CANCEL else "")
        )
        self.set_focus(None)
        self._job = self._jobs.run(
            self.job_title(), self.work, then=self.finish, failed=self._failed, can_cancel=self.CAN_CANCEL
        )

    def _freeze(self, on: bool) -> None:
        for widget in (*self._inputs.values(), *self._checks.values()):
            widget.disabled = on

    def _watch(self, progress: PullProgress, speed: Speed) -> None:
        if self.is_attached:
            self._progress.display = True
            self._progress.set_progress(progress, speed)
            if progress.notices:
                self._say("\n".join(progress.notices[-3:]))

    def finish(self, words: str) -> None:
        """It went well: say so, and go."""
        if words:
            text.notify(self.app, words)
        if self.is_attached and self.is_current:
            self.dismiss(None)

    def _failed(self, error: WharfError) -> None:
        self._job = None
        if not (self.is_attached and self.is_current):
            text.notify_error(self.app, error, title=f"{self.job_title()} failed")
            return
        self._freeze(False)
        self._progress.display = False
        self.query_one("#box").border_subtitle = text.safe(self.KEYS_TEXT)
        self._say("\n".join(part for part in (error.what, error.why, error.fix, self.advice(error)) if part))
        if self._typing:  # the rest of what is being typed is for no field either
            self._say(f"{self._said}\nTab goes back to the fields; what was typed meanwhile is gone.")
        else:
            (self._last or next(iter(self._inputs.values()))).focus()

    def _say(self, words: str) -> None:
        self._said = words
        self._error.update(text.safe(words))
        self._error.display = True

    def action_cancel(self) -> None:
        if self._job is not None and self.CAN_CANCEL:
            self._job.cancel()
            self.dismiss(None)
