"""``events``: counters at intervals, and every time the kernel kills for want of memory."""

from __future__ import annotations

import json
import select
import sys
import time
from typing import Any

from core import cgroups
from core.errors import Conflict, WharfError
from core.oci.store import Store, status


def events(store: Store, cid: str, *, interval: float, once: bool) -> None:
    """Print one JSON object a line until the container ends.

    :param interval: seconds between two lines of counters
    :param once: one line of counters, no more (``--stats``)
    :raises Conflict: it does not run
    """
    held = store.load(cid)
    now = status(store, held)
    if now in ("stopped", "creating"):
        raise Conflict(f"cannot watch container {cid!r}", f"it is {now}", "Start it first")
    if once:
        _tell("stats", cid, cgroups.stats(held.cgroup))
        return
    with cgroups.oom_watch(held.cgroup) as watch:
        poll = select.poll()
        poll.register(watch, select.POLLIN | select.POLLPRI)
        due = time.monotonic() + interval
        while status(store, held) not in ("stopped", "creating"):
            # Once a second: that is how late the end of the container is noticed.
            ready = poll.poll(max(0.0, min(1.0, due - time.monotonic())) * 1000)
            killed = watch.news() if ready else 0
            if killed is None:
                return
            if killed:
                _tell("oom", cid, None)
            if time.monotonic() >= due:
                due += interval
                try:
                    _tell("stats", cid, cgroups.stats(held.cgroup))
                except WharfError:
                    return  # it has just ended


def _tell(kind: str, cid: str, data: Any) -> None:
    line: dict[str, Any] = {"type": kind, "id": cid}
    if data is not None:
        line["data"] = data
    print(json.dumps(line), flush=True, file=sys.stdout)
