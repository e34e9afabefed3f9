"""The whole vocabulary between engine, launcher and monitor.

Every connection is a Unix stream socket that carries frames: one byte kind, four bytes length (network order), payload.

====  ==================================================================================================
kind  payload
====  ==================================================================================================
0     bytes for the container's standard input            (engine → monitor, attached)
1, 2  bytes of its standard output, standard error        (monitor → engine, attached)
3     one JSON object; descriptors ride on its first bytes (SCM_RIGHTS), a few hundred on each
====  ==================================================================================================

First message to the **launcher** (``$RUN/launcher.sock``), which begins with :func:`opening`::

    {"op": "launch", …, "launch": {…}}                   → no answer: the new monitor has the connection from here on
    {"op": "adopt", …, "id": …, "run_dir": …}            → {"ok": true}

The launcher reads no further than that. What follows is for the new monitor: first ``{"config": {…}, "filter": "…"}``,
without the seccomp rules but with the program that they make (base64; nothing for none). The monitor makes the cgroup
and gets itself ready while the engine makes files and network. It may be asked for a
user namespace and for others that belong to it by ``{"ids": […], "kinds": ["network"]}``, with the descriptor of one
that is there already; the answer is ``{"kinds": ["user", "network"]}``, with theirs. As soon as there are the
namespaces that the container joins, the engine may send ``{"ahead": ["netns", "ns.ipc", …]}`` with them: its first
process is on its way then, while the network is made. Last, the engine sends ``{"fds": ["netns", "ns.ipc", "dns-udp",
"attach", "hold", …], "ports": […]}`` (ports that a proxy has to serve, :data:`core.supervise.proxying.Order`; what was
sent ahead comes again), and the answer is ``{"started": {…}}`` or ``{"error": {…}}``;
the engine then sends ``{"ok": true}``. A connection that ends before that undoes the start: an engine that died or gave
up leaves nothing half-made.

First message to a **monitor** (``$RUN/c/ID/ctl.sock``)::

    {"op": "attach", "stdin": bool}        then frames both ways; {"resize": [rows, columns]}, {"close_stdin": true}
                                           from the engine, {"exit": code} or {"dropped": why} at the end
    {"op": "exec", "process": {…}, "fds": ["stdin", "stdout", "stderr"]}     {"pid": …} (+ terminal), then {"exit": …}
    {"op": "stopping"}                     no automatic restart from here on
    {"op": "update", "resources": {…}, "restart": {…}}   for the next start; those that run are changed by the engine
    {"op": "signal", "number": …}          → {"ok": true}; these two only under another OCI runtime, which has to be
    {"op": "freeze", "on": bool}           asked for them: elsewhere engines do it themselves
    {"op": "hold", "ending": bool}         → {"input_ended": bool}; until the connection ends no command is run inside,
                                           and if it is ``ending`` no restart made
    {"op": "ports", "fds": ["hold tcp 0.0.0.0 80", …], "drop": […]} → {"ok": true}; sockets that reserve host ports, to
                                           be kept from now on, and those that are not needed any more; with "only": […]
                                           all but these
    {"op": "resolve"}                      → {"ok": true}; it is on a user-defined network now, and needs a resolver
    {"op": "keep"}                         → {"names": […]} + descriptors: a new launcher asks for what it guards; the
                                           connection takes the place of the line to the old one

Lengths are checked on both sides (CVE-2021-43784).
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple, cast

from core.errors import Unavailable

# Why a request that a monitor does not know is refused: it runs on as it was when the program was renewed.
OTHER_VERSION = "this monitor is of another version"

if TYPE_CHECKING:
    from core.model.container import Healthcheck, LogOptions, RestartPolicy

PROTOCOL = 2
HEADER = struct.Struct("!BI")
STDIN, STDOUT, STDERR, JSON = 0, 1, 2, 3
MAX_FRAME = 16 * 1024 * 1024  # bytes
MAX_FDS = 4000  # of one message
_BATCH = 253  # descriptors on one byte: SCM_MAX_FD of the kernel (unix(7))
CHUNK = 65536
_LAUNCH = b', "launch": '
CHECKPOINT = "checkpoint"  # name of the descriptor of the one to start from (see core.supervise.restoring)
JOINED = "ns."  # before the type of a namespace that is another's, in the name of its descriptor
HELD = "hold "  # before protocol, address and port, in the name of a socket that reserves a host port
OWN = "own "  # the same, of one that a monitor has made itself, for the proxy
SHM = "shm"  # name of the mount namespace whose /dev/shm is shared

Message = dict[str, object]


class Launch(NamedTuple):
    """What a monitor must know to get ready for a container; the rest is in ``bundle``'s ``config.json``.

    :param run_dir: ``Instance.container_run``; exists only while the monitor does
    :param lower: layer folders, top first
    :param cgroup: relative to each hierarchy's root
    :param map_ids: the layers' owners are shown as the container's user namespace maps them
    :param log: like ``restart`` and ``healthcheck`` one of the engine's words; a monitor, which is made of JSON, has
        something of the same shape: the words themselves are dataclasses (see :mod:`core.runtime.task`)
    :param runtime: argv of another OCI runtime's command line; empty: the engine's own
    :param cleanup: argv of the one-shot clean-up for when no engine listens; the container's id is appended
    :param firewall: the instance's nft table, which is kept while containers run
    :param uplink: folder of what connects an ordinary user's containers to the outside (core.supervise.uplink); empty
        where the host's network does
    :param isolated: a network namespace with nothing but lo is made with the container
    :param attributes: what the ``die``, ``start`` and ``health_status`` events carry (image, name)
    """

    id: str
    bundle: str
    run_dir: str
    lower: tuple[str, ...]
    upper: str
    work: str
    cgroup: str
    exit_path: str
    events: str
    engines: str
    log_path: str
    log: LogOptions
    restart: RestartPolicy
    attributes: dict[str, str]
    tty: bool = False
    stdin_open: bool = False
    healthcheck: Healthcheck | None = None
    map_ids: bool = False
    runtime: tuple[str, ...] = ()
    cleanup: tuple[str, ...] = ()
    firewall: str = ""
    uplink: str = ""
    isolated: bool = False

    def to_plain(self) -> Message:
        health = self.healthcheck
        return {
            **self._asdict(),
            "log": vars(self.log),
            "restart": vars(self.restart),
            "healthcheck": None if health is None else vars(health),
        }

    @classmethod
    def from_plain(cls, data: Message) -> Launch:
        values = dict(data)
        for name in ("lower", "runtime", "cleanup"):
            values[name] = tuple(values.get(name, ()))  # type: ignore[arg-type]
        for name in ("log", "restart"):
            values[name] = SimpleNamespace(**cast(Message, values[name]))
        health = values.get("healthcheck")
        if isinstance(health, dict):
            values["healthcheck"] = SimpleNamespace(**{**health, "test": tuple(health["test"])})
        return cls(**values)  # type: ignore[arg-type]


class Started(NamedTuple):
    """A container that runs."""

    pid: int
    pid_start: int  # clock ticks since boot (core.kernel.process.start_time)
    monitor_pid: int
    started: float  # seconds since the epoch


def opening(op: str, build: str) -> bytes:
    """The beginning of every message to a launcher, always of the same bytes: it need not parse one to know it."""
    return json.dumps({"op": op, "protocol": PROTOCOL, "build": build})[:-1].encode()


def launch_payload(build: str, launch: Launch) -> bytes:
    """The message that has a container's monitor made; :func:`launch_of` takes the launch out again."""
    return opening("launch", build) + _LAUNCH + json.dumps(launch.to_plain()).encode() + b"}"


