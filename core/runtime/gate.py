"""The pause between ``create`` and ``start`` of the OCI runtime specification (runtime.md, "Lifecycle")."""

from __future__ import annotations

import os
import select
import signal
import socket
from types import FrameType
from typing import cast

from core.kernel import process
from core.runtime import finish
from core.runtime.defaults import Json
from core.runtime.task import InitTask, Report

_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)


def wait(task: InitTask, report: Report) -> None:
    """Tell the parent that all is set up, and wait until somebody who wants the start connects.

    We still have every right here, but nobody else is inside yet.

    :param report: leads to that one from then on
    :raises CommandNotFound: :raises CommandNotExecutable:
    """
    own = cast(Json, task.config.get("process") or {})
    if own:
        finish.check_command(own)  # already now: an engine on top tells a missing command by a `create` that fails
    # The kernel delivers no signal to a pid 1 that has no handler for it, and `kill` must work before `start` too.
    before = {signo: signal.signal(signo, _end) for signo in _ENDING}
    report.at("waiting for the start")
    report.ask(b"G")
    process.set_death_signal(0)  # from here on it is nobody's child; before, a parent that dies takes it along
    os.close(report.fd)
    # Not accept() on a descriptor that may block: a signal must end us in any case, and Python retries that call.
    poll = select.poll()
    poll.register(task.gate, select.POLLIN)
    poll.poll()
    with socket.socket(fileno=task.gate) as gate:
        line, _ = gate.accept()
    for signo, handler in before.items():
        signal.signal(signo, handler)
    report.fd = line.detach()
    report.at("starting")


def _end(signo: int, frame: FrameType | None) -> None:
    os._exit(128 + signo)
