"""Is everything in the image store as it was written? A check with its progress, then what is damaged, and mending."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar

from textual.binding import BindingType

from core.engine import Engine
from core.errors import WharfError
from core.model import Checked, Damage, Remains
from tui import text
from tui.jobs import Job, Jobs
from tui.screens.confirm import ConfirmScreen
from tui.screens.table import TableScreen
from tui.snapshot import familiar, listed
from tui.widgets.linetable import Cell, Column, Row

TITLE = "check the image store"
_SHOWN = 6  # damages that the question tells of one by one


class StoreCheckScreen(TableScreen[Checked, None]):
    """Begins with a look that changes nothing; ``r`` and ``d`` mend what it has found, after a question.

    Esc hides it and the check goes on; its end is told by a notification then.
    """

    TITLE_TEXT = "Check of the image store"
    KEYS_TEXT = "Esc hide, it goes on (J shows it) · ctrl+x cancel"
    DONE_TEXT: ClassVar[str] = "r repair · d repair, remove the rest · Esc back"
    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,q", "leave", "Back; a check goes on"),
        ("ctrl+x", "cancel", "Cancel"),
        ("r", "repair(False)", "Repair what is damaged"),
        ("d", "repair(True)", "Repair, and remove what cannot be repaired"),
    ]
    COLUMNS = (
        Column("state", "STATE", 8),
        Column("what", "WHAT", 8),
        Column("id", "ID", 12, priority=2),
        Column("images", "IMAGES", minimum=14, weight=1, cut="reference"),
        Column("why", "WHY", minimum=16, weight=2, priority=1),
    )
    EMPTY = "nothing is damaged"

    def __init__(self, engine: Engine, jobs: Jobs) -> None:
        super().__init__(lambda show: None)
        self._asking = False  # it may last: keys are for this screen meanwhile
        self._engine = engine
        self._jobs = jobs
        self._job: Job | None = None
        self._found: Checked | None = None  # by the last check that came to its end
        self._remains = Remains()

    def begin(self) -> None:
        self._table.focus()
        self._run(repair=False, remove=False)

    def _run(self, *, repair: bool, remove: bool) -> None:
        self._found, self._remains = None, Remains()
        self._table.set_rows([])
        self._table.set_empty("…")
        self._keys(self.KEYS_TEXT)

        async def work(job: Job) -> Checked:
            last = Checked("", 0, 0)
            async for last in self._engine.check_store(repair=repair, remove=remove):
                job.done, job.total = last.done, last.total
                self._jobs.changed()
                if self.is_attached:
                    self.say(_progress(last))
            with suppress(WharfError):  # it is beside the question, and must not spoil its answer
                self._remains = await self._engine.remains()
            return last

        def ended(last: Checked) -> None:
            self._ended(last, repair)

        self._job = self._jobs.run(TITLE, work, then=ended, failed=self._failed, can_cancel=True)

    def _keys(self, words: str) -> None:
        self.query_one("#box").border_subtitle = text.safe(words)

    def _ended(self, last: Checked, repair: bool) -> None:
        left = sum(not damage.mended for damage in last.damages)
        self._found = last
        if not self.is_attached:
            hint = ": check again to see and repair it" if left else ""
            text.notify(self.app, _sum(last, repair) + hint, severity="warning" if left else "information")
            return
        self._keys(self.DONE_TEXT if left else "Esc back")
        self._show(last)

    def _failed(self, error: WharfError) -> None:
        if not self.is_attached:
            text.notify_error(self.app, error, title=TITLE)
            return
        self._keys("Esc back")
        self._show(error)

    def rows(self, answer: Checked) -> Sequence[Row]:
        if not answer.damages:
            self.say("\n".join([_sum(answer, False), *_left(self._remains)]))
        return [_row(number, damage) for number, damage in enumerate(answer.damages)]

    def moved(self, key: str | None) -> None:
        if key is None or self._found is None:
            return
        damage = self._found.damages[int(key)]
        lines = (_sum(self._found, False), f"{damage.kind} {_short(damage)}: {damage.why}", damage.done)
        self.say("\n".join(line for line in lines if line), "$foreground")

    def action_repair(self, remove: bool) -> None:
        if self._found is None:
            return
        broken = [damage for damage in self._found.damages if not damage.mended]
        if not broken:
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._run(repair=True, remove=remove)

        self.app.push_screen(_question(broken, remove), answered)

    def action_cancel(self) -> None:
        if self._job is not None and self._job.state == "running":
            self._job.cancel()
            self.dismiss(None)


def _question(broken: Sequence[Damage], remove: bool) -> ConfirmScreen:
    told = [f"{damage.kind} {_short(damage)}: {damage.why}" for damage in broken[:_SHOWN]]
    if len(broken) > _SHOWN:
        told.append(f"And {len(broken) - _SHOWN} more.")
    told += ["", "Made again from its own archive, or fetched again from where it came."]
    what = f"{len(broken)} damaged part{'s' * (len(broken) != 1)}"
    if not remove:
        return ConfirmScreen(f"Repair {what}?", [*told, "Nothing is removed."], "Repair")
    names = list(dict.fromkeys(familiar(name) for damage in broken for name in damage.images))
    if names:
        told.append(f"What cannot be repaired goes, with its images: {listed(names, 8)}.")
    else:
        told.append("What cannot be repaired goes.")
    told.append("What a container needs stays.")
    return ConfirmScreen(f"Repair {what}, and remove what stays damaged?", told, "Remove")


def _left(found: Remains) -> list[str]:
    """What was broken off, in a line: no damage, but it occupies the disk."""
    if not found:
        return []
    count, size = found.half + found.whole, text.decimal(found.half_size + found.whole_size).strip()
    layers = f"{count} layer{'s' * (count > 1)} without an image ({size})"
    return [f"{layers}, of something that was broken off: prune images, with all, takes them away"]


def _short(damage: Damage) -> str:
    return damage.id.removeprefix("sha256:")[:12]


def _row(number: int, damage: Damage) -> Row:
    state = Cell("mended", "success") if damage.mended else Cell("damaged", "error")
    names = ", ".join(map(familiar, damage.images))
    return Row(str(number), (state, damage.kind, _short(damage), names, Cell(damage.done or damage.why, "text-muted")))


def _progress(step: Checked) -> str:
    return f"{step.done} of {step.total} verified, {text.decimal(step.size).strip()}   {step.what}"


def _sum(last: Checked, repair: bool) -> str:
    """What came of it, in one line."""
    left = sum(not damage.mended for damage in last.damages)
    words = f"{last.total} layers and documents verified ({text.decimal(last.size).strip()}): "
    if not last.damages:
        return words + "all is well"
    mended = len(last.damages) - left
    return words + f"{len(last.damages)} damaged" + (f", {mended} mended" if repair or mended else "")
