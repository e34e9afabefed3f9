"""``ctl.sock``: what engines and a new launcher may ask a monitor."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Mapping
from typing import cast

from core.errors import InvalidArgument, WharfError
from core.runtime.defaults import Json
from core.supervise import sockets
from core.supervise.loop import Loop
from core.supervise.protocol import Message, close_all, receive, send
from core.supervise.spawn import Child

_PATIENCE = 2.0  # seconds a client may take over its first message
_CREDENTIALS = struct.Struct("iII")

Start = Callable[[Json, "tuple[int, int, int] | None"], Child]


def trusted(sock: socket.socket) -> bool:
    """Only our own user may command us: the folder is 0700, and the kernel vouches for the caller (CVE-2020-15257)."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1]) in (0, os.geteuid())


class Exec:
    """One command on its way: started, answered, waited for, reported."""

    def __init__(self, loop: Loop, child: Child, sock: socket.socket, done: Callable[[Exec], None]) -> None:
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
    """

    def __init__(
        self, loop: Loop, path: str, handlers: Mapping[str, Callable[[Message, socket.socket], bool]], start: Start
    ) -> None:
        self._loop = loop
        self._handlers = handlers
        self._start = start
        self._execs: set[Exec] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sockets.bind(self._listener, path)
        self._listener.listen(64)
        self._listener.setblocking(False)
        loop.watch(self._listener.fileno(), self._accept)

    @property
    def busy(self) -> bool:
        """True while a command's end is not reported yet."""
        return bool(self._execs)

    def close(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.unwatch(self._listener.fileno())
            self._listener.close()

    def _accept(self, events: int) -> None:
        try:
            sock = self._listener.accept()[0]
        except OSError:
            return
        # A client that says nothing must not hold the monitor: wait for its message in the loop.
        sock.settimeout(_PATIENCE)
        fd = sock.fileno()
        timer = self._loop.after(_PATIENCE, lambda: self._give_up(sock, fd))

        def first(events: int) -> None:
            timer.cancel()
            self._loop.unwatch(fd)
            self._serve(sock)

        self._loop.watch(fd, first)

    def _give_up(self, sock: socket.socket, fd: int) -> None:
        self._loop.unwatch(fd)
        sock.close()

    def _serve(self, sock: socket.socket) -> None:
        keep = False
        try:
            if trusted(sock):
                message, fds = receive(sock)
                try:
                    keep = self._dispatch(message, fds, sock)
                finally:
                    close_all(fds)
        except WharfError as error:
            self._refuse(sock, error)
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            self._refuse(sock, InvalidArgument("broken request", f"{type(error).__name__}: {error}"))
        if not keep:
            sock.close()

    def _refuse(self, sock: socket.socket, error: WharfError) -> None:
        try:
            send(sock, {"error": error.to_dict()})
        except OSError:
            pass

    def _dispatch(self, message: Message, fds: list[int], sock: socket.socket) -> bool:
        name = str(message.get("op"))
        if name == "exec":
            stdio = cast("tuple[int, int, int]", tuple(fds)) if len(fds) == 3 else None
            child = self._start(cast(Json, message["process"]), stdio)
            self._execs.add(Exec(self._loop, child, sock, self._execs.discard))
            return True
        handler = self._handlers.get(name)
        if handler is None:
            raise InvalidArgument(f"unknown request {name!r}", "this monitor is of another version")
        return handler(message, sock)
