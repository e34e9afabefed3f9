"""``list`` and ``ps``."""

from __future__ import annotations

import contextlib
import json
import pwd
import subprocess
import time
from collections.abc import Sequence

from core import cgroups
from core.errors import InvalidArgument, NotFound, Unavailable
from core.oci.store import Held, Store, state, status


def show(store: Store, *, as_json: bool, quiet: bool) -> str:
    """All containers of the root: a table, JSON, or ids alone."""
    held = store.all()
    if quiet:
        return "".join(f"{one.id}\n" for one in held)
    if as_json:
        found = []
        for one in held:
            with contextlib.suppress(NotFound):  # it is just being deleted
                found.append(described(store, one))
        return json.dumps(found or None) + "\n"
    rows = [("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")]
    for one in held:
        now = status(store, one)
        pid = 0 if now == "stopped" else one.pid
        rows.append((one.id, str(pid), now, one.bundle, _time(one.created), _owner(one.owner)))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["   ".join([*map(str.ljust, row[:5], widths), row[5]]) for row in rows]
    return "".join(f"{line}\n" for line in lines)


def described(store: Store, held: Held) -> dict[str, object]:
    """One container as ``list`` and ``state`` show it: the specification's state and runc's additions to it."""
    found = state(store, held)
    root = store.config(held.id).get("root")
    path = root.get("path") if isinstance(root, dict) else ""
    found.setdefault("pid", 0)
    found["rootfs"] = path
    found["created"] = _time(held.created)
    found["owner"] = _owner(held.owner)
    return found


def _time(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{round(seconds % 1 * 1e9):09d}Z"


def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def processes(store: Store, cid: str, options: Sequence[str], *, as_json: bool) -> str:
    """The host's ``ps``, of the container's processes alone; or their pids as JSON.

    :raises InvalidArgument: options that leave the pid out :raises Unavailable: no ps here
    """
    pids = cgroups.pids(store.load(cid).cgroup)
    if as_json:
        return json.dumps(pids) + "\n"
    argv = ["ps", *(options or ["-ef"])]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise Unavailable("cannot list processes", "this host has no ps", "Install procps, or use -f json") from error
    lines = done.stdout.splitlines()
    titles = lines[0].split() if lines else []
    if done.returncode or "PID" not in titles:
        why = done.stderr.strip() or "it prints no PID"
        raise InvalidArgument(f"cannot use {' '.join(argv)}", why, "Add one: -o pid")
    column, wanted = titles.index("PID"), {str(pid) for pid in pids}
    return "".join(f"{line}\n" for line in lines[:1] + [one for one in lines[1:] if one.split()[column] in wanted])
