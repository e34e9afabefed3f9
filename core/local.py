"""``LocalEngine``: the engine embedded in this process. Each method is one verb of ``ops/``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from core.engine import LogFile, Session
from core.model import (
    Check,
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


class LocalEngine:
    """Implements :class:`core.engine.Engine` with the kernel of this host."""

    def __init__(self, ctx: Context, exits: EngineSocket) -> None:
        self._ctx = ctx
        self._exits = exits
        self._closed = False

    @classmethod
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
    async def containers(self, *, all: bool = True) -> list[Container]:
        boxes = [records.snapshot(self._ctx, record) for record in await records.every(self._ctx)]
        return [box for box in boxes if all or box.state.live]

    async def container(self, ref: str) -> Container:
        return records.snapshot(self._ctx, await records.find(self._ctx, ref))

    async def create(self, spec: ContainerSpec) -> Container:
        from core.ops.create import create

        return await create(self._ctx, spec)

    async def start(self, ref: str) -> Container:
        from core.ops.start import start

        return await start(self._ctx, ref)

    async def start_attached(self, ref: str, *, stdin: bool = False) -> Session:
        from core.ops.attach import start_attached

        return await start_attached(self._ctx, ref, stdin=stdin)

    async def attach(self, ref: str, *, stdin: bool = True) -> Session:
        from core.ops.attach import attach

        return await attach(self._ctx, ref, stdin=stdin)

    async def stop(self, ref: str, *, timeout: float | None = None) -> Container:
        from core.ops.stop import stop

        before = await self.container(ref)
        await stop(self._ctx, ref, timeout)
        return before if before.spec.auto_remove else await self.container(before.id)

    async def kill(self, ref: str, signal: str = "KILL") -> None:
        from core.ops.kill import kill

        await kill(self._ctx, ref, signal)

    async def restart(self, ref: str, *, timeout: float | None = None) -> Container:
        from core.ops.restart import restart

        return await restart(self._ctx, ref, timeout)

    async def pause(self, ref: str) -> None:
        from core.ops.pause import pause

        await pause(self._ctx, ref)

    async def unpause(self, ref: str) -> None:
        from core.ops.pause import unpause

        await unpause(self._ctx, ref)

    async def remove(self, ref: str, *, force: bool = False) -> None:
        from core.ops.remove import remove

        await remove(self._ctx, ref, force=force)

    async def wait(self, ref: str) -> int:
        from core.ops.wait import wait

        return await wait(self._ctx, ref)

    async def exec(self, ref: str, spec: ExecSpec) -> Session:
        from core.ops.execute import execute

        return await execute(self._ctx, ref, spec)

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

    async def open_log(self, ref: str) -> LogFile:
        from core.ops.logs import open_log

        return await open_log(self._ctx, ref)

    async def stats(self, refs: Sequence[str] | None = None) -> list[Sample]:
        from core.ops.stats import stats

        return await stats(self._ctx, refs)

    async def host_sample(self) -> HostSample:
        from core.ops.hostinfo import host_sample

        return host_sample(self._ctx.inst)

    # -- images -------------------------------------------------------------------------------------------------
    async def images(self) -> list[Image]:
        return await self._ctx.images.list()

    async def image(self, ref: str) -> Image:
        return await self._ctx.images.get(ref)

    def pull(self, reference: str, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        from core.ops.fetch import pull

        return pull(self._ctx, reference, insecure)

    def load(self, source: Path) -> AsyncIterator[PullProgress]:
        from core.ops.fetch import load

        return load(self._ctx, source)

    async def remove_image(self, ref: str, *, force: bool = False) -> list[str]:
        from core.ops.rm_image import remove_image

        return await remove_image(self._ctx, ref, force=force)

    # -- networks and the rest ----------------------------------------------------------------------------------
    async def networks(self) -> list[Network]:
        return await self._ctx.net.describe()

    def events(self, *, since: float | None = None, until: float | None = None) -> AsyncIterator[Event]:
        from core.ops.events import events

        return events(self._ctx, since, until)

    async def info(self) -> HostInfo:
        from core.ops.info import info

        return await info(self._ctx)

    async def doctor(self) -> list[Check]:
        from core.ops.doctor import doctor

        return await asyncio.to_thread(doctor, self._ctx.inst)

    def demo(self) -> AsyncIterator[str]:
        from core.demo import run_demo

        return run_demo(self)

