"""``kill``: send a signal to a container's first process."""

from __future__ import annotations

import asyncio
import contextlib
import signal as signals

from core import cgroups
from core.errors import Conflict, InvalidArgument, Timeout, WharfError
from core.model import State
from core.ops import records
from core.ops.context import Context
from core.ops.records import Record
from core.ops.settle import await_end, settle
from core.store.lock import object_lock
from core.supervise import client

KILL_SECONDS = 10.0  # how long a process may take to go after SIGKILL


def parse_signal(text: str) -> int:
    """The number of ``KILL``, ``SIGKILL``, ``9`` or ``RTMIN+3``.

    :raises InvalidArgument: no such signal
    """
    name = text.upper().removeprefix("SIG")
    base, plus, offset = name.partition("+")
    try:
        number = int(name) if name.isdigit() else signals.Signals[f"SIG{base}"].value + int(offset if plus else 0)
    except (KeyError, ValueError):
        number = 0
    if not 0 < number < signals.NSIG:
        raise InvalidArgument(f"invalid signal {text!r}", "this kernel has none of that name", "See `kill -l`")
    return number


async def kill(ctx: Context, ref: str, signal: str = "KILL") -> None:
    """Send ``signal``. SIGKILL also ends automatic restarts, as with Docker.

    :raises Conflict: the container does not run
    """
    number = parse_signal(signal)
    cid = await records.find_id(ctx, ref)
    async with object_lock(ctx.inst, cid):
        record, run = await settle(ctx, cid)
        between = record.saved.state is State.RESTARTING and number == signals.SIGKILL
        if run is None or not (record.saved.state.live or between):
            raise Conflict(f"cannot kill {record.name}", f"it is {record.saved.state.value}", object_id=cid)
        if number == signals.SIGKILL:
            await end_now(ctx, record, run)
            # Its ports and addresses are free when we answer. Where one cannot be given back (or the container was made
            # with --rm, and has gone) it is dead all the same; whoever comes next tries again.
            with contextlib.suppress(WharfError, OSError):
                await settle(ctx, cid)
        else:
            await client.deliver(ctx.inst, cid, run, number)
    ctx.tell("container", "kill", cid, name=record.name, signal=str(number))


async def freeze(ctx: Context, record: Record, run: client.RunState, on: bool) -> None:
    """Freeze or thaw every process of a container that runs. :raises WharfError: it cannot be done"""
    if run.external:
        await client.freeze(ctx.inst, record.id, on)
    else:
        await asyncio.to_thread(cgroups.freeze, records.cgroup(ctx, record.id, record), on)


async def end_now(ctx: Context, record: Record, run: client.RunState | None) -> None:
    """SIGKILL a container and wait until it is gone; its lock is held.

    :raises Timeout: it survived for ten seconds (a process in uninterruptible sleep)
    """
    if run is None:
        return
    # First, so that the monitor does not start it again.
    await client.tell_stopping(ctx.inst, record.id)
    await client.deliver(ctx.inst, record.id, run, signals.SIGKILL)
    if record.saved.state is State.PAUSED:
        # A v1 freezer holds even SIGKILL back; thawing after the signal lets it run nothing else.
        await freeze(ctx, record, run, False)
    if not await await_end(ctx, record.id, run, KILL_SECONDS):
        raise Timeout(
            f"{record.name} does not die",
            f"process {run.pid} survived SIGKILL for {KILL_SECONDS:.0f} s: it waits in the kernel",
            f"See /proc/{run.pid}/stack for what it waits for",
            object_id=record.id,
        )
