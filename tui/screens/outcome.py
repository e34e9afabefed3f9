"""What a container has become: its changes against the image, an image of it, an archive of its files."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

from core.engine import Engine
from core.errors import WharfError
from core.model import Container, FileChange
from tui import paths, text
from tui.jobs import Job, Jobs
from tui.screens.table import TableScreen
from tui.screens.task import Field, TaskScreen
from tui.widgets.linetable import Cell, Column, Row

_KINDS = {"A": ("added", "success"), "C": ("changed", "warning"), "D": ("deleted", "error")}


class ChangesScreen(TableScreen[list[FileChange], None]):
    """The files in which a container differs from its image."""

    COLUMNS = (Column("kind", "", 7), Column("path", "PATH", minimum=24, weight=1))
    EMPTY = "it is still as its image is"

    def __init__(self, name: str, ask: Callable[[Callable[[list[FileChange] | WharfError], None]], object]) -> None:
        super().__init__(ask)
        self._subject = name

    def heading(self) -> str:
        return f"Changes of {self._subject} against its image"

    def rows(self, answer: list[FileChange]) -> Sequence[Row]:
        counts = {kind: sum(change.kind == kind for change in answer) for kind in _KINDS}
        self.say(", ".join(f"{count} {_KINDS[kind][0]}" for kind, count in counts.items() if count))
        return [
            Row(f"{change.kind}{change.path}", (Cell(*_KINDS.get(change.kind, (change.kind, ""))), change.path))
            for change in answer
        ]


class CommitScreen(TaskScreen):
    """Make an image of a container."""

    TITLE_TEXT = "Make an image of a container"

    def __init__(self, engine: Engine, jobs: Jobs, container: Container) -> None:
        super().__init__(engine, jobs)
        self._container = container
        self.ASK = f"The files of {container.name} as they are now; mounts and volumes stay outside."

    def fields(self) -> Sequence[Field]:
        return (
            Field("name", "Name", hint="team/app:2; nameless where empty", needed=False),
            Field("message", "Message", hint="why", needed=False),
            Field("author", "Author", needed=False),
            Field("changes", "Changes", hint="'CMD [\"serve\"]' 'ENV A=b' …", needed=False),
        )

    def checks(self) -> Sequence[tuple[str, str]]:
        return (("running", "let it run on meanwhile: files may be half-written"),)

    def job_title(self) -> str:
        return f"commit {self._container.name}"

    def complaint(self) -> str:
        try:
            shlex.split(self.typed("changes"))
        except ValueError:
            return "a quote in the changes is not closed"
        return ""

    async def work(self, job: Job) -> str:
        image = await self._engine.commit(
            self._container.id,
            self.typed("name"),
            author=self.typed("author"),
            message=self.typed("message"),
            changes=shlex.split(self.typed("changes")),
            pause=not self.checked("running"),
            watch=self.watcher(job),
        )
        return f"{self.typed('name') or image.short_id} is made: n runs it"


class ExportScreen(TaskScreen):
    """Write a container's files as a tar."""

    TITLE_TEXT = "Export the files of a container"

    def __init__(self, engine: Engine, jobs: Jobs, container: Container) -> None:
        super().__init__(engine, jobs)
        self._container = container
        self.ASK = f"A tar of all files of {container.name}, mounts left out, on this host:"

    def fields(self) -> Sequence[Field]:
        return (Field("target", value=paths.proposed(f"{self._container.name}.tar")),)

    def checks(self) -> Sequence[tuple[str, str]]:
        return (("replace", "replace a file that is there"),)

    def job_title(self) -> str:
        return f"export {self._container.name}"

    def complaint(self) -> str:
        return paths.complaint(paths.typed(self.typed("target")), replace=self.checked("replace"))

    async def work(self, job: Job) -> str:
        target = paths.typed(self.typed("target"))
        await self._engine.export(self._container.id, target, watch=self.watcher(job))
        return f"exported to {target} ({text.decimal(target.stat().st_size).strip()})"
