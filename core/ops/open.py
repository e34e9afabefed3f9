"""Open the mechanisms of one instance, with the undos that journals name."""

from __future__ import annotations

import functools
import importlib
import os
from typing import TYPE_CHECKING

from core.ops.context import Context
from core.store.db import Store
from core.store.paths import find_instance

if TYPE_CHECKING:
    from pathlib import Path

    from core.store.journal import Undo


# Verbs whose journals have a step VERB.undo; each has an undo_VERB for it.
UNDONE = ("checkpoint", "commit", "connect", "create", "ports", "restore", "start", "update")


async def open_context(root: Path | None, run: Path | None) -> Context:
    """:raises NoPrivilege: an ordinary user who cannot be root in a user namespace

    :raises Unavailable: a database that this program cannot use
    """
    inst = find_instance(root, run)
    if os.geteuid() != 0:
        from core import rootless

        rootless.enter(inst)
    undos: dict[str, Undo] = {}
    ctx = Context(inst, Store.open(inst), undos)
    undos |= _undos(ctx)
    return ctx


def _undos(ctx: Context) -> dict[str, Undo]:
    return {f"{verb}.undo": functools.partial(_undo, ctx, verb) for verb in UNDONE}


async def _undo(ctx: Context, verb: str, *words: str) -> None:
    """The verb is loaded now: that is rare, but for its own process."""
    module = importlib.import_module(f"core.ops.{verb}")
    await getattr(module, f"undo_{verb}")(ctx, *words)
