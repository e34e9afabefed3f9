"""``diff`` and ``export``: what a container has changed, and its whole file system."""

from __future__ import annotations

import asyncio
from pathlib import Path

from core.errors import Conflict, NotFound
from core.images import diff, making, target, tarwrite
from core.images.outgoing import stoppable
from core.model import FileChange, State, Watcher
from core.ops import records
from core.ops.bundle import lower
from core.ops.context import Context
from core.ops.records import Record


def layer_folders(ctx: Context, record: Record) -> list[Path]:
    """The folders below the container's own, topmost first."""
    return [Path(path) for path in lower(ctx.inst, record.config.layers)]


def standing_still(state: State) -> bool:
    """Can nothing of the container write to its files now?"""
    return not state.live and state is not State.RESTARTING


async def changes(ctx: Context, ref: str) -> list[FileChange]:
    """What is not as in the image; every path that came (A), changed (C) or went (D), in order of the tree.

    :raises NotFound: no such container
    """
    record = await records.find(ctx, ref)
    upper = _upper(ctx, record)
    return (await asyncio.to_thread(diff.compare, upper, layer_folders(ctx, record))).changes


async def export(ctx: Context, ref: str, place: int | Path, watch: Watcher | None = None) -> None:
    """Write a container's files as one tar, volumes and other mounts left out.

    :param place: a descriptor, or a file, which has its name once it is whole
    :param watch: told how far it is
    :raises NotFound: no such container; :raises Conflict: it was removed meanwhile
    :raises OSError: it takes no more
    """
    record = await records.find(ctx, ref)
    upper = _upper(ctx, record)
    # A container that stands still may be started at any moment.
    folders = [upper, *layer_folders(ctx, record)]
    pieces = tarwrite.stack(folders, live=True)
    async with target.opened(place) as fd:
        progress = making.Counter(record.name, "files", "writing")
        work = stoppable(lambda look: making.pour(pieces, fd, progress.counting(look)))
        await making.measured(progress, work, folders, watch)
        # With the container its files go, one by one, and its image's with the last that needs them.
        if not upper.is_dir():
            raise Conflict(
                f"cannot export {record.name}", "it was removed meanwhile", "What was written is not all that it had"
            )
    ctx.tell("container", "export", record.id, name=record.name, image=record.spec.image)


def _upper(ctx: Context, record: Record) -> Path:
    upper = ctx.inst.container_dir(record.id) / "upper"
    if not upper.is_dir():
        raise NotFound(f"no such container: {record.name}", "it has just been removed")
    return upper
