"""Pull from a registry, or load an archive: one line to type, then the progress of each layer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.widget import Widget
from textual.widgets import Input, Static

from core.engine import Engine
from core.errors import WharfError
from core.model import PullProgress
from tui import text
from tui.jobs import Job, Jobs
from tui.screens.base import Check, Dialog
from tui.snapshot import image_name
from tui.widgets.progress import PullView


class FetchScreen(Dialog[None]):
    """Asks, then shows progress. Esc hides it and the job runs on; ctrl+x cancels it."""

    BINDINGS: ClassVar = [("escape", "leave", "Hide"), ("ctrl+x", "cancel", "Cancel")]
    ASK: ClassVar[str] = ""
    HINT: ClassVar[str] = ""
    VERB: ClassVar[str] = ""
    KEYS_TEXT = "↵ go · Esc back"

    def __init__(self, engine: Engine, jobs: Jobs) -> None:
        super().__init__()
        self._engine = engine
        self._jobs = jobs
        self._job: Job | None = None
        self._input = Input(placeholder=self.HINT, id="source", select_on_focus=False)
        self._error = Static("", classes="error")
        self._progress = PullView(id="progress")

    def parts(self) -> list[Widget]:
        return [Static(text.safe(self.ASK), classes="quiet"), self._input, *self.extras(), self._error, self._progress]

    def extras(self) -> list[Widget]:
        """Further fields."""
        return []

    def on_mount(self) -> None:
        self._input.cursor_blink = False
        self._progress.display = False
        self._error.display = False
        self._input.focus()

    def steps(self, source: str) -> AsyncIterator[PullProgress]:
        """The engine call."""
        raise NotImplementedError

    def complaint(self, source: str) -> str:
        """What is wrong with what was typed, before anything is asked of the engine."""
        return ""

    @on(Input.Submitted)
    def _go(self, message: Input.Submitted) -> None:
        message.stop()
        source = self._input.value.strip()
        if self._job is not None or not source:
            return
        wrong = self.complaint(source)
        if wrong:
            self._say(wrong)
            return
        self._error.display = False
        self._input.disabled = True
        self._progress.display = True
        self.query_one("#box").border_subtitle = text.safe("Esc hide, it goes on (J shows it) · ctrl+x cancel")
        self.set_focus(None)
        self._job = self._jobs.run(
            f"{self.VERB} {source}",
            lambda job: self._jobs.progress(job, self.steps(source), self._watch),
            then=self._done,
            failed=self._failed,
            can_cancel=True,
        )

    def _watch(self, progress: PullProgress) -> None:
        if self.is_attached:
            self._progress.set_progress(progress)

    def _done(self, last: PullProgress) -> None:
        name = image_name(last.image) if last.image else last.reference
        text.notify(self.app, f"{name} is here: n runs it")
        if self.is_attached and self.is_current:
            self.dismiss(None)

    def _failed(self, error: WharfError) -> None:
        self._job = None
        if not (self.is_attached and self.is_current):
            text.notify_error(self.app, error, title=f"{self.VERB} failed")
            return
        self._input.disabled = False
        self._progress.display = False
        self.query_one("#box").border_subtitle = text.safe(self.KEYS_TEXT)
        self._say("\n".join(part for part in (error.what, error.why, error.fix) if part))
        self._input.focus()

    def _say(self, words: str) -> None:
        self._error.update(text.safe(words))
        self._error.display = True

    def action_cancel(self) -> None:
        if self._job is not None:
            self._job.cancel()
            self.dismiss(None)


class PullScreen(FetchScreen):
    """Pull an image."""

    TITLE_TEXT = "Pull an image"
    ASK = "Its name, with registry and tag where they differ from Docker's defaults:"
    HINT = "nginx:1.27, ghcr.io/owner/name, 127.0.0.1:5000/name:tag"
    VERB = "pull"

    def extras(self) -> list[Widget]:
        self._plain = Check("plain HTTP (a registry without TLS)", compact=True, id="insecure")
        return [self._plain]

    def complaint(self, source: str) -> str:
        return "an image's name has no spaces" if any(c.isspace() for c in source) else ""

    def steps(self, source: str) -> AsyncIterator[PullProgress]:
        return self._engine.pull(source, insecure=self._plain.value)


class LoadScreen(FetchScreen):
    """Load an archive."""

    TITLE_TEXT = "Load an archive"
    ASK = "A docker save or OCI archive (tar, plain or compressed), or an OCI layout folder, on this host:"
    HINT = "/path/to/image.tar"
    VERB = "load"

    def complaint(self, source: str) -> str:
        return "" if Path(source).expanduser().exists() else f"{source} does not exist on this host"

    def steps(self, source: str) -> AsyncIterator[PullProgress]:
        return self._engine.load(Path(source).expanduser())
