"""The child's side of a launcher's fork: it forgets what it was and becomes a monitor."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import NoReturn

from core.errors import WharfError
from core.kernel import libc, memory, process
from core.supervise import first
from core.supervise.protocol import Incoming, Launch, Message, send
from core.supervise.starter import Starter

_CRASHED = 70  # exit code of a monitor that met a bug


def answer(sock: socket.socket, message: Message) -> None:
    try:
        send(sock, message)
    except OSError:
        pass


def watch_first(
    plain: bytes,
    reply: socket.socket,
    line: socket.socket,
    starter: Starter | None = None,
    *,
    note_pages: bool = False,
) -> None:
    """In the monitor: start the container and stay with it; the parameters are those of :func:`first.start`."""
    reply.setblocking(True)
    try:
        monitor = first.start(plain, reply, line, starter, note_pages=note_pages)
    except WharfError as error:
        answer(reply, {"error": error.to_dict()})
        return
    monitor.run()


def wait_for_work(line: socket.socket, example: bytes, pages: memory.Pages) -> None:
    """In a monitor that was made before there is a container for it: the launch comes from the launcher.

    :param example: the last launch, which the next one most likely is like; what has to be copied to parse one is
        copied while nobody waits for it
    :param pages: the same, of what an earlier monitor has written to; none: this one is to find out
    """
    process.set_title("wharf-spare")
    last = Launch.from_plain(json.loads(example))
    starter = Starter.make(isolated=last.isolated)
    memory.own(pages)
    incoming = Incoming(line)
    try:
        plain = incoming.payload()
    except EOFError:  # the launcher has gone
        return
    assert plain is not None
    watch_first(plain, socket.socket(fileno=incoming.fds[0]), line, starter, note_pages=not pages)


def become_monitor(keep: set[int], work: Callable[[], None]) -> NoReturn:
    """In the child: forget that we were the launcher. Exit code 0 means: all done, nothing to adopt."""
    code = _CRASHED
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        libc.close_all_but(keep | {0, 1, 2})
        work()
        code = 0
    except BaseException:
        sys.__excepthook__(*sys.exc_info())  # the module `traceback` brings half a megabyte with it
    finally:
        os._exit(code)
