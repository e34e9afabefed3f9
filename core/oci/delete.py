"""``delete``: what ``create`` has made goes; then the ``poststop`` hooks run."""

from __future__ import annotations

import os
import select
import signal

from core import cgroups
from core.errors import Conflict, NotFound, Timeout, WharfError
from core.kernel import process
from core.oci.create import undo
from core.oci.kill import signal_first
from core.oci.store import Held, Store, status

_PATIENCE = 10.0  # seconds a killed process may take to end


def delete(store: Store, cid: str, *, force: bool = False) -> list[WharfError]:
    """:param force: end it first, and take one that does not exist for deleted

    :returns: what went wrong in ``poststop`` hooks, which keeps nothing
    :raises Conflict: it runs :raises NotFound:
    """
    try:
        if force:
            signal_first(store.load(cid), signal.SIGKILL)  # a start that hangs would hold the lock for ever
        with store.locked(cid) as held:
            now = status(store, held)
            if now in ("created", "running", "paused") and not force:
                raise Conflict(f"cannot delete container {cid!r}", f"it is {now}", "Kill it first, or give --force")
            if now != "stopped":
                end(held)
            return undo(store, held, store.config(cid))
    except NotFound:
        if force:
            return []
        raise


def end(held: Held) -> None:
    """Kill every process of it and wait. :raises Timeout:"""
    if held.fresh and cgroups.exists(held.cgroup):  # in a group that was there before there may be others
        cgroups.kill(held.cgroup)
    pidfd = process.open_pidfd(held.pid, held.pid_start) if held.pid else None
    if pidfd is None:
        return
    try:
        signal_first(held, signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(_PATIENCE * 1000):
            raise Timeout(f"container {held.id!r} does not end", f"process {held.pid} is stuck", "See its state in ps")
    finally:
        os.close(pidfd)
