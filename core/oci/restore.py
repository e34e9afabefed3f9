"""``restore``: a container made of a bundle and a checkpoint; it runs at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from core import cgroups
from core.cgroups import resctrl
from core.errors import StartFailed
from core.oci import console
from core.oci.checkpoint import Place, opened
from core.oci.create import (
    PARENT,
    Options,
    hand_over_terminal,
    host_hooks,
    init_task,
    load_config,
    refuse_terminal,
    resources,
    undo,
    write_pid,
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
    words: list[str] = []
    config = load_config(options.bundle, words)
    for word in words:
        warn(word)
    if detach:
        refuse_terminal(config, options.console)
    wanted = str(cast(Json, config.get("linux") or {}).get("cgroupsPath") or "")
    cgroup = cgroups.resolve(wanted, f"{PARENT}/{cid}")
    held = Held(cid, str(options.bundle), cgroup, time.time(), os.getuid(), fresh=not cgroups.exists(cgroup))
    lock = store.make(held, config)
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
        linux = cast(Json, config.get("linux") or {})
        held = replace(held, folders=cgroups.create(held.cgroup, resources(linux), join=True))
        store.save(held)
        joined = _networks(config)
        with opened(place, make=False) as (images, work):
            saved = restoring.Saved.from_plain(restoring.read_meta(images))
            saved = replace(saved, options=_merged(saved.options, place.options))
            task = init_task(store, held, config, Filter(), options, -1)._replace(joined=joined)
            order = restoring.Order(images, work, program, saved, hold=True)
            child = restoring.start(task, held.cgroup, order, host_hooks(held, config))
            child.wait(None, None)
        held = born(held, child.pid)
        if linux.get("intelRdt"):
            made = resctrl.apply(cast(Mapping[str, Any], linux["intelRdt"]), held.id, held.pid)
            held = replace(held, resctrl=made)
        master = hand_over_terminal(child.master, options.console)
        store.save(held)
        if options.pid_file is not None:
            write_pid(options.pid_file, held.pid)
        return held, master
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
