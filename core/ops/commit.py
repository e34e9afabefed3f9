"""``commit``: an image of what a container has become.

The container stands still while its files are read: what a half-done write leaves would be in the image for good.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import AsyncIterator, Sequence
from typing import Any

from core.errors import Conflict, Corrupt, NoPrivilege, Unsupported
from core.images import diff, instructions, making, reference
from core.images.making import Note
from core.images.manifest import read_json
from core.images.outgoing import Watch
from core.images.unpackers import Unpackers
from core.model import Image, State, Watcher
from core.ops import records
from core.ops.changes import layer_folders, standing_still
from core.ops.context import Context
from core.ops.kill import freeze
from core.ops.records import Record
from core.ops.settle import settle
from core.store.journal import Journal
from core.store.lock import object_lock
from core.supervise import client

_SECOND = 1_000_000_000  # nanoseconds, in which images write durations


async def commit(
    ctx: Context,
    ref: str,
    name: str = "",
    *,
    author: str = "",
    message: str = "",
    changes: Sequence[str] = (),
    pause: bool = True,
    watch: Watcher | None = None,
) -> Image:
    """Make an image of a container's files and of how it runs.

    :param name: of the image; "" for none
    :param changes: instructions as in a Dockerfile (:mod:`core.images.instructions`)
    :param pause: freeze a running container meanwhile, where groups can be frozen at all
    :param watch: told how far it is
    :raises InvalidArgument: the name, or one of the changes
    :raises Conflict: a file that no layer can hold, or files that are swapped while they are read
    """
    tag = str(reference.parse_tag(name)) if name else ""
    cid = await records.find_id(ctx, ref)
    async with object_lock(ctx.inst, cid):
        record, run = await settle(ctx, cid)
        document = read_json(ctx.images.config_of(record.image))
        config = running_config(record, document)
        instructions.apply(config, changes)
        note = Note(author, message, shlex.join(record.config.argv))
        work = _Work(ctx, record, document, config, note, watch)
        try:
            async with _still(ctx, record, run, pause) as still:
                work.live = not still
                image = await making.commit(ctx.images, work.make, tag)
        finally:
            await work.unpackers.close(wait=False)
    ctx.tell("container", "commit", cid, name=record.name, image=image.id)
    ctx.tell("image", "tag" if tag else "create", image.id, name=tag)
    return image


@contextlib.asynccontextmanager
async def _still(ctx: Context, record: Record, run: client.RunState | None, pause: bool) -> AsyncIterator[bool]:
    """Frozen meanwhile, if it runs; the journal thaws it should this process be killed. Gives whether it stands still
    now."""
    state = record.saved.state
    if run is None or not pause or state is not State.RUNNING:
        yield state is State.PAUSED or standing_still(state)
        return
    async with Journal(ctx.inst, "commit", record.id, ctx.undos) as journal:
        journal.step("commit.undo", record.id)
        try:
            await freeze(ctx, record, run, True)
        except (NoPrivilege, Unsupported):  # an ordinary user's on cgroup v1: read as it comes
            yield False
            return
        try:
            yield True
        finally:
            await asyncio.shield(freeze(ctx, record, run, False))


async def undo_commit(ctx: Context, cid: str) -> None:
    """Thaw what a commit that was killed had frozen. Idempotent."""
    record = await records.find_or_none(ctx, cid)
    if record is None:
        return
    saved, run = records.observe(ctx, record)
    if run is not None and saved.state is State.RUNNING:
        with contextlib.suppress(NoPrivilege, Unsupported):
            await freeze(ctx, record, run, False)


class _Work:
    """One commit in the making."""

    def __init__(
        self,
        ctx: Context,
        record: Record,
        document: dict[str, Any],
        config: dict[str, Any],
        note: Note,
        watch: Watcher | None,
    ) -> None:
        self.unpackers = Unpackers(ctx.inst)
        self.live = True
        self._ctx = ctx
        self._record = record
        self._document = document
        self._config = config
        self._note = note
        self._watch = watch

    async def make(self) -> tuple[bytes, list[str]]:
        """The configuration and the layers' keys."""
        starting = asyncio.create_task(self.unpackers.start())  # takes longer than what comes before its first layer
        try:
            return await self._make()
        finally:
            await asyncio.gather(starting, return_exceptions=True)

    async def _make(self) -> tuple[bytes, list[str]]:
        ctx, record = self._ctx, self._record
        upper = ctx.inst.container_dir(record.id) / "upper"
        found = await asyncio.to_thread(lambda: diff.compare(upper, layer_folders(ctx, record), first=True))
        keys = ctx.images.keys(await ctx.images.get(record.image))
        if found.empty:
            return making.extended(self._document, self._config, self._note, "", making.now()), keys
        progress = making.Counter(record.name, "files", "reading")

        def pour(fd: int, look: Watch) -> None:
            making.pour_layer(upper, fd, progress.counting(look), live=self.live)

        try:
            work = making.add_layer(ctx.images, self.unpackers, pour)
            layer = await making.measured(progress, work, [upper], self._watch)
        except Corrupt as error:
            if not self.live:
                raise
            # What was a folder when it was listed is a link now: no archive, and nobody's fault but the moment's.
            raise Conflict(
                f"container {record.name} changes too fast to be committed", error.why, "Stop it, or let it be paused"
            ) from error
        return making.extended(self._document, self._config, self._note, layer.diffid, making.now()), [*keys, layer.key]


def running_config(record: Record, document: dict[str, Any]) -> dict[str, Any]:
    """The image's configuration with what the container was created with on top."""
    spec, image = record.spec, record.config.image
    config: dict[str, Any] = dict(document.get("config") or {})
    config.pop("OnBuild", None)  # meant for builds on the old image, and done with
    for key in ("Hostname", "Domainname", "Image", "Tty", "OpenStdin", "AttachStdin", "AttachStdout", "AttachStderr"):
        config.pop(key, None)
    env = dict(item.partition("=")[::2] for item in (*image.env, *spec.env))
    config["Env"] = [f"{key}={value}" for key, value in env.items()]
    config["Labels"] = {**image.labels, **spec.labels}
    config["ExposedPorts"] = {
        **{port: {} for port in image.exposed_ports},
        **{f"{port.container_port}/{port.protocol}": {} for port in spec.ports},
    }
    if spec.entrypoint is not None:
        config["Entrypoint"] = [word for word in spec.entrypoint if word]
        config["Cmd"] = list(spec.command or ())
    elif spec.command is not None:
        config["Cmd"] = list(spec.command)
    for key, value in (("User", spec.user), ("WorkingDir", spec.working_dir), ("StopSignal", spec.stop_signal)):
        if value:
            config[key] = value
    if spec.healthcheck is not None:
        config["Healthcheck"] = _check(record, dict(config.get("Healthcheck") or {}))
    return config


def _check(record: Record, check: dict[str, Any]) -> dict[str, Any]:
    own = record.spec.healthcheck
    assert own is not None
    if own.test:
        check["Test"] = list(own.test)
    times = (
        ("Interval", own.interval),
        ("Timeout", own.timeout),
        ("StartPeriod", own.start_period),
        ("StartInterval", own.start_interval),
    )
    check |= {key: round(seconds * _SECOND) for key, seconds in times if seconds}
    if own.retries:
        check["Retries"] = own.retries
    return check
