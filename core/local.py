"""``LocalEngine``: the engine embedded in this process. Each method is one verb of ``ops/``."""

from __future__ import annotations

import asyncio
import errno
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from core.engine import LogFile, Session
from core.errors import NoSpace, Timeout, WharfError
from core.model import (
    Change,
    Check,
    Checkpoint,
    CheckpointOptions,
    Container,
    ContainerSpec,
    Event,
    ExecSpec,
    HostInfo,
    HostSample,
    Image,
    LogLine,
    Network,
    PullProgress,
    Sample,
)
from core.ops import records
from core.ops.context import Context
from core.ops.open import open_context
from core.ops.recover import recover
from core.ops.settle import settle_exited
from core.supervise.client import EngineSocket

P = ParamSpec("P")
R = TypeVar("R")


def _translated(error: OSError, doing: str) -> WharfError:
    """The engine's error for one of the operating system's that no step has explained."""
    place = f"{error.filename}: " if error.filename else ""
    why = f"{place}{error.strerror or error}"
    # What an undo could not do was noted on the exception: core.store.journal.
    left = tuple(getattr(error, "__notes__", ()))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        fix = "Free some space on the disk of the data root, and try again"
        return NoSpace(f"cannot {doing}: the disk is full", why, fix, step=doing, cleanup=left)
    if isinstance(error, TimeoutError):
        return Timeout(f"cannot {doing}", why or "it took too long", "Try again", step=doing, cleanup=left)
    return WharfError(f"cannot {doing}", why, "`wharf doctor` looks at this host", step=doing, cleanup=left)


