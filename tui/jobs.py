"""The one place where an action becomes an engine call: progress is a job, an error a notification (no traceback)."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from core.errors import WharfError
from core.model import Pace, PullProgress, Speed
from tui import text
from tui.messages import JobsChanged
from tui.settings import keep_traceback

if TYPE_CHECKING:
    from textual.app import App

T = TypeVar("T")
Watcher = Callable[[PullProgress, Speed], None]
KEPT = 20  # jobs that have ended stay in the list, so many of them
_keys = itertools.count(1)


@dataclass
class Job:
    """One thing under way. ``done`` of ``total`` are bytes; ``total`` 0: nobody knows how long."""

    title: str
    began: float = field(default_factory=time.monotonic)
    done: int = 0
    total: int = 0
    state: str = "running"  # running, done, failed, cancelled
    error: str = ""  # why it failed
    quiet: bool = False  # takes a moment only: not in the list of jobs
    can_cancel: bool = False
    progress: PullProgress | None = None  # of a pull, load or push: its last state
    speed: Speed = field(default_factory=Speed)
    ended: float = 0.0  # on the clock of ``began``; 0: under way
    key: str = field(default_factory=lambda: str(next(_keys)))
    task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """Stop it; the engine undoes what is half done. (Once: a second time would break off the undoing.)"""
        if self.task is not None and not self.task.cancelling():
            self.task.cancel()


class Jobs:
    """All jobs of this workstation."""

    def __init__(self, app: App[Any]) -> None:
        self._app = app
        self._jobs: list[Job] = []
        self._ending = False

    @property
    def running(self) -> list[Job]:
        """Those under way, oldest first."""
        return [job for job in self._jobs if job.state == "running"]

    @property
    def shown(self) -> list[Job]:
        """What a list of jobs shows: those under way and the last that ended, oldest first."""
        return [job for job in self._jobs if not job.quiet]

    def run(
        self,
        title: str,
        work: Callable[[Job], Awaitable[T]],
        *,
        then: Callable[[T], None] | None = None,
        failed: Callable[[WharfError], None] | None = None,
        done: str = "",
        quiet: bool = False,
        can_cancel: bool = False,
    ) -> Job:
        """Start ``work``; its :class:`WharfError` becomes a notification.

        :param then: called with the result
        :param failed: called instead of the notification
        :param done: notification where it went well
        :param quiet: not in the list of jobs
        :param can_cancel: the user may stop it half-way
        """
        job = Job(title, quiet=quiet, can_cancel=can_cancel)
        ended = [each for each in self.shown if each.ended][:-KEPT]
        self._jobs = [*(each for each in self._jobs if each not in ended and not (each.quiet and each.ended)), job]
        job.task = asyncio.create_task(self._guard(job, work, then, failed, done), name=f"job {title}")
        # A job that takes no time shows nothing: the status line is told after a moment.
        if not quiet:
            self._app.set_timer(0.25, self.changed)
        return job

    async def end(self) -> None:
        """Cancel all and wait until the engine has undone what was half done."""
        self._ending = True
        running = self.running
        for job in running:
            job.cancel()
        await asyncio.gather(*(job.task for job in running if job.task is not None), return_exceptions=True)

    def changed(self) -> None:
        """Tell the status line and the list of jobs (messages still queued are replaced)."""
        for screen in self._app.screen_stack:
            screen.post_message(JobsChanged())

    async def _guard(
        self,
        job: Job,
        work: Callable[[Job], Awaitable[T]],
        then: Callable[[T], None] | None,
        failed: Callable[[WharfError], None] | None,
        done: str,
    ) -> None:
        try:
            result = await work(job)
            job.state = "done"
            if done:
                text.notify(self._app, done)
            if then is not None:
                then(result)
        except asyncio.CancelledError:
            job.state = "cancelled"
            if not self._ending:
                text.notify(self._app, f"{job.title}: cancelled", timeout=3)
        except WharfError as error:
            job.state, job.error = "failed", "\n".join(part for part in (error.what, error.why, error.fix) if part)
            if failed is not None:
                failed(error)
            else:
                text.notify_error(self._app, error, title=job.title)
        except Exception as error:  # a bug must not end the workstation: it is told and kept in a file
            job.state, job.error = "failed", f"{type(error).__name__}: {error}"
            self._bug(job, error)
        finally:
            job.ended = time.monotonic()
            if not job.quiet:
                self.changed()

    def _bug(self, job: Job, error: Exception) -> None:
        path = keep_traceback(job.title)
        fault = WharfError(
            "this is a bug in Wharfinger", f"{type(error).__name__}: {error}", f"Details are in {path}" if path else ""
        )
        text.notify_error(self._app, fault, title=job.title)

    async def several(self, names: list[str], call: Callable[[str], Awaitable[object]]) -> None:
        """``call`` for each name, at most eight at once; every error is told, and none stops the others."""
        gate = asyncio.Semaphore(8)

        async def one(name: str) -> WharfError | None:
            async with gate:
                try:
                    await call(name)
                except WharfError as error:
                    return error
                return None

        errors = [error for error in await asyncio.gather(*(one(name) for name in names)) if error is not None]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            whys = "; ".join(f"{error.what}: {error.why}" if error.why else error.what for error in errors[:4])
            raise WharfError(f"{len(errors)} of {len(names)} failed", whys, errors[0].fix)

    async def progress(
        self, job: Job, steps: AsyncIterator[PullProgress], watch: Watcher | None = None
    ) -> PullProgress:
        """Follow a pull or load to its end and return its last state; see :meth:`watcher`."""
        last, take = PullProgress(""), self.watcher(job, watch)
        async for last in steps:
            take(last)
        return last

    def watcher(self, job: Job, watch: Watcher | None = None) -> Callable[[PullProgress], None]:
        """What takes the states of a transfer; ``watch`` sees at most ten a second, and the last with an image."""
        shown, pace = 0.0, Pace()

        def take(state: PullProgress) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown < 0.1 and state.image is None:
                return
            shown = now
            job.progress, job.speed = state, pace.take(state, now)
            job.done, job.total = job.speed.moved, job.speed.total
            if watch is not None:
                watch(state, job.speed)
            self.changed()

        return take
