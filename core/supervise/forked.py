"""The child's side of a launcher's fork: it forgets what it was and becomes a monitor."""

from __future__ import annotations

import os
import signal
import socket
import traceback
from collections.abc import Callable
from typing import NoReturn

from core.errors import WharfError
from core.kernel import libc, process
from core.runtime.defaults import Json
from core.runtime.task import Filter
from core.supervise.monitor import Monitor
from core.supervise.protocol import Launch, Message, send

_CRASHED = 70  # exit code of a monitor that met a bug


def answer(sock: socket.socket, message: Message) -> None:
    try:
        send(sock, message)
    except OSError:
        pass


def watch_first(
    launch: Launch, bundle: tuple[Json, Filter], fds: dict[str, int], reply: socket.socket, line: socket.socket
) -> None:
    """In the monitor: start the container and stay with it."""
    attach = fds.pop("attach", None)
    reply.setblocking(True)
    monitor = Monitor(launch, bundle, fds, line)
    try:
        monitor.start(reply, None if attach is None else socket.socket(fileno=attach))
    except WharfError as error:
        answer(reply, {"error": error.to_dict()})
        return
    monitor.run()


def become_monitor(title: str, keep: set[int], work: Callable[[], None]) -> NoReturn:
    """In the child: forget that we were the launcher. Exit code 0 means: all done, nothing to adopt."""
    code = _CRASHED
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        libc.close_all_but(keep | {0, 1, 2})
        process.set_title(title)
        process.set_subreaper()
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
