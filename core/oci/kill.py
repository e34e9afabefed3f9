"""``kill``: a signal to a container's first process, or to all of them."""

from __future__ import annotations

import contextlib
import os
import signal

from core import cgroups
from core.errors import Conflict, InvalidArgument
from core.kernel import process
from core.oci.store import Held, Store, status


def number_of(text: str) -> int:
    """``9``, ``KILL``, ``SIGKILL``, ``SIGRTMIN+3``. :raises InvalidArgument:"""
    name, plus, more = text.upper().removeprefix("SIG").partition("+")
    try:
        number = int(name) if name.isdigit() else int(signal.Signals[f"SIG{name}"])
        number += int(more) if plus else 0
    except (KeyError, ValueError):
        number = 0
    if not 0 < number <= signal.SIGRTMAX:
        raise InvalidArgument(f"unknown signal {text!r}", "signal(7) lists them", "Write it like TERM or 15")
    return number


def kill(store: Store, cid: str, number: int, *, everyone: bool = False) -> None:
    """:raises Conflict: it has no process any more"""
    held = store.load(cid)
    now = status(store, held)
    if now == "stopped" and not (everyone and cgroups.pids(held.cgroup)):
        if everyone:
            return  # as runc: nothing to do is no error here
        raise _not_running(cid)
    if everyone:
        _signal_all(held, number)
    elif not signal_first(held, number):
        raise _not_running(cid)
    if number == signal.SIGKILL and now == "paused":
        cgroups.freeze(held.cgroup, False)  # on cgroup v1 a frozen process takes it only now


def _not_running(cid: str) -> Conflict:
    # In these words containerd tells that from a failure.
    return Conflict(f"cannot send a signal to container {cid!r}", "container not running", "")


def signal_first(held: Held, number: int) -> bool:
    """Never to another process that got its pid. :returns: False where it has ended"""
    pidfd = process.open_pidfd(held.pid, held.pid_start) if held.pid else None
    if pidfd is None:
        return False
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def _signal_all(held: Held, number: int) -> None:
    if number == signal.SIGKILL:
        cgroups.kill(held.cgroup)  # those that are forked meanwhile too
        return
    for pid in cgroups.pids(held.cgroup):
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                # Opened first, then asked: a pid that has become another's meanwhile is not in the group.
                if pid in cgroups.pids(held.cgroup):
                    signal.pidfd_send_signal(pidfd, number)
            finally:
                os.close(pidfd)
