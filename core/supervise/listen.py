"""Takes connections and their first message, in the loop: a client that says nothing delays nobody."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable

from core.errors import InvalidArgument, WharfError
from core.supervise.loop import Loop, Timer
from core.supervise.protocol import Incoming, Message, close_all, send

_PATIENCE = 2.0  # seconds a client may take over its first message
_REST = 0.1  # seconds until the next try, where no descriptor is left: the caller waits, and would be told all the time
_CREDENTIALS = struct.Struct("iII")

Serve = Callable[[Message, "list[int]", socket.socket], bool]


def _trusted(sock: socket.socket) -> bool:
    """Only our own user may command us: the folder is 0700, and the kernel vouches for the caller (CVE-2020-15257)."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1]) in (0, os.geteuid())


class Reception:
    """Serves the connections of a listening socket, which it owns.

    :param serve: called with each first message, its descriptors (closed afterwards) and the connection; returns True
        where it keeps the connection. What it raises is answered as an error.
    :param parse: what makes a message of its bytes
    """

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        serve: Serve,
        parse: Callable[[bytes], Message] = json.loads,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._serve = serve
        self._parse = parse
        listener.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Accept nobody any more."""
        if self._listener.fileno() >= 0:
            self._loop.unwatch(self._listener.fileno())
            self._listener.close()

    def _listen(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.watch(self._listener.fileno(), self._accept)

    def _accept(self, events: int) -> None:
        try:
            sock = self._listener.accept()[0]
        except (BlockingIOError, ConnectionError):
            return
        except OSError:
            self._loop.unwatch(self._listener.fileno())
            self._loop.after(_REST, self._listen)
            return
        if not _trusted(sock):
            sock.close()
            return
        sock.setblocking(False)
        incoming = Incoming(sock)
        if not self._hear(incoming, None):  # mostly it is there already
            timer = self._loop.after(_PATIENCE, lambda: self._give_up(incoming))
            self._loop.watch(sock.fileno(), lambda events: self._hear(incoming, timer))

    def _give_up(self, incoming: Incoming) -> None:
        self._loop.unwatch(incoming.sock.fileno())
        incoming.close()
        incoming.sock.close()

    def _hear(self, incoming: Incoming, timer: Timer | None) -> bool:
        """Take what has come; False while more has to.

        :param timer: of a connection that is watched already
        """
        sock, keep = incoming.sock, False
        try:
            payload = incoming.payload()
            if payload is None:
                return False
            message = self._parse(payload)
        except (EOFError, OSError):
            message = {}  # gone
        except (WharfError, ValueError) as error:
            message = {}
            _refuse(sock, error)
        if timer is not None:
            timer.cancel()
            self._loop.unwatch(sock.fileno())
        sock.settimeout(_PATIENCE)
        try:
            keep = bool(message) and self._serve(message, incoming.fds, sock)
        except (WharfError, OSError, EOFError, ValueError, KeyError, TypeError) as error:
            _refuse(sock, error)
        finally:
            close_all(incoming.fds)
            if not keep:
                sock.close()
        return True


def _refuse(sock: socket.socket, error: Exception) -> None:
    if not isinstance(error, WharfError):
        error = InvalidArgument("broken request", f"{type(error).__name__}: {error}")
    try:
        send(sock, {"error": error.to_dict()})
    except OSError:
        pass  # it has gone