def launch_of(payload: bytes, build: str) -> bytes | None:
    """The launch in a payload, as JSON; None where it is another message, or one for a launcher of another build."""
    begin = opening("launch", build) + _LAUNCH
    return payload[len(begin) : -1] if payload.startswith(begin) else None


def frame(kind: int, payload: bytes) -> bytes:
    return HEADER.pack(kind, len(payload)) + payload


def json_frame(message: Message) -> bytes:
    return frame(JSON, json.dumps(message).encode())


class Decoder:
    """Frames out of a byte stream, however it is cut."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Complete frames. :raises Unavailable: the other side does not speak this protocol"""
        self._data += data
        while len(self._data) >= HEADER.size:
            kind, length = HEADER.unpack_from(self._data)
            if kind > JSON or length > MAX_FRAME:
                raise Unavailable("broken message", f"frame of kind {kind} with {length} bytes")
            if len(self._data) < HEADER.size + length:
                return
            payload = bytes(self._data[HEADER.size : HEADER.size + length])
            del self._data[: HEADER.size + length]
            yield kind, payload


def parcels(payload: bytes, fds: Sequence[int]) -> Iterator[tuple[bytes, Sequence[int]]]:
    """One JSON frame in the pieces that it is sent in: the kernel takes only so many descriptors at once, so that each
    of the first bytes carries a batch of them."""
    data = frame(JSON, payload)
    batches = [fds[start : start + _BATCH] for start in range(0, len(fds), _BATCH)]
    for number, batch in enumerate(batches[:-1]):
        yield data[number : number + 1], batch
    yield data[max(0, len(batches) - 1) :], batches[-1] if batches else ()


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send one JSON frame on a blocking socket. :raises OSError:"""
    send_payload(sock, json.dumps(message).encode(), fds)


def send_payload(sock: socket.socket, payload: bytes, fds: Sequence[int] = ()) -> None:
    """:func:`send`, of a message that is JSON already."""
    for data, batch in parcels(payload, fds):
        sent = socket.send_fds(sock, [data], list(batch)) if batch else 0
        # Not where nothing is left: the other side may have all it needs, and have answered and closed.
        if sent < len(data):
            sock.sendall(data[sent:])


class Incoming:
    """The next JSON frame of a socket, as it comes in, and the descriptors on it (close-on-exec).

    Never more than this frame: what follows it belongs to whoever takes the connection over. ``fds`` belong to the
    caller of :meth:`advance` once that has returned the message.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fds: list[int] = []
        self._data = bytearray()
        self._length = HEADER.size  # of all that is known to come

    def advance(self) -> Message | None:
        """:meth:`payload`, parsed."""
        payload = self.payload()
        return None if payload is None else cast(Message, json.loads(payload))

    def payload(self) -> bytes | None:
        """Take what is there (a blocking socket is waited for); None while more has to come.

        :raises EOFError: the other side has closed
        :raises Unavailable: it does not speak this protocol
        :raises OSError:
        """
        try:
            return self._advance()
        except BlockingIOError:
            return None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the descriptors."""
        close_all(self.fds)
        self.fds = []

    def _advance(self) -> bytes:
        while True:
            part, more, _, _ = socket.recv_fds(
                self.sock, self._length - len(self._data), _BATCH, socket.MSG_CMSG_CLOEXEC
            )
            self.fds += more
            if not part:
                raise EOFError
            self._data += part
            if len(self._data) < self._length:
                continue
            if self._length > HEADER.size:
                return bytes(self._data[HEADER.size :])
            kind, length = HEADER.unpack(self._data)
            if kind != JSON or length > MAX_FRAME or len(self.fds) > MAX_FDS:
                raise Unavailable("broken message", f"frame of kind {kind} with {length} bytes")
            self._length += length


def receive(sock: socket.socket) -> tuple[Message, list[int]]:
    """The next JSON frame of a blocking socket, and the descriptors on it (close-on-exec).

    :raises EOFError: the other side has closed
    :raises Unavailable: it does not speak this protocol
    :raises OSError:
    """
    payload, fds = receive_payload(sock)
    return cast(Message, json.loads(payload)), fds


def receive_payload(sock: socket.socket) -> tuple[bytes, list[int]]:
    """:func:`receive`, of a message that is not parsed."""
    incoming = Incoming(sock)
    payload = incoming.payload()
    if payload is None:  # a socket with a timeout that is over
        incoming.close()
        raise TimeoutError("the other side does not go on")
    return payload, incoming.fds


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
