"""A number of its own for each test process of this host: several run at once (pytest-xdist, two checkouts), and what a
test has to name beforehand (ports, addresses, ids of users) must be nobody else's. By a lock, not by the pid: those of
two processes may be the same but for what a small range is made of."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

MOST = 30


def _take() -> int:
    """The lowest one that is free. The lock goes with the process, however it ends."""
    folder = Path(tempfile.gettempdir(), f"wharf-test-shares-{os.geteuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    for number in range(MOST):
        fd = os.open(folder / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        return number
    raise RuntimeError(f"{MOST} test processes run on this host; see {folder}")


# Once, when pytest reads its configuration: a descriptor that comes later would be taken for a leak of some test.
SHARE = _take()
