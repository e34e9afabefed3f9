"""The pause between ``create`` and ``start`` of the OCI runtime specification (runtime.md, "Lifecycle")."""

from __future__ import annotations

import os
import select
import signal
import socket
from types import FrameType

from core.kernel import process
from core.runtime.task import Report

_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)


class Gate:
    """Made while no filter is in force; then waited at under the command's own.

    :param fd: the listening socket
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def wait(self, report: Report) -> None:
        """Tell the parent that all is set up, and wait until somebody who wants the start connects.

        That may take days, and in a shared pid namespace others can see us meanwhile: by now we are the user, with no
        right that the command would not have.

        :param report: leads to that one from then on
        """
        # The kernel delivers no signal to a pid 1 that has no handler for it, and `kill` must work before `start` too.
        before = {signo: signal.signal(signo, _end) for signo in _ENDING}
        report.at("waiting for the start")
        report.ask(b"G")
        process.set_death_signal(0)  # from here on it is nobody's child; before, a parent that dies takes it along
        os.close(report.fd)
        # Not accept() on a descriptor that may block: a signal must end us in any case, and Python retries that call.
        self._poll.poll()
        line, _ = self._socket.accept()
        self._socket.close()
        for signo, handler in before.items():
            signal.signal(signo, handler)
        report.fd = line.detach()
        report.at("starting")


def _end(signo: int, frame: FrameType | None) -> None:
    os._exit(128 + signo)
