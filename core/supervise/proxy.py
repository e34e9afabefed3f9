"""The userland proxy: connections to a host port carried to a container by a process, where the kernel cannot do it.

That is so for ``[::1]``, which cannot be translated to an address of another machine, and for an ordinary user's
containers, whose network hangs below the host's and not on it. TCP goes through pipes by splice(2), so that no byte
comes into this process; UDP datagrams have a socket for each client. The container sees the proxy's address and not
the client's.

A container that needs one has one, forked by its monitor (:mod:`core.supervise.proxying`) and told by it what to
listen on. It lives as long as anybody holds the other end of that line: a monitor that is killed breaks no connection.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from core.supervise.copies import SETTLED
from core.supervise.loop import READ, WRITE, Loop
from core.supervise.protocol import receive
from core.supervise.proxy_udp import Datagrams

MOST = 8192  # TCP connections at once; further ones wait in the backlog
_RESERVE = 64  # descriptors that connections leave alone
_PER_CONNECTION = 2  # descriptors of one that is quiet; the others share some pipes
_PIPES = 1024
_PIPE_SIZE = 256 * 1024  # bytes; smaller where the user's share of pipe memory is used up (pipe(7))
_ROUNDS = 16  # splices for one event: the others shall have their turn
_ACCEPTS = 64  # the same for new connections
BACKLOG = 1024
_PAUSE = 0.1  # seconds without accepting, where descriptors or memory have run out
_NONBLOCK = 2  # SPLICE_F_NONBLOCK
DETACH_FILTER = 27  # SO_DETACH_FILTER
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends a reset
_SYN_RETRIES = 4  # about half a minute


class Pipes:
    """Empty pipes, for whoever has bytes on the way. A quiet connection needs none."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._free: list[tuple[int, int]] = []
        self._out = 0

    def take(self) -> tuple[int, int] | None:
        """None where too many are in use. :raises OSError: no descriptors are left"""
        if self._free:
            self._out += 1
            return self._free.pop()
        if self._out >= self._most:
            return None
        pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        self._out += 1
        return pipe

    def give_back(self, pipe: tuple[int, int], *, empty: bool) -> None:
        self._out -= 1
        if empty and len(self._free) < 16:
            self._free.append(pipe)
            return
        for fd in pipe:
            os.close(fd)


class Flow:
    """One direction of a connection. No more is read before all that was read is written: so the kernel holds the
    sender back."""

    def __init__(self, source: socket.socket, target: socket.socket, pipes: Pipes) -> None:
        self.source, self.target = source, target
        self.ended = False  # the source has no more, and the target knows
        self.pending = 0  # bytes in the pipe
        self.starved = False  # there is no pipe for it now
        self._pipes = pipes
        self._pipe: tuple[int, int] | None = None
        self._eof = False

    @property
    def reads(self) -> bool:
        """It waits for more from its source."""
        return not self._eof and not self.pending and not self.starved

    def advance(self) -> None:
        """Move what can be moved now. :raises OSError: the connection is lost"""
        for _ in range(_ROUNDS):
            if not self.pending and not self._fill():
                break
            if not self._drain():
                break
        if self._pipe is not None and not self.pending:
            self._pipes.give_back(self._pipe, empty=True)
            self._pipe = None

    def _fill(self) -> bool:
        """True where there is something to write now."""
        if self._eof:
            return False
        self.starved = False
        if self._pipe is None:
            self._pipe = self._pipes.take()
            if self._pipe is None:
                self.starved = True
                return False
        try:
            count = os.splice(self.source.fileno(), self._pipe[1], _PIPE_SIZE, flags=_NONBLOCK)
        except BlockingIOError:
            return False
        if count == 0:
            self._eof = True
            self._end()
            return False
        self.pending = count
        return True

    def _drain(self) -> bool:
        """True where all is written."""
        assert self._pipe is not None
        while self.pending:
            try:
                self.pending -= os.splice(self._pipe[0], self.target.fileno(), self.pending, flags=_NONBLOCK)
            except BlockingIOError:
                return False
        return True

    def _end(self) -> None:
        """Half-close: the other direction goes on."""
        with contextlib.suppress(OSError):  # ENOTCONN: reset meanwhile; the other direction will say so
            self.target.shutdown(socket.SHUT_WR)
        self.ended = True

    def close(self) -> None:
        if self._pipe is not None:
            self._pipes.give_back(self._pipe, empty=not self.pending)
            self._pipe = None


