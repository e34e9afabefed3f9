"""Open the mechanisms of one instance, with the undos that journals name."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from core import rootless
from core.cgroups import Sampler
from core.images.store import ImageStore
from core.net import Net
from core.ops.context import Context, Hub
from core.ops.create import undo_create
from core.ops.start import undo_start
from core.ops.update import undo_update
from core.store.db import Store
from core.store.paths import find_instance


async def open_context(root: Path | None, run: Path | None) -> Context:
    """:raises NoPrivilege: an ordinary user who cannot be root in a user namespace

    :raises Unavailable: a database that this program cannot use
    """
    inst = find_instance(root, run)
    rootless.enter(inst)
    store = Store.open(inst)
    net, images = Net(inst, store), ImageStore(inst, store)
    ctx = Context(inst, store, net, images, Hub(inst), Sampler())

    async def create_undo(cid: str) -> None:
        await undo_create(ctx, cid)

    async def start_undo(cid: str, before: str = "") -> None:
        await undo_start(ctx, cid, before)

    async def update_undo(cid: str) -> None:
        await undo_update(ctx, cid)

    async def checkpoint_undo(folder: str) -> None:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)  # one that was not finished

    async def restore_undo(cid: str) -> None:
        from core.ops.restore import undo_restore  # late, like the verb itself: it is rare

        await undo_restore(ctx, cid)

    ctx.undos = {
        "create.undo": create_undo,
        "start.undo": start_undo,
        "update.undo": update_undo,
        "checkpoint.undo": checkpoint_undo,
        "restore.undo": restore_undo,
    }
    return ctx
