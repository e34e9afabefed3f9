"""Write one line to the change log (see :mod:`core.store.changes`, which reads it).

Apart from the reading side because every monitor writes events: nothing heavier than ``json`` may be imported here.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time

LIMIT = 4 * 1024 * 1024  # bytes; past it the file is renamed to ``events.1`` and begun anew


def append(path: str | os.PathLike[str], kind: str, action: str, oid: str, **attributes: str) -> None:
    """Write one event to the change log at ``path`` (``Instance.events``)."""
    line = json.dumps({"t": time.time(), "k": kind, "a": action, "i": oid, "x": attributes}) + "\n"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        # One write: lines of several processes never mix.
        os.write(fd, line.encode())
        full = os.fstat(fd).st_size > LIMIT
    finally:
        os.close(fd)
    if full:
        _rotate(os.fspath(path))


def _rotate(path: str) -> None:
    folder = os.path.dirname(path)
    lock = os.open(os.path.join(folder, "events.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):  # another process has just done it, and nobody written since
            if os.stat(path).st_size > LIMIT:
                os.rename(path, os.path.join(folder, "events.1"))
    finally:
        os.close(lock)
