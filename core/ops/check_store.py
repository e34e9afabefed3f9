"""``fsck``: is everything in the image store as it was written, and mending what is not."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from functools import partial

from core.images.fsck import Check
from core.images.mend import Repair, Users
from core.images.unpackers import Unpackers
from core.model import Checked, State
from core.ops import records
from core.ops.context import Context
from core.store.lock import object_lock

_PATIENCE = 10.0  # seconds for what is being done with a container


async def check_store(ctx: Context, *, repair: bool, remove: bool = False) -> AsyncIterator[Checked]:
    """See :meth:`core.engine_storage.StorageEngine.check_store`."""
    unpackers = Unpackers(ctx.inst)
    check = Check(ctx.images, unpackers)
    try:
        async with contextlib.aclosing(check.run()) as steps:
            async for step in steps:
                yield step
        if repair:
            mending = Repair(ctx.images, unpackers, partial(_users, ctx), partial(_still, ctx), remove=remove)
            async with contextlib.aclosing(mending.run(check.faults)) as texts:
                async for text in texts:
                    yield check.report(text)
            for image in mending.removed:
                ctx.tell("image", "delete", image, name=image)
    finally:
        await unpackers.close(wait=True)
    yield check.report("", last=True)


def _users(ctx: Context, images: Sequence[str]) -> list[str]:
    return sorted(name for image in images for name in records.names_using(ctx, image))


@contextlib.asynccontextmanager
async def _still(ctx: Context, images: Sequence[str]) -> AsyncIterator[Users]:
    """Hold the locks of all containers of these images: a start would mount the layer that is about to go.

    :raises Timeout: something else is being done with one
    """
    known, running = set(), defaultdict(list)
    async with contextlib.AsyncExitStack() as stack:
        for record in sorted(await records.every(ctx), key=lambda record: record.id):
            if record.image in images:
                await stack.enter_async_context(object_lock(ctx.inst, record.id, _PATIENCE))
                known.add(record.id)
                state = records.observe(ctx, record)[0].state
                if state.live or state is State.RESTARTING:
                    running[record.image].append(record.name)

        def others(layer: str) -> bool:
            sql = "SELECT container.id FROM container JOIN image_layer ON image_layer.image = container.image"
            return any(row["id"] not in known for row in ctx.store.disk.read(f"{sql} WHERE layer = ?", (layer,)))

        yield Users(running, others)
