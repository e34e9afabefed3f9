"""Bring one container's row in line with the truth, and release what an ended container still holds.

Every verb that changes a container does this first, under the object's lock. So do the engine that a monitor tells of
an exit, the one-shot clean-up that it starts where no engine listens, and ``recover``.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

from core import cgroups
from core.errors import NotFound, WharfError
from core.model import State
from core.ops import records
from core.ops.discard import discard
from core.store.lock import drop_lock_file, object_lock
from core.supervise import client
from core.supervise.rest import end_strays

if TYPE_CHECKING:
    from core.ops.context import Context
    from core.ops.records import Record

# Seconds for the exit record. A monitor that has come in a killed one's place takes five to find out that nobody knows
# how the process ended (core.supervise.fate.PATIENCE); an engine that waits no longer calls it stopping still.
_RECORD = 10.0


async def settle(ctx: Context, cid: str) -> tuple[Record, client.RunState | None]:
    """Sync the container with the truth; call it while holding its lock.

    :returns: the record as it is now, and the monitor's word where it runs
    :raises NotFound: it is gone, or was created with ``--rm`` and has ended
    """
    record = await records.find(ctx, cid)
    saved, run = records.observe(ctx, record)
    if saved.state.live or saved.state is State.RESTARTING:
        return replace(record, saved=saved), run
    held = saved.state != record.saved.state or ctx.inst.container_run(cid).exists()
    if held:
        await release(ctx, cid, record)
        saved = replace(saved, endpoints=(), ports=())
    if saved != record.saved:
        await records.save(ctx, cid, saved)
    record = replace(record, saved=saved)
    if held and record.spec.auto_remove and record.saved.started:
        await discard(ctx, record)
        raise NotFound(f"no such container: {record.name}", "it has ended and was created with --rm")
    return record, None


async def release(ctx: Context, cid: str, record: Record | None) -> None:
    """Give back network, cgroup and run folder of a container that does not run. Idempotent; goes on after errors.

    :param record: None where the row is gone
    :raises WharfError: the first failure, after everything else was tried
    """
    group = records.cgroup(ctx, cid, record)
    failed: list[Exception] = []
    try:
        await ctx.net.detach(cid)
    except (WharfError, OSError) as error:
        failed.append(error)
    await client.await_monitor_left(ctx.inst, cid)
    try:
        if cgroups.exists(group):  # its monitor has removed it, unless that was killed
            if record is not None and record.spec.pid != "private":
                # The kernel ends the rest of a pid namespace with its first process; here nobody has done it yet.
                await asyncio.to_thread(cgroups.kill, group)
            await asyncio.to_thread(cgroups.remove, group)
        elif record is not None and record.spec.pid != "private":
            await asyncio.to_thread(end_strays, cid)
    except (WharfError, OSError) as error:
        failed.append(error)
    ctx.sampler.forget(group)
    forget_run(ctx, cid)
    if failed:
        raise failed[0]


def forget_run(ctx: Context, cid: str) -> None:
    """Delete the run folder of a container that does not run; not while its exit code is nowhere else (a full disk):
    its monitor deletes it then."""
    if not client.secure_exit(ctx.inst, cid):
        return
    away = ctx.inst.run / "trash" / cid
    # Renamed first: a monitor that is just leaving may still add to it.
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(away, ignore_errors=True)
        ctx.inst.container_run(cid).rename(away)
        shutil.rmtree(away, ignore_errors=True)


async def settle_exited(ctx: Context, cid: str) -> None:
    """What an engine does when a monitor reports the end of its container."""
    try:
        await records.find(ctx, cid)  # first: the lock of one that is gone would leave a file behind
        async with object_lock(ctx.inst, cid):
            await settle(ctx, cid)
    except NotFound:
        drop_lock_file(ctx.inst, cid)


async def await_end(ctx: Context, cid: str, run: client.RunState, timeout: float | None) -> bool:
    """Wait until the process is gone and its exit is recorded.

    :param timeout: seconds for the process to end; None waits for ever
    :returns: False where it still runs after ``timeout``
    """
    with ctx.hub.subscribe() as events:
        if not await client.wait_pid(run, timeout):
            return False
        # The monitor drains the output before it writes the exit record; a killed one never will.
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(_RECORD):
                while _still_live(await records.find(ctx, cid), ctx):
                    while (await events.next()).id != cid:
                        pass
    return True


def _still_live(record: Record, ctx: Context) -> bool:
    state = records.observe(ctx, record)[0].state
    return state.live or state is State.RESTARTING
