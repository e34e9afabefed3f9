"""``recover``: what a crash, a kill −9 or a reboot has left, is finished or released.

Every engine does the light part when it opens: journals of dead owners are undone, ended containers settled, orphaned
containers given a new monitor. The thorough part, done where the light one found something, by the workstation, and
by the first engine after a boot, also looks for what no row names: folders, cgroups, links, addresses, ports.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from core.errors import WharfError
from core.model import State
from core.ops import records
from core.store import journal
from core.store.journal import undo_all
from core.store.lock import object_lock
from core.supervise.records import monitor_goes_on

if TYPE_CHECKING:
    from core.ops.context import Context
    from core.ops.records import Record

BUSY = 0.05  # seconds: an object that somebody works on right now is in good hands


async def recover(ctx: Context, *, thorough: bool = False) -> list[str]:
    """Bring kernel, disk and database together again.

    :returns: what could not be done, in words; empty when all is well
    """
    failed: list[str] = []
    found = await _undo_orphans(ctx, failed)
    for record in await records.every(ctx):
        if _doubtful(ctx, record):
            from core.ops.mend import mend  # late, with all verbs: mostly there is nothing to do

            found = True
            await mend(ctx, record, failed)
    if found or thorough:
        from core.ops.mend import sweep

        await sweep(ctx, failed)
    return failed


async def _undo_orphans(ctx: Context, failed: list[str]) -> bool:
    """Undo operations whose process is dead; True where there were any."""
    found = False
    for path, oid, verb, steps in journal.orphans(ctx.inst):
        found = True
        with contextlib.suppress(WharfError):
            async with object_lock(ctx.inst, oid, BUSY):
                if path.exists():  # else another engine was faster
                    failed += [f"{verb} {oid[:12]}: {text}" for text in await undo_all(steps, ctx.undos)]
                    path.unlink(missing_ok=True)
                    if verb == "start" and steps:  # whoever waits for it saw it starting
                        with contextlib.suppress(OSError):
                            ctx.tell("container", "die", oid, exitCode="128")
    return found


def _doubtful(ctx: Context, record: Record) -> bool:
    """True where the row, the run folder and the kernel do not agree. Reads small files only."""
    saved, run = records.observe(ctx, record)
    if saved.state.live or saved.state is State.RESTARTING:
        return run is None or not monitor_goes_on(run) or record.saved.stop_broken_off
    return saved.state != record.saved.state or ctx.inst.container_run(record.id).exists()
