"""``ctl.sock``: what engines and a new launcher may ask a monitor."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from typing import cast

from core.errors import InvalidArgument, WharfError
from core.runtime.defaults import Json
from core.supervise import sockets
from core.supervise.child import Process
from core.supervise.listen import Reception
from core.supervise.loop import Loop
from core.supervise.protocol import OTHER_VERSION, Message, send

Start = Callable[[Json, "tuple[int, int, int] | None"], Process]


class Exec:
    """One command on its way: started, answered, waited for, reported."""

    def __init__(self, loop: Loop, child: Process, sock: socket.socket, done: Callable[[Exec], None]) -> None:
        self._loop = loop
        self._child = child
        self._sock = sock
        self._done = done
        loop.watch(child.line.fileno(), self._news)

    def _news(self, events: int) -> None:
        line = self._child.line.fileno()
        try:
            running = self._child.advance()
        except WharfError as error:
            self._loop.unwatch(line)
            self._finish({"error": error.to_dict()})
            return
        if running:
            self._loop.unwatch(line)
            master = self._child.master
            self._tell({"pid": self._child.pid}, [] if master is None else [master])
            if master is not None:
                os.close(master)  # the engine has it now
            self._loop.watch(self._child.pidfd, self._ended)

    def _ended(self, events: int) -> None:
        self._loop.unwatch(self._child.pidfd)
        os.close(self._child.pidfd)
        code = os.waitstatus_to_exitcode(os.waitpid(self._child.pid, 0)[1])
        self._finish({"exit": code if code >= 0 else 128 - code})

    def _finish(self, message: Message) -> None:
        self._tell(message, [])
        self._sock.close()
        self._done(self)

    def _tell(self, message: Message, fds: list[int]) -> None:
        try:
            send(self._sock, message, fds)
        except OSError:
            pass  # nobody listens any more; the command runs on


class Control:
    """Accepts connections on ``ctl.sock`` and answers them.

    :param handlers: operation → handler of (message, connection), for all but ``exec``; a handler returns True where
        it keeps the connection
    :param start: forks a command into the container
    :param keep: takes sockets that reserve host ports (their descriptors are closed afterwards)
    """

    def __init__(
        self,
        loop: Loop,
        path: str,
        handlers: Mapping[str, Callable[[Message, socket.socket], bool]],
        start: Start,
        keep: Callable[[Message, list[int]], None],
    ) -> None:
        self._keep = keep
        self._loop = loop
        self._handlers = handlers
        self._start = start
        self._execs: set[Exec] = set()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sockets.bind(listener, path)
        listener.listen(64)
        self._reception = Reception(loop, listener, self._dispatch)

    @property
    def busy(self) -> bool:
        """True while a command's end is not reported yet."""
        return bool(self._execs)

    def close(self) -> None:
        self._reception.close()

    def _dispatch(self, message: Message, fds: list[int], sock: socket.socket) -> bool:
        name = str(message.get("op"))
        if name == "exec":
            stdio = cast("tuple[int, int, int]", tuple(fds)) if len(fds) == 3 else None
            child = self._start(cast(Json, message["process"]), stdio)
            self._execs.add(Exec(self._loop, child, sock, self._execs.discard))
            return True
        if name == "ports":
            self._keep(message, fds)
            send(sock, {"ok": True})
            return False
        handler = self._handlers.get(name)
        if handler is None:
            raise InvalidArgument(f"unknown request {name!r}", OTHER_VERSION)
        return handler(message, sock)