Done = Callable[["Connection"], None]
Address = tuple[str, int]


def _steady(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # peers that vanish do not stay for ever


class Connection:
    """A client and its server in the container."""

    def __init__(self, loop: Loop, client: socket.socket, targets: Sequence[Address], pipes: Pipes, done: Done) -> None:
        """:param targets: tried one after another. :raises OSError: there is no way to any"""
        self._loop = loop
        self._done = done
        self._client = client
        self._left = list(targets)
        self._pipes = pipes
        self._watched: dict[int, int] = {}
        self._connected = self._closed = False
        _steady(client)
        self._call()

    def _call(self) -> None:
        """Begin to connect to the next target to which there is a way. :raises OSError: none is left"""
        target = self._left.pop(0)
        self._server = socket.socket(family_of(target[0]), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._flows = Flow(self._client, self._server, self._pipes), Flow(self._server, self._client, self._pipes)
        try:
            _steady(self._server)
            self._server.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, _SYN_RETRIES)
            error = self._server.connect_ex(target)
            if error not in (0, errno.EINPROGRESS):
                raise OSError(error, os.strerror(error))
            self._want(self._server, WRITE)
        except OSError:
            self._server.close()
            if not self._left:
                raise
            self._call()

    def _answered(self) -> bool:
        """Has the target accepted? Else the next one is called. :raises OSError: none is left"""
        error = self._server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error and not self._left:
            raise OSError(error, os.strerror(error))
        if error:
            self._want(self._server, 0)
            self._server.close()
            self._call()
        return not error

    def _want(self, sock: socket.socket, events: int) -> None:
        """Nothing wanted: not even watched, or a peer that is gone would be told again and again."""
        fd = sock.fileno()
        before = self._watched.pop(fd, 0)
        if events:
            self._watched[fd] = events
        if before and not events:
            self._loop.unwatch(fd)
        elif events and not before:
            self._loop.watch(fd, self._ready, events)
        elif events != before:
            self._loop.change(fd, events)

    def _ready(self, events: int) -> None:
        try:
            if not self._connected and not self._answered():
                return
            self._connected = True
            for flow in self._flows:
                if not flow.ended:
                    flow.advance()
            if all(flow.ended for flow in self._flows):
                self.close(reset=False)
            else:
                self._rearm()
        except OSError:
            self.close(reset=True)

    def _rearm(self) -> None:
        there, back = self._flows
        for sock, incoming, outgoing in ((self._client, there, back), (self._server, back, there)):
            self._want(sock, (READ if incoming.reads else 0) | (WRITE if outgoing.pending else 0))
        if there.starved or back.starved:
            self._loop.after(_PAUSE, self._try_again)

    def _try_again(self) -> None:
        if not self._closed:
            self._ready(0)

    def close(self, *, reset: bool) -> None:
        """:param reset: the other side is to see that this was no orderly end"""
        for flow in self._flows:
            flow.close()
        for fd in self._watched:
            self._loop.unwatch(fd)
        self._watched = {}
        self._closed = True
        for sock in (self._client, self._server):
            if reset:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            sock.close()
        self._done(self)


class Streams:
    """Listens on one TCP port."""

    def __init__(self, loop: Loop, listener: socket.socket, targets: Sequence[Address], shared: Shared) -> None:
        self._loop = loop
        self._listener = listener
        self._targets = targets
        self._shared = shared
        self._listening = False
        listener.setblocking(False)
        listener.listen(BACKLOG)
        self._resume()

    def close(self) -> None:
        """No new ones; those that there are go on."""
        self._pause()
        self._listener.close()

    def _pause(self) -> None:
        if self._listening:
            self._loop.unwatch(self._listener.fileno())
            self._listening = False

    def _resume(self) -> None:
        if not self._listening and self._listener.fileno() >= 0:
            self._loop.watch(self._listener.fileno(), lambda events: self._accept())
            self._listening = True

    def _wait(self) -> None:
        self._pause()
        self._loop.after(_PAUSE, self._resume)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            if len(self._shared.connections) >= self._shared.most:
                self._wait()
                return
            try:
                client = self._listener.accept()[0]
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._wait()
                    return
                continue  # that client has gone again
            client.setblocking(False)
            self._open(client)

    def _open(self, client: socket.socket) -> None:
        shared = self._shared
        try:
            made = Connection(self._loop, client, self._targets, shared.pipes, shared.connections.discard)
        except OSError:
            with contextlib.suppress(OSError):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.close()
        else:
            shared.connections.add(made)


class Shared:
    """What all ports have in common."""

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        files = os.sysconf("SC_OPEN_MAX")
        self.pipes = Pipes(min(_PIPES, files // 8))
        self.most = max(16, min(MOST, (files - _RESERVE - files // 4) // _PER_CONNECTION))


class Proxy:
    """:param line: from the monitor; each message names all ports that there shall be, with some of their sockets"""

    def __init__(self, loop: Loop, line: socket.socket) -> None:
        self._loop = loop
        self._line = line
        self._shared = Shared()
        self._ports: dict[str, Streams | Datagrams] = {}
        loop.watch(line.fileno(), lambda events: self._hear())

    def _hear(self) -> None:
        try:
            message, fds = receive(self._line)
        except (EOFError, OSError):
            self._loop.stop()  # the container has ended
            return
        wanted = {json.dumps(order): order for order in cast("list[Order]", message["ports"])}
        for key in self._ports.keys() - wanted.keys():
            self._ports.pop(key).close()
        given = dict(zip(cast("list[str]", message["given"]), fds, strict=True))
        if SETTLED in given:
            os.close(given.pop(SETTLED))
        for key, order in wanted.items():
            fd = given.pop(str(order["name"]), None)
            if key in self._ports:
                if fd is not None:
                    os.close(fd)
                continue
            # Where somebody else has the port, it stays theirs.
            with contextlib.suppress(OSError):
                listener = bound(order) if fd is None else socket.socket(fileno=fd)
                self._ports[key] = self._listen(listener, order)

    def _listen(self, listener: socket.socket, order: Order) -> Streams | Datagrams:
        pairs = cast("list[list[str | int]]", [order["target"], *cast("list[object]", order.get("or", []))])
        targets = [(str(host), int(port)) for host, port in pairs]
        with contextlib.suppress(OSError):  # of a reservation: so far nothing was to arrive there
            listener.setsockopt(socket.SOL_SOCKET, DETACH_FILTER, 0)
        if order["protocol"] == "udp":
            return Datagrams(self._loop, listener, targets)
        return Streams(self._loop, listener, targets, self._shared)


# {"name": of the listening socket, "protocol": "tcp", "bind": ["::1", 8080], "target": ["172.29.0.2", 80]}; perhaps
# "or": further targets like that one, for where it does not answer
Order = dict[str, object]


def bound(order: Mapping[str, object]) -> socket.socket:
    """A socket on the host's side, in the calling thread's network namespace. :raises OSError:"""
    host, port = cast("tuple[str, int]", order["bind"])
    family = family_of(host)
    kind = socket.SOCK_DGRAM if order["protocol"] == "udp" else socket.SOCK_STREAM
    made = socket.socket(family, kind | socket.SOCK_CLOEXEC)
    try:
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((host, port))
    except BaseException:
        made.close()
        raise
    return made


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def serve(line: socket.socket) -> None:
    """Until the other end of the line is closed. Servers are reached from the network namespace of the caller, clients
    come from wherever the listening sockets were made."""
    loop = Loop()
    Proxy(loop, line)
    loop.run()
