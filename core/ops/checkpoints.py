"""The checkpoints of a container in the store: ``containers/ID/checkpoints/NAME/``, with CRIU's images in ``criu/``."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from core.errors import NotFound, Unsupported, WharfError
from core.kernel import libc, userns
from core.model import Checkpoint, CheckpointOptions
from core.ops import records
from core.ops.context import Context
from core.store.lock import object_lock
from core.supervise import criu
from core.supervise.restoring import Saved, read_meta

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def offered() -> str:
    """CRIU's program.

    :raises Unsupported: it is not installed; or this engine is an ordinary user's
    """
    if userns.contained():
        raise Unsupported(
            "cannot checkpoint or restore", "criu needs the rights of the host's root", "Run wharf as root (sudo)"
        )
    return criu.find()


def folder_of(ctx: Context, cid: str, name: str) -> Path:
    return ctx.inst.container_dir(cid) / "checkpoints" / name


def open_folder(ctx: Context, cid: str, name: str) -> int:
    """A descriptor of the checkpoint's folder.

    :raises NotFound: there is none of that name
    """
    path = folder_of(ctx, cid, name)
    if "/" in name or name.startswith(".") or not path.is_dir():
        why = f"container {cid[:12]} has none of that name"
        raise NotFound(f"no such checkpoint: {name}", why, "`wharf checkpoint ls` lists them")
    return os.open(path, _FOLDER)


def described(folder: Path, cid: str) -> Checkpoint:
    """:raises Corrupt: it is damaged"""
    fd = os.open(folder, _FOLDER)
    try:
        meta = read_meta(fd)
        options = Saved.from_plain(meta).options
    finally:
        os.close(fd)
    size = sum(entry.stat().st_size for entry in os.scandir(folder / "criu"))
    wanted = {name: bool(getattr(options, name)) for name in CheckpointOptions.__dataclass_fields__}
    return Checkpoint(
        folder.name, cid, float(str(meta["created"])), size, str(meta["criu"]), CheckpointOptions(**wanted)
    )


async def checkpoints(ctx: Context, ref: str) -> list[Checkpoint]:
    """Newest first; damaged ones are left out."""
    record = await records.find(ctx, ref)

    def work() -> list[Checkpoint]:
        found = []
        place = folder_of(ctx, record.id, "")
        for folder in place.iterdir() if place.is_dir() else ():
            if folder.name.startswith("."):
                continue  # in the making
            try:
                found.append(described(folder, record.id))
            except (OSError, WharfError):
                continue
        return sorted(found, key=lambda one: -one.created)

    return await asyncio.to_thread(work)


async def newest(ctx: Context, ref: str) -> str:
    """The name of the newest checkpoint. :raises NotFound: there is none"""
    found = await checkpoints(ctx, ref)
    if not found:
        raise NotFound(f"{ref} has no checkpoint", "", "Make one: wharf checkpoint create")
    return found[0].name


async def remove_checkpoint(ctx: Context, ref: str, name: str) -> None:
    """Delete a checkpoint. :raises NotFound: there is none of that name"""
    record = await records.find(ctx, ref)
    async with object_lock(ctx.inst, record.id):
        os.close(open_folder(ctx, record.id, name))
        away = ctx.inst.trash / f"{record.id}.{name}"
        await asyncio.to_thread(shutil.rmtree, away, ignore_errors=True)
        folder_of(ctx, record.id, name).rename(away)
    await asyncio.to_thread(shutil.rmtree, away, ignore_errors=True)


def sync(folder: int) -> None:
    """Write the file system of an open folder to its disk (syncfs(2)): what is ended next is nowhere else.

    :raises OSError:
    """
    libc.call("syncfs", folder)
