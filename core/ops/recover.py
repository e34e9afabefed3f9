"""``recover``: what a crash, a kill −9 or a reboot has left, is finished or released.

Every engine does the light part when it opens: journals of dead owners are undone, ended containers settled, orphaned
containers given a new monitor. The thorough part, done where the light one found something, by the workstation, and
by the first engine after a boot, also looks for what no row names: folders, cgroups, links, addresses, ports.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil

from core import cgroups
from core.errors import NotFound, WharfError
from core.model import State
from core.ops import records
from core.ops.context import Context
from core.ops.records import Record
from core.ops.settle import settle
from core.ops.start import start
from core.store import journal
from core.store.db import boot_id
from core.store.journal import undo_all
from core.store.lock import object_lock
from core.supervise import client

BUSY = 0.05  # seconds: an object that somebody works on right now is in good hands


async def recover(ctx: Context, *, thorough: bool = False) -> list[str]:
    """Bring kernel, disk and database together again.

    :returns: what could not be done, in words; empty when all is well
    """
    failed: list[str] = []
    found = await _undo_orphans(ctx, failed)
    for record in await records.every(ctx):
        if _doubtful(ctx, record):
            found = True
            await _mend(ctx, record, failed)
    if found or thorough:
        await _sweep(ctx, failed)
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
    return found


def _doubtful(ctx: Context, record: Record) -> bool:
    """True where the row, the run folder and the kernel do not agree. Reads small files only."""
    saved, run = records.observe(ctx, record)
    if saved.state.live or saved.state is State.RESTARTING:
        return run is None or not client.monitor_alive(run)
    return saved.state != record.saved.state or ctx.inst.container_run(record.id).exists()


async def _mend(ctx: Context, record: Record, failed: list[str]) -> None:
    cid = record.id
    was_running = record.saved.state.live or record.saved.state is State.RESTARTING
    rebooted = was_running and record.saved.boot not in ("", boot_id())
    try:
        async with object_lock(ctx.inst, cid, BUSY):
            record, run = await settle(ctx, cid)
            if run is not None and not client.monitor_alive(run):
                await client.adopt(ctx.inst, cid)
        if rebooted and record.spec.restart.name in ("always", "unless-stopped"):
            await start(ctx, cid)
    except NotFound:
        pass  # created with --rm: settled away
    except (WharfError, OSError) as error:
        failed.append(f"{record.name}: {error}")


async def _sweep(ctx: Context, failed: list[str]) -> None:
    """Release what no running container accounts for."""
    known = {record.id: record for record in await records.every(ctx)}
    seen = {cid: records.observe(ctx, record) for cid, record in known.items()}
    live = {cid for cid, (saved, _) in seen.items() if saved.state.live or saved.state is State.RESTARTING}
    pids = {cid: run.pid for cid, (_, run) in seen.items() if run is not None and client.alive(run)}
    # Verbs under way hold things that no row names yet; their journals say so.
    busy = {path.name.partition(".")[0] for path in (ctx.inst.run / "journal").iterdir()}
    try:
        await ctx.net.recover(live | busy, pids)
        await asyncio.to_thread(_sweep_files, ctx, set(known) | busy, live | busy)
    except (WharfError, OSError) as error:
        failed.append(str(error))


def _sweep_files(ctx: Context, known: set[str], live: set[str]) -> None:
    inst = ctx.inst
    for path in (inst.root / "containers").iterdir():
        if path.name not in known:
            path.rename(inst.trash / path.name)
    for path in inst.trash.iterdir():
        shutil.rmtree(path, ignore_errors=True)
    for path in (inst.run / "c").iterdir():
        if path.name not in live:
            shutil.rmtree(path, ignore_errors=True)
    for name in cgroups.children(inst.cgroup):
        if name not in live:
            cgroups.kill(f"{inst.cgroup}/{name}")
            cgroups.remove(f"{inst.cgroup}/{name}")
    for path in (inst.run / "locks").iterdir():
        if len(path.name) == 64 and path.name not in known:
            path.unlink(missing_ok=True)
