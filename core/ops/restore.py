"""``restore``: go on from a checkpoint, of the store or of an archive, instead of starting from the beginning."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from core.errors import Conflict, NotFound, Unsupported
from core.model import Container, State
from core.ops import records
from core.ops.checkpoints import folder_of, newest, offered, open_folder
from core.ops.context import Context
from core.ops.create import create
from core.ops.discard import discard
from core.ops.imported import Import, broken
from core.ops.records import Record
from core.ops.settle import settle
from core.ops.start import bring_up, tell_failed, undo_start
from core.ops.wiring import Resume
from core.store.journal import Journal
from core.store.lock import object_lock
from core.supervise.protocol import CHECKPOINT
from core.supervise.restoring import PROGRAM, Saved, read_meta

_IMPORTED = "imported"  # name of the checkpoint while a container is made of an archive


async def restore(ctx: Context, ref: str, name: str = "") -> Container:
    """Start a stopped container from one of its checkpoints, with the files that it has now.

    :param name: "" for the newest
    :raises NotFound: there is no such checkpoint
    :raises Conflict: the container runs
    :raises StartFailed: criu cannot restore it; nothing of the attempt stays behind
    """
    program = offered()
    name = name or await newest(ctx, ref)
    cid = (await records.find(ctx, ref)).id
    async with object_lock(ctx.inst, cid):
        record, _ = await settle(ctx, cid)
        if record.saved.state.live or record.saved.state is State.RESTARTING:
            raise Conflict(f"cannot restore {record.name}", f"it is {record.saved.state.value}", "Stop it first")
        record = await _from(ctx, record, name, program)
    return _told(ctx, record)


async def restore_from(ctx: Context, archive: Path, *, name: str = "", trust: bool = False) -> Container:
    """Make a container of an archive that :func:`core.ops.checkpoint.checkpoint` has exported, and go on with it.

    :param name: of the container; "" for the one that it had
    :param trust: take an archive that another engine made: whoever made it can become root here
    :raises Corrupt: it is damaged, was changed, or is not this engine's
    :raises NotFound: the image is not in the store
    """
    program = offered()
    with await asyncio.to_thread(Import, ctx.inst, archive, trust=trust) as pack:
        image = await _image(ctx, pack)
        try:
            cid = (await create(ctx, pack.spec(image, name))).id
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            # Values of other types than ever leave this engine; whatever is of the right type is checked by `create`.
            raise broken(f"its specification makes no sense: {error!r}") from error
        async with object_lock(ctx.inst, cid):
            record, _ = await settle(ctx, cid)
            if record.saved.state is not State.CREATED:
                raise Conflict(f"cannot restore {record.name}", "somebody has started it meanwhile", object_id=cid)
            # Its name comes after "start" in the alphabet: of what a crash has left, that is undone first.
            async with Journal(ctx.inst, "unpack", cid, ctx.undos) as journal:
                journal.step("restore.undo", cid)
                await pack.unpack(cid, folder_of(ctx, cid, _IMPORTED))
                record = await _from(ctx, record, _IMPORTED, program)
            # It was only on its way: the archive is there still.
            await asyncio.to_thread(shutil.rmtree, folder_of(ctx, cid, _IMPORTED), ignore_errors=True)
    return _told(ctx, record)


def _told(ctx: Context, record: Record) -> Container:
    ctx.tell("container", "restore", record.id, name=record.name, image=record.spec.image)
    for end in record.saved.endpoints:
        ctx.tell("network", "connect", record.id, container=record.name, name=end.network)
    return records.snapshot(ctx, record)


async def _image(ctx: Context, pack: Import) -> str:
    """The reference to create it with: as it was, where that still is the same image, else the id."""
    wanted = pack.image
    for ref in (pack.image_name, wanted):
        try:
            if (await ctx.images.get(ref)).id == wanted:
                return ref
        except NotFound:
            continue
    raise NotFound(
        "the container's image is not in the store",
        f"it was made from {pack.image_name} with the id {wanted}",
        "Pull or load that image",
    )


async def _from(ctx: Context, record: Record, name: str, program: str) -> Record:
    with _descriptors(open_folder(ctx, record.id, name), program) as given:
        meta = read_meta(given[CHECKPOINT])
        saved = Saved.from_plain(meta)
        what = f"cannot restore {record.name}"
        if meta.get("image") != record.image:
            raise Conflict(what, "the checkpoint is of a container with another image", object_id=record.id)
        if meta.get("machine") != os.uname().machine:
            raise Unsupported(what, f"its processes ran on {meta.get('machine')}", "Restore it on such a machine")
        resume = Resume(given, _addresses(meta), saved.options.tcp_established, saved.hold)
        try:
            return await bring_up(ctx, record, resume=resume)
        except BaseException:
            tell_failed(ctx, record)
            raise


def _addresses(meta: Mapping[str, object]) -> dict[str, tuple[str, str]]:
    """By network, what the container had there."""
    found = meta.get("addresses")
    if not isinstance(found, dict):
        return {}
    pairs = {str(name): ends for name, ends in found.items() if isinstance(ends, list) and len(ends) == 2}
    return {name: (str(ends[0]), str(ends[1])) for name, ends in pairs.items()}


@contextmanager
def _descriptors(folder: int, program: str) -> Iterator[dict[str, int]]:
    try:
        opened = os.open(program, os.O_PATH | os.O_CLOEXEC)
        try:
            yield {CHECKPOINT: folder, PROGRAM: opened}
        finally:
            os.close(opened)
    finally:
        os.close(folder)


async def undo_restore(ctx: Context, cid: str) -> None:
    """Take back a container of an archive that could not be restored. Idempotent."""
    try:
        record = await records.find(ctx, cid)
    except NotFound:
        return
    await undo_start(ctx, cid)
    await discard(ctx, record)
