"""``LocalEngine``: the engine embedded in this process. Each method is one verb of ``ops/``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.border import verb
from core.local_images import ImageVerbs
from core.local_networks import NetworkVerbs
from core.local_registries import RegistryVerbs
from core.local_storage import StorageVerbs
from core.ops import records
from core.ops.open import open_context
from core.ops.recover import recover
from core.supervise.exits import EngineSocket

if TYPE_CHECKING:
    from core.engine import LogFile, Session
    from core.errors import WharfError
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
        LogLine,
        Sample,
    )
    from core.ops.context import Context


class LocalEngine(ImageVerbs, NetworkVerbs, RegistryVerbs, StorageVerbs):
    """Implements :class:`core.engine.Engine` with the kernel of this host."""

    def __init__(self, ctx: Context, exits: EngineSocket) -> None:
        self._ctx = ctx
        self._exits = exits
        self._closed = False

    @classmethod
    @verb("open the engine")
    async def open(cls, root: Path | None = None, run: Path | None = None) -> LocalEngine:
        """Open the instance and recover what a crash has left. :raises NoPrivilege:"""
        ctx = await open_context(root, run)

        async def ended(cid: str) -> None:
            from core.ops.settle import settle_exited

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
    @verb("list the containers")
    async def containers(self, *, all: bool = True) -> list[Container]:
        return [box for box in await records.listed(self._ctx) if all or box.state.live]

    @verb("look at the container")
    async def container(self, ref: str) -> Container:
        return records.snapshot(self._ctx, await records.find(self._ctx, ref))

    @verb("create the container")
    async def create(self, spec: ContainerSpec) -> Container:
        from core.ops.create import create

        return await create(self._ctx, spec)

    @verb("start the container")
    async def start(self, ref: str) -> Container:
        from core.ops.start import start

        return await start(self._ctx, ref)

    @verb("start the container")
    async def start_attached(self, ref: str, *, stdin: bool = False) -> Session:
        from core.ops.attach import start_attached

        return await start_attached(self._ctx, ref, stdin=stdin)

    @verb("attach to the container")
    async def attach(self, ref: str, *, stdin: bool = True) -> Session:
        from core.ops.attach import attach

        return await attach(self._ctx, ref, stdin=stdin)

    @verb("stop the container")
    async def stop(self, ref: str, *, timeout: float | None = None) -> Container:
        from core.ops.stop import stop

        before = await self.container(ref)
        await stop(self._ctx, ref, timeout)
        return before if before.spec.auto_remove else await self.container(before.id)

    @verb("send the signal")
    async def kill(self, ref: str, signal: str = "KILL") -> None:
        from core.ops.kill import kill

        await kill(self._ctx, ref, signal)

    @verb("restart the container")
    async def restart(self, ref: str, *, timeout: float | None = None) -> Container:
        from core.ops.restart import restart

        return await restart(self._ctx, ref, timeout)

    @verb("pause the container")
    async def pause(self, ref: str) -> None:
        from core.ops.pause import pause

        await pause(self._ctx, ref)

    @verb("unpause the container")
    async def unpause(self, ref: str) -> None:
        from core.ops.pause import unpause

        await unpause(self._ctx, ref)

    @verb("remove the container")
    async def remove(self, ref: str, *, force: bool = False) -> None:
        from core.ops.remove import remove

        await remove(self._ctx, ref, force=force)

    @verb("update the container")
    async def update(self, ref: str, change: Change) -> Container:
        from core.ops.update import update

        return await update(self._ctx, ref, change)

    @verb("checkpoint the container")
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

    @verb("restore the container")
    async def restore(self, ref: str, name: str = "") -> Container:
        from core.ops.restore import restore

        return await restore(self._ctx, ref, name)

    @verb("restore the container")
    async def restore_from(self, archive: Path, *, name: str = "", trust: bool = False) -> Container:
        from core.ops.restore import restore_from

        return await restore_from(self._ctx, archive, name=name, trust=trust)

    @verb("list the checkpoints")
    async def checkpoints(self, ref: str) -> list[Checkpoint]:
        from core.ops.checkpoints import checkpoints

        return await checkpoints(self._ctx, ref)

    @verb("remove the checkpoint")
    async def remove_checkpoint(self, ref: str, name: str) -> None:
        from core.ops.checkpoints import remove_checkpoint

        await remove_checkpoint(self._ctx, ref, name)

    @verb("wait for the container")
    async def wait(self, ref: str) -> int:
        from core.ops.wait import wait

        return await wait(self._ctx, ref)

    @verb("run the command")
    async def exec(self, ref: str, spec: ExecSpec) -> Session:
        from core.ops.execute import execute

        return await execute(self._ctx, ref, spec)

    @verb("inspect it")
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

    @verb("open the log")
    async def open_log(self, ref: str) -> LogFile:
        from core.ops.logs import open_log

        return await open_log(self._ctx, ref)

    @verb("read the meters")
    async def stats(self, refs: Sequence[str] | None = None) -> list[Sample]:
        from core.ops.stats import stats

        return await stats(self._ctx, refs)

    @verb("read the host's meters")
    async def host_sample(self) -> HostSample:
        from core.ops.hostinfo import host_sample

        return host_sample(self._ctx.inst)

    # -- networks and the rest ----------------------------------------------------------------------------------
    def events(self, *, since: float | None = None, until: float | None = None) -> AsyncIterator[Event]:
        from core.ops.events import events

        return events(self._ctx, since, until)

    @verb("describe the host")
    async def info(self) -> HostInfo:
        from core.ops.info import info

        return await info(self._ctx)

    async def doctor(self) -> list[Check]:
        from core.ops.doctor import doctor

        return await asyncio.to_thread(doctor, self._ctx.inst)

    def demo(self) -> AsyncIterator[str]:
        from core.demo import run_demo

        return run_demo(self)


async def examine(error: WharfError, root: Path | None, run: Path | None) -> list[Check]:
    """See :func:`core.engine.examine_host`."""
    from core.ops.doctor import examine

    return await asyncio.to_thread(examine, error, root, run)
