"""What is on the disk, and giving it back: disk usage, prune."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from core.engine import Engine
from core.errors import InvalidArgument
from core.model import DiskUsage, ImageUse, Pruned, PruneRule
from core.units import parse_duration
from tui import text
from tui.jobs import Job, Jobs
from tui.screens.table import TableScreen
from tui.screens.task import Field, TaskScreen
from tui.snapshot import image_name
from tui.widgets.linetable import Cell, Column, Row
from tui.widgets.meter import bar

_BAR = 12  # cells


class UsageScreen(TableScreen[DiskUsage, bool]):
    """What the data root occupies, in parts that add up; then each image and container. ``b`` gives True back."""

    TITLE_TEXT = "Disk usage"
    KEYS_TEXT = "B prune images · ↑ ↓ move · Esc back"
    BINDINGS: ClassVar = [("escape,q", "leave", "Back"), ("B", "prune", "Prune images")]
    COLUMNS = (
        Column("what", "", minimum=22, weight=1, cut="reference"),
        Column("size", "SIZE", 6, align="right"),
        Column("share", "", _BAR, priority=2),
        Column("own", "OWN", 6, align="right", priority=1),
        Column("free", "TO GIVE BACK", 12, align="right"),
        Column("users", "USED BY", minimum=10, weight=1, priority=3),
    )

    def rows(self, answer: DiskUsage) -> Sequence[Row]:
        boxes = sum(use.size for use in answer.containers)
        stopped = sum(use.size for use in answer.containers if not use.container.state.live)
        volumes = sum(use.size for use in answer.volumes)
        loose = sum(use.size for use in answer.volumes if not use.containers)
        parts = [
            ("images", answer.images_size, answer.images_reclaimable),
            ("containers", boxes, stopped),
            ("volumes", volumes, loose),
            ("build cache", answer.build_cache, 0),
            ("logs", answer.logs, 0),
            *((what, size, 0) for what, size in answer.other if size),
        ]
        total = answer.total
        found = [_part(name, size, free, total) for name, size, free in parts]
        given = Cell(_given(sum(free for _, _, free in parts)), "bold")
        found.append(Row("total", (Cell("total", "bold"), Cell(text.decimal(total), "bold"), "", "", given, "")))
        found += [_image(use, total) for use in sorted(answer.images, key=lambda use: -use.size)]
        for use in sorted(answer.containers, key=lambda use: -(use.size + use.logs)):
            words = f"files {text.decimal(use.size).strip()}, logs {text.decimal(use.logs).strip()}"
            name = f"  container {use.container.name}"
            free = _given(0 if use.container.state.live else use.size)
            found.append(_line(f"c{use.container.id}", name, use.size + use.logs, total, "", free, words))
        for volume in sorted(answer.volumes, key=lambda volume: -volume.size):
            users, free = ", ".join(volume.containers), _given(0 if volume.containers else volume.size)
            found.append(_line(f"v{volume.name}", f"  volume {volume.name}", volume.size, total, "", free, users))
        self.say("Allocated blocks, each once: what du says of the data root. OWN: in no other image, freed with it.")
        return found

    def action_prune(self) -> None:
        self.dismiss(True)


def _part(name: str, size: int, free: int, total: int) -> Row:
    return _line(f"part {name}", name, size, total, "", _given(free), "", style="bold")


def _given(size: int) -> str:
    """Nothing is said as well: so one sees that it was looked at."""
    return text.decimal(size) if size else "-"


def _image(use: ImageUse, total: int) -> Row:
    name = f"  image {image_name(use.image)}"
    free = _given(0 if use.containers else use.unique)
    return _line(use.image.id, name, use.size, total, text.decimal(use.unique), free, ", ".join(use.containers))


def _line(key: str, name: str, size: int, total: int, own: str, free: str, users: str, *, style: str = "") -> Row:
    drawn = Cell(bar(size / total if total else 0.0, _BAR), "primary")
    figures = (text.decimal(size), drawn, own, Cell(free, "text-muted" if free == "-" else "warning"))
    return Row(key, (Cell(name, style), *figures, Cell(users, "text-muted")))


class PruneScreen(TaskScreen):
    """Which images are to go; what that would be is found out first, and asked about."""

    TITLE_TEXT = "Prune images"
    ASK = "Images of containers always stay. What would go is shown before anything goes."
    KEYS_TEXT = "↵ show what would go · Esc back"

    def __init__(self, engine: Engine, jobs: Jobs, found: Callable[[PruneRule, Pruned], object]) -> None:
        """``found`` gets the rule and what it would remove."""
        super().__init__(engine, jobs)
        self._found = found
        self._result: tuple[PruneRule, Pruned] | None = None

    @property
    def at_work(self) -> bool:
        """True while it looks: the keys after Enter are for the question that follows."""
        return self._job is not None and self._job.state == "running"

    def fields(self) -> Sequence[Field]:
        return (
            Field("unused", "Unused for", hint="30d: no container for so long; any time where empty", needed=False),
            Field("keep", "Keep newest", hint="3 of each repository stay; none where empty", needed=False),
            Field("until", "Made before", hint="720h ago, or 2024-05-01; any time where empty", needed=False),
            Field("label", "Label", hint="KEY or KEY=VALUE: only these; !KEY: not these", needed=False),
        )

    def checks(self) -> Sequence[tuple[str, str]]:
        return (("all", "also images with a name, and not only those without"),)

    def job_title(self) -> str:
        return "look for images to prune"

    def complaint(self) -> str:
        if self.typed("keep") and not self.typed("keep").isdecimal():
            return "keep is a number, like 3"
        try:
            parse_duration(self.typed("unused") or "0")
        except InvalidArgument as error:
            return f"{error.what}: {error.fix}"
        return ""

    async def work(self, job: Job) -> str:
        label = self.typed("label")
        words = {"until": [self.typed("until")] if self.typed("until") else []}
        words["label!" if label.startswith("!") else "label"] = [label.removeprefix("!")] if label else []
        rule = PruneRule(
            all=self.checked("all"),
            only=await self._engine.image_filter({key: values for key, values in words.items() if values}),
            unused_for=parse_duration(self.typed("unused")) if self.typed("unused") else None,
            keep=int(self.typed("keep") or 0),
            dry_run=True,
        )
        self._result = rule, await self._engine.prune_images(rule)
        return ""

    def finish(self, words: str) -> None:
        waited = self.is_attached and self.is_current
        super().finish(words)
        if waited and self._result is not None:  # who has left by Esc is at something else
            self._found(*self._result)
