"""Forget a container: the row goes, the folder is renamed away at once and deleted behind the scenes."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import NoSpace
from core.ops import records
from core.store.lock import drop_lock_file

if TYPE_CHECKING:
    from core.ops.context import Context
    from core.ops.records import Record
    from core.store.paths import Instance


async def discard(ctx: Context, record: Record) -> None:
    """Forget a settled container; its lock is held."""
    # The row first: a crash after it leaves a folder that no row names, which `recover` deletes. The other way round
    # would leave a container without its files.
    try:
        await records.delete(ctx, record.id)
    except NoSpace:
        # Removing is the cure for a full disk: here the files make room for the row's deletion.
        folder = ctx.inst.container_dir(record.id)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        await records.delete(ctx, record.id)
    away = rename_away(ctx.inst, ctx.inst.container_dir(record.id))
    drop_lock_file(ctx.inst, record.id)
    ctx.tell("container", "destroy", record.id, name=record.name, image=record.spec.image)
    if away:
        # Nobody waits for it: what a crash leaves in the trash is deleted by `recover`.
        ctx.behind(asyncio.to_thread(shutil.rmtree, away, ignore_errors=True))


def rename_away(inst: Instance, folder: Path) -> Path | None:
    """Move a folder into the trash in one step; None where it does not exist."""
    away = inst.trash / folder.name
    try:
        folder.rename(away)
    except FileNotFoundError:
        return None
    except OSError:  # an earlier try left one of that name there
        shutil.rmtree(away, ignore_errors=True)
        folder.rename(away)
    return away
