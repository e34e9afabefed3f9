"""``restore``: a container made of a bundle and a checkpoint; it runs at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from core.errors import StartFailed
from core.oci import console
from core.oci.checkpoint import Place, opened
from core.oci.create import (
    Options,
    begin,
    host_hooks,
    init_task,
    load_config,
    make_cgroup,
    refuse_terminal,
    tell,
    undo,
)
from core.oci.delete import delete
from core.oci.store import Held, Store, born
from core.runtime import namespaces
from core.runtime.defaults import Json
from core.runtime.task import Filter
from core.supervise import criu, restoring


def restore(
    store: Store,
    cid: str,
    options: Options,
    place: Place,
    *,
    detach: bool,
    warn: Callable[[object], None],
) -> int:
    """:returns: the command's exit code, 0 for a detached one

    :raises WharfError: nothing stays
    """
    program = criu.find(place.program)
    config = load_config(options.bundle, warn)
    if detach:
        refuse_terminal(config, options.console)
    held, lock = begin(store, cid, config, options)
    try:
        held, master = _restore(store, held, config, options, place, program)
    finally:
        os.close(lock)
    if detach:
        return 0
    with console.passing_signals(held.pid, master):
        try:
            return console.stay(held.pid, master)
        finally:
            for error in delete(store, cid, force=True):
                warn(error)


def _restore(
    store: Store, held: Held, config: Json, options: Options, place: Place, program: str
) -> tuple[Held, int | None]:
    child: restoring.Restored | None = None
    joined: dict[str, int] = {}
    try:
        held = make_cgroup(store, held, config)
        joined = _networks(config)
        with opened(place, make=False) as (images, work):
            saved = restoring.Saved.from_plain(restoring.read_meta(images))
            saved = replace(saved, options=_merged(saved.options, place.options))
            task = init_task(store, held, config, Filter(), options, -1)._replace(joined=joined)
            order = restoring.Order(images, work, program, saved, hold=True)
            child = restoring.start(task, held.cgroup, order, host_hooks(held, config))
            child.wait(None, None)
        return tell(store, born(held, child.pid), config, options, child.master)
    except BaseException:
        if child is not None:
            child.destroy()
        undo(store, held, config, began=child is not None)
        raise
    finally:
        for fd in joined.values():
            os.close(fd)


def _networks(config: Json) -> dict[str, int]:
    """The network namespace that config.json names; all others CRIU makes anew."""
    path = namespaces.listed(config).get("network")
    try:
        return {"network": os.open(path, os.O_RDONLY | os.O_CLOEXEC)} if path else {}
    except OSError as error:
        raise StartFailed(f"cannot join the network namespace {path}", str(error.strerror)) from error


def _merged(saved: criu.Options, given: criu.Options) -> criu.Options:
    """What the checkpoint was made with, and what is asked for now."""
    return criu.Options(**{name: getattr(saved, name) or getattr(given, name) for name in vars(given)})
