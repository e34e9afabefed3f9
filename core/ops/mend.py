"""What :mod:`core.ops.recover` does where it has found something: containers mended, and what no row names released."""

from __future__ import annotations

import asyncio
import shutil

from core import cgroups
from core.errors import NotFound, Timeout, WharfError
from core.kernel.process import boot_id
from core.model import State
from core.net.recovery import FAILED
from core.ops import records
from core.ops.context import Context
from core.ops.discard import rename_away
from core.ops.records import Record
from core.ops.recover import BUSY
from core.ops.settle import release, settle
from core.ops.start import start
from core.ops.stop import stop
from core.store.lock import drop_lock_file, object_lock
from core.supervise import client


async def mend(ctx: Context, record: Record, failed: list[str]) -> None:
    """Bring a container together again whose row, run folder and processes do not agree."""
    cid = record.id
    was_running = record.saved.state.live or record.saved.state is State.RESTARTING
    broken_off = record.saved.stop_broken_off
    rebooted = was_running and record.saved.boot not in ("", boot_id())
    try:
        async with object_lock(ctx.inst, cid, BUSY):
            record, run = await settle(ctx, cid)
            if run is not None and not client.monitor_goes_on(run):
                await client.adopt(ctx.inst, cid)
        if rebooted and record.spec.restart.name in ("always", "unless-stopped"):
            await start(ctx, cid)
        if broken_off:
            await stop(ctx, cid, 0.0)
    except (NotFound, Timeout):
        pass  # created with --rm and settled away; or somebody works on it right now
    except (WharfError, OSError) as error:
        failed.append(f"{record.name}: {error}")


async def sweep(ctx: Context, failed: list[str]) -> None:
    """Release what no running container accounts for."""
    # The claims first, then each one's truth under its lock: what begins after this line is not looked at, and what
    # a verb works on right now is left to it.
    claims = await asyncio.to_thread(_claims, ctx)
    pids = {}
    for record in await records.every(ctx):
        saved, run = records.observe(ctx, record)
        if record.spec.cgroup_parent and cgroups.exists(records.cgroup(ctx, record.id, record)):
            claims.setdefault(record.id, set()).add("cgroup")  # not where the others are
        if run is not None and client.alive(run):
            pids[record.id] = run.pid
        if saved.state.live or saved.state is State.RESTARTING or claims.get(record.id) == {"folder"}:
            claims.pop(record.id, None)
    for cid in claims:
        try:
            async with object_lock(ctx.inst, cid, BUSY):
                await _sweep_one(ctx, cid)
        except Timeout:
            continue
        except (WharfError, OSError) as error:
            failed.append(f"{cid[:12]}: {error}")
    try:
        done = await ctx.net.recover(None, pids)
        failed += [line.removeprefix(FAILED) for line in done if line.startswith(FAILED)]
        for trash in (ctx.inst.trash, ctx.inst.run / "trash"):
            for path in trash.iterdir():
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
    except (WharfError, OSError) as error:
        failed.append(str(error))


def _claims(ctx: Context) -> dict[str, set[str]]:
    """Who holds something: container ids, with what."""
    inst = ctx.inst
    rows = "SELECT container FROM endpoint UNION SELECT container FROM lease UNION SELECT container FROM port"
    held = {
        "folder": [path.name for path in (inst.root / "containers").iterdir()],
        "run": [path.name for path in (inst.run / "c").iterdir()],
        "lock": [path.name for path in (inst.run / "locks").iterdir() if len(path.name) == 64],
        "cgroup": cgroups.children(inst.cgroup),
        "network": [str(row["container"]) for row in ctx.store.run.read(rows)],
    }
    claims: dict[str, set[str]] = {}
    for what, names in held.items():
        for name in names:
            claims.setdefault(name, set()).add(what)
    return claims


async def _sweep_one(ctx: Context, cid: str) -> None:
    """Release everything of a container that does not run; its lock is held."""
    record = await records.find_or_none(ctx, cid)
    if record is not None:
        state = records.observe(ctx, record)[0].state
        if state.live or state is State.RESTARTING:
            return
    await asyncio.to_thread(cgroups.kill, records.cgroup(ctx, cid, record))
    await release(ctx, cid, record)
    if record is None:
        rename_away(ctx.inst, ctx.inst.container_dir(cid))
        drop_lock_file(ctx.inst, cid)