def _verb(doing: str) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Callable[P, Coroutine[Any, Any, R]]]:
    """The border of the engine: what its callers see are the errors of :mod:`core.errors` only."""

    def wrap(method: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        @functools.wraps(method)
        async def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return await method(*args, **kwargs)
            except OSError as error:
                raise _translated(error, doing) from error

        return call

    return wrap


class LocalEngine:
    """Implements :class:`core.engine.Engine` with the kernel of this host."""

    def __init__(self, ctx: Context, exits: EngineSocket) -> None:
        self._ctx = ctx
        self._exits = exits
        self._closed = False

    @classmethod
    @_verb("open the engine")
    async def open(cls, root: Path | None = None, run: Path | None = None) -> LocalEngine:
        """Open the instance and recover what a crash has left. :raises NoPrivilege:"""
        ctx = await open_context(root, run)

        async def ended(cid: str) -> None:
            await settle_exited(ctx, cid)

        exits = EngineSocket(ctx.inst, ended)
        await exits.start()
        engine = cls(ctx, exits)
        await recover(ctx)
        return engine

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._exits.close()
        await self._ctx.close()

    async def recover(self) -> list[str]:
        """The thorough recovery, and from now on the firewall table is watched. For engines that stay open."""
        failed = await recover(self._ctx, thorough=True)
        await self._ctx.images.recover()
        self._ctx.net.watch()
        return failed

    # -- containers ---------------------------------------------------------------------------------------------
    @_verb("list the containers")
    async def containers(self, *, all: bool = True) -> list[Container]:
        boxes = [records.snapshot(self._ctx, record) for record in await records.every(self._ctx)]
        return [box for box in boxes if all or box.state.live]

    @_verb("look at the container")
    async def container(self, ref: str) -> Container:
        return records.snapshot(self._ctx, await records.find(self._ctx, ref))

    @_verb("create the container")
    async def create(self, spec: ContainerSpec) -> Container:
        from core.ops.create import create

        return await create(self._ctx, spec)

    @_verb("start the container")
    async def start(self, ref: str) -> Container:
        from core.ops.start import start

        return await start(self._ctx, ref)

    @_verb("start the container")
    async def start_attached(self, ref: str, *, stdin: bool = False) -> Session:
        from core.ops.attach import start_attached

        return await start_attached(self._ctx, ref, stdin=stdin)

    @_verb("attach to the container")
    async def attach(self, ref: str, *, stdin: bool = True) -> Session:
        from core.ops.attach import attach

        return await attach(self._ctx, ref, stdin=stdin)

    @_verb("stop the container")
    async def stop(self, ref: str, *, timeout: float | None = None) -> Container:
        from core.ops.stop import stop

        before = await self.container(ref)
        await stop(self._ctx, ref, timeout)
        return before if before.spec.auto_remove else await self.container(before.id)

    @_verb("send the signal")
    async def kill(self, ref: str, signal: str = "KILL") -> None:
        from core.ops.kill import kill

        await kill(self._ctx, ref, signal)

    @_verb("restart the container")
    async def restart(self, ref: str, *, timeout: float | None = None) -> Container:
        from core.ops.restart import restart

        return await restart(self._ctx, ref, timeout)

    @_verb("pause the container")
    async def pause(self, ref: str) -> None:
        from core.ops.pause import pause

        await pause(self._ctx, ref)

    @_verb("unpause the container")
    async def unpause(self, ref: str) -> None:
        from core.ops.pause import unpause

        await unpause(self._ctx, ref)

    @_verb("remove the container")
    async def remove(self, ref: str, *, force: bool = False) -> None:
        from core.ops.remove import remove

        await remove(self._ctx, ref, force=force)

    @_verb("update the container")
    async def update(self, ref: str, change: Change) -> Container:
        from core.ops.update import update

        return await update(self._ctx, ref, change)

    @_verb("checkpoint the container")
    async def checkpoint(
        self,
        ref: str,
        name: str = "",
        *,
        leave_running: bool = False,
        export: Path | None = None,
        options: CheckpointOptions | None = None,
    ) -> Checkpoint:
        from core.ops.checkpoint import checkpoint

        return await checkpoint(self._ctx, ref, name, leave_running=leave_running, export=export, options=options)

    @_verb("restore the container")
    async def restore(self, ref: str, name: str = "") -> Container:
        from core.ops.restore import restore

        return await restore(self._ctx, ref, name)

    @_verb("restore the container")
    async def restore_from(self, archive: Path, *, name: str = "", trust: bool = False) -> Container:
        from core.ops.restore import restore_from

        return await restore_from(self._ctx, archive, name=name, trust=trust)

    @_verb("list the checkpoints")
    async def checkpoints(self, ref: str) -> list[Checkpoint]:
        from core.ops.checkpoints import checkpoints

        return await checkpoints(self._ctx, ref)

    @_verb("remove the checkpoint")
    async def remove_checkpoint(self, ref: str, name: str) -> None:
        from core.ops.checkpoints import remove_checkpoint

        await remove_checkpoint(self._ctx, ref, name)

    @_verb("wait for the container")
    async def wait(self, ref: str) -> int:
        from core.ops.wait import wait

        return await wait(self._ctx, ref)

    @_verb("run the command")
    async def exec(self, ref: str, spec: ExecSpec) -> Session:
        from core.ops.execute import execute

        return await execute(self._ctx, ref, spec)

    @_verb("inspect it")
    async def inspect(self, ref: str) -> dict[str, object]:
        from core.ops.inspect import inspect

        return await inspect(self._ctx, ref)

    # -- logs and meters ----------------------------------------------------------------------------------------
    def logs(
        self,
        ref: str,
        *,
        tail: int | None = None,
        since: float | None = None,
        until: float | None = None,
        follow: bool = False,
    ) -> AsyncIterator[LogLine]:
        from core.ops.logs import logs

        return logs(self._ctx, ref, tail, since, until, follow)

    @_verb("open the log")
    async def open_log(self, ref: str) -> LogFile:
        from core.ops.logs import open_log

        return await open_log(self._ctx, ref)

    @_verb("read the meters")
    async def stats(self, refs: Sequence[str] | None = None) -> list[Sample]:
        from core.ops.stats import stats

        return await stats(self._ctx, refs)

    @_verb("read the host's meters")
    async def host_sample(self) -> HostSample:
        from core.ops.hostinfo import host_sample

        return host_sample(self._ctx.inst)

    # -- images -------------------------------------------------------------------------------------------------
    @_verb("list the images")
    async def images(self) -> list[Image]:
        return await self._ctx.images.list()

    @_verb("look at the image")
    async def image(self, ref: str) -> Image:
        return await self._ctx.images.get(ref)

    def pull(self, reference: str, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        from core.ops.fetch import pull

        return pull(self._ctx, reference, insecure)

    def load(self, source: Path) -> AsyncIterator[PullProgress]:
        from core.ops.fetch import load

        return load(self._ctx, source)

    @_verb("remove the image")
    async def remove_image(self, ref: str, *, force: bool = False) -> list[str]:
        from core.ops.rm_image import remove_image

        return await remove_image(self._ctx, ref, force=force)

    # -- networks and the rest ----------------------------------------------------------------------------------
    @_verb("list the networks")
    async def networks(self) -> list[Network]:
        return await self._ctx.net.describe()

    def events(self, *, since: float | None = None, until: float | None = None) -> AsyncIterator[Event]:
        from core.ops.events import events

        return events(self._ctx, since, until)

    @_verb("describe the host")
    async def info(self) -> HostInfo:
        from core.ops.info import info

        return await info(self._ctx)

    async def doctor(self) -> list[Check]:
        from core.ops.doctor import doctor

        return await asyncio.to_thread(doctor, self._ctx.inst)

    def demo(self) -> AsyncIterator[str]:
        from core.demo import run_demo

        return run_demo(self)
