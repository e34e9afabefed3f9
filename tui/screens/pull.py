"""Images on their way in and out: pull, load, import, push, save."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar

from core.engine import Engine
from core.errors import NoPlatform, NotFound, Unauthorized, Unsupported, WharfError
from core.model import LayerProgress, PullProgress, PushProgress
from tui import paths, text
from tui.jobs import Job, Jobs
from tui.screens.names import LoginScreen
from tui.screens.task import Field, TaskScreen
from tui.snapshot import familiar, image_name, listed, registry_of, repository

_PLAIN = ("insecure", "plain HTTP (a registry without TLS)")


class _RegistryScreen(TaskScreen):
    """Asks something of a registry: where that wants a login, it can be had here."""

    BINDINGS: ClassVar = [("ctrl+l", "login", "Log in")]
    NAME: ClassVar = ""  # the field with the image's name

    def advice(self, error: WharfError) -> str:
        return "Or here: ctrl+l logs in, then ↵ tries again." if isinstance(error, Unauthorized) else ""

    def action_login(self) -> None:
        """The dialog of key A, with the registry filled in."""
        if self._job is not None:
            self._typing = True  # and then a name and a password: they are for no field of this dialog
            text.notify(self.app, "nothing to log in to yet: the registry has not answered", timeout=4)
            return
        self.app.push_screen(LoginScreen(self._engine, self._jobs, registry_of(self.typed(self.NAME))))


class PullScreen(_RegistryScreen):
    """Pull an image."""

    NAME = "source"

    TITLE_TEXT = "Pull an image"
    ASK = "Its name, with registry and tag where they differ from Docker's defaults:"

    def __init__(self, engine: Engine, jobs: Jobs, name: str = "", *, every_tag: bool = False) -> None:
        super().__init__(engine, jobs)
        self._known = name
        self._every = every_tag

    def on_mount(self) -> None:
        super().on_mount()
        self._checks["every"].value = self._every

    def fields(self) -> Sequence[Field]:
        return (
            Field("source", value=self._known, hint="nginx:1.27, ghcr.io/owner/name, 127.0.0.1:5000/name:tag"),
            Field("platform", "Platform", hint="this machine's; or linux/arm64", needed=False),
        )

    def checks(self) -> Sequence[tuple[str, str]]:
        return (("every", "every tag of the repository"), _PLAIN)

    def job_title(self) -> str:
        return f"pull {self.typed('source')}{', every tag' if self.checked('every') else ''}"

    def complaint(self) -> str:
        source = self.typed("source")
        if self.checked("every") and repository(source) != source:
            return "every tag, or the one in the name? Leave one of them out"
        return "an image's name has no spaces" if any(c.isspace() for c in source) else ""

    async def work(self, job: Job) -> str:
        if self.checked("every"):
            return await self._all(job)
        plain, platform = self.checked("insecure"), self.typed("platform")
        last = await self.follow(job, self._engine.pull(self.typed("source"), insecure=plain, platform=platform))
        return _arrived(last) if last.changed else f"{self.typed('source')} is up to date"

    async def _all(self, job: Job) -> str:
        """One tag after the other; what is no image (signatures are tags, too), or none for us, is passed by."""
        name, plain, platform = self.typed("source"), self.checked("insecure"), self.typed("platform")
        tags = await self._engine.tags(name, insecure=plain)
        if not tags:
            raise NotFound(f"{name} has no tags", "there is nothing to pull", "Check its name")
        passed: list[str] = []
        for number, tag in enumerate(tags):
            job.title = f"pull {name}:{tag} ({number + 1} of {len(tags)})"
            try:
                steps = self._engine.pull(f"{name}:{tag}", insecure=plain, platform=platform)
                await self.follow(job, steps)
            except (NoPlatform, Unsupported):
                passed.append(tag)
        if len(passed) == len(tags):
            raise NotFound(
                f"{name} has no image that could be pulled", f"it has {listed(passed, 6)}", "Try another platform"
            )
        words = f"{len(tags) - len(passed)} tags of {name} are here"
        return words + (f"; no image for this machine: {listed(passed, 6)}" if passed else "")


class LoadScreen(TaskScreen):
    """Load an archive."""

    TITLE_TEXT = "Load an archive"
    ASK = "A docker save or OCI archive (tar, plain or compressed), or an OCI layout folder, on this host:"

    def fields(self) -> Sequence[Field]:
        return (Field("source", hint="/path/to/image.tar"),)

    def job_title(self) -> str:
        return f"load {self.typed('source')}"

    def complaint(self) -> str:
        return _absent(self.typed("source"))

    async def work(self, job: Job) -> str:
        names: dict[str, None] = {}  # in their order, each once

        async def steps() -> AsyncIterator[PullProgress]:
            async for step in self._engine.load(paths.typed(self.typed("source"))):
                if step.image is not None:  # one of several, perhaps
                    names.update(dict.fromkeys(map(familiar, step.image.tags or [image_name(step.image)])))
                yield step

        last = await self.follow(job, steps())
        if len(names) < 2:
            return _arrived(last)
        return f"{len(names)} names are here: {listed(names, 8)}"


class ImportScreen(TaskScreen):
    """Make an image of a file system."""

    TITLE_TEXT = "Import a file system"
    ASK = "A tar of a file system (export writes such), plain or compressed, on this host:"

    def fields(self) -> Sequence[Field]:
        return (
            Field("source", hint="/path/to/files.tar"),
            Field("name", "Name", hint="base:1", needed=False),
            Field("change", "Change", hint='CMD ["sh"]', needed=False),
        )

    def job_title(self) -> str:
        return f"import {self.typed('source')}"

    def complaint(self) -> str:
        return _absent(self.typed("source"))

    async def work(self, job: Job) -> str:
        changes = [self.typed("change")] if self.typed("change") else []
        source, watch = paths.typed(self.typed("source")), self.watcher(job)
        image = await self._engine.import_image(source, self.typed("name"), changes=changes, watch=watch)
        return f"{image_name(image)} is here: n runs it"


def _absent(source: str) -> str:
    return "" if os.path.exists(paths.typed(source)) else f"{source} does not exist on this host"


def _arrived(last: PullProgress) -> str:
    name = image_name(last.image) if last.image else last.reference
    return f"{name} is here: n runs it"


class PushScreen(_RegistryScreen):
    """Push a name of an image."""

    NAME = "name"

    TITLE_TEXT = "Push an image"
    ASK = "The name to push; its registry stands first in it:"

    def __init__(self, engine: Engine, jobs: Jobs, names: tuple[str, ...]) -> None:
        super().__init__(engine, jobs)
        self._names = names

    def fields(self) -> Sequence[Field]:
        names = tuple(map(familiar, self._names))
        return (Field("name", value=names[0] if names else "", hint="registry.lan:5000/team/app:1", known=names),)

    def checks(self) -> Sequence[tuple[str, str]]:
        return (_PLAIN,)

    def job_title(self) -> str:
        return f"push {self.typed('name')}"

    async def work(self, job: Job) -> str:
        digest = ""

        async def steps() -> AsyncIterator[PullProgress]:
            nonlocal digest
            async for step in self._engine.push(self.typed("name"), insecure=self.checked("insecure")):
                digest = step.digest
                yield as_pull(step)

        await self.follow(job, steps())
        return f"{self.typed('name')} is pushed: {digest}"


class SaveScreen(TaskScreen):
    """Write images into an archive."""

    TITLE_TEXT = "Save to an archive"
    ASK = "A file on this host; docker, podman and skopeo can load it:"
    CAN_CANCEL = True

    def __init__(self, engine: Engine, jobs: Jobs, refs: Sequence[str], name: str) -> None:
        super().__init__(engine, jobs)
        self._refs = refs
        self._target = paths.proposed(f"{name.rpartition('/')[2].replace(':', '-') or 'images'}.tar")

    def fields(self) -> Sequence[Field]:
        return (Field("target", value=self._target),)

    def checks(self) -> Sequence[tuple[str, str]]:
        return (
            ("oci", "as an OCI archive, and not docker's"),
            ("zstd", "layers compressed by zstd"),
            ("replace", "replace a file that is there"),
        )

    def job_title(self) -> str:
        return f"save to {self.typed('target')}"

    def complaint(self) -> str:
        return paths.complaint(paths.typed(self.typed("target")), replace=self.checked("replace"))

    async def work(self, job: Job) -> str:
        target = paths.typed(self.typed("target"))
        form = "oci-archive" if self.checked("oci") else "docker-archive"
        method = "zstd" if self.checked("zstd") else "none"
        await self._engine.save(self._refs, target, form=form, compression=method, watch=self.watcher(job))
        return f"saved to {target} ({text.decimal(target.stat().st_size).strip()})"


def as_pull(step: PushProgress) -> PullProgress:
    """A push as the widgets show a pull."""
    layers = tuple(LayerProgress(each.diffid, each.phase, each.done, each.total) for each in step.layers)
    return PullProgress(step.reference, layers, notices=step.notices)
