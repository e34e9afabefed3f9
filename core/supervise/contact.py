"""Connections to launcher and monitors, and how a launcher is started."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from core.errors import Unavailable, from_dict
from core.kernel.view import unwritable
from core.store.lock import file_lock
from core.store.paths import Instance
from core.supervise import sockets
from core.supervise.protocol import Incoming, Message, opening, parcels
from core.supervise.session import ready

TRIES = 5  # a launcher may leave or retire just when we connect


class Line:
    """One connection that carries JSON frames and descriptors."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    async def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """:raises OSError: ``EPIPE``, ``ECONNRESET``: the other side has closed before it had read all of it"""
        await self.send_payload(json.dumps(message).encode(), fds)

    async def send_payload(self, payload: bytes, fds: Sequence[int] = ()) -> None:
        """A message that is JSON already. :raises OSError: as :meth:`send`"""
        for data, batch in parcels(payload, fds):
            sent = 0
            while batch and not sent:
                try:
                    sent = socket.send_fds(self.sock, [data], list(batch))
                except BlockingIOError:
                    await ready(self.sock.fileno(), write=True)
            # Not where nothing is left: a quick one has answered and closed by now, which would be EPIPE here.
            if sent < len(data):
                await asyncio.get_running_loop().sock_sendall(self.sock, data[sent:])

    async def receive(self) -> tuple[Message, list[int]]:
        """The next message and its descriptors.

        :raises EOFError: the other side has closed :raises WharfError: it answered with an error
        """
        incoming = Incoming(self.sock)
        try:
            while (message := incoming.advance()) is None:
                await ready(self.sock.fileno(), write=False)
            error = message.get("error")
            if isinstance(error, dict):
                raise from_dict(error)
            return message, incoming.fds
        except BaseException:
            incoming.close()
            raise

    async def ask(self, message: Message, fds: Sequence[int] = ()) -> tuple[Message, list[int]]:
        """Send ``message`` and take the answer.

        :raises ConnectionError: it was not read to its end: nothing can have come of it
        :raises EOFError: it may have been read; there is no answer :raises WharfError: the answer is an error
        """
        try:
            await self.send(message, fds)
        except (BrokenPipeError, ConnectionResetError) as error:
            try:
                # Refused before it was read to its end: the reason may be there all the same.
                return await self.receive()
            except (EOFError, OSError):
                raise error from None
        return await self.receive()


async def call_launcher(inst: Instance, *payloads: bytes) -> Line:
    """A connection to the launcher with the first messages on the way; a launcher is started where there is none.

    :raises Unavailable: none can be started
    """
    for _ in range(TRIES):
        line = Line(await _connect_launcher(inst))
        try:
            for payload in payloads:
                await line.send_payload(payload)
            return line
        except ConnectionError:  # it has left for being idle just when we came
            line.close()
        except BaseException:
            line.close()
            raise
    raise no_answer(inst)


async def ask_launcher(inst: Instance, op: str, **details: str) -> None:
    """Have the launcher do something; a new one is started where there is none or where it is of another version.

    :raises Unavailable: no launcher can be started
    """
    payload = opening(op, build_id()) + b", " + json.dumps(details)[1:].encode()
    for _ in range(TRIES):
        with await call_launcher(inst, payload) as line:
            try:
                answer, _ = await line.receive()
            except EOFError:
                return  # it was killed; what we asked for may have been done
            except ConnectionError:
                # The kernel says this only where a message was not read to its end (a connection that was never
                # accepted, above all), so that asking again repeats nothing.
                continue
        if not answer.get("retired"):
            return
    raise no_answer(inst)


def no_answer(inst: Instance) -> Unavailable:
    return _no_launcher(inst, f"it did not answer {TRIES} times")


async def _connect_launcher(inst: Instance) -> socket.socket:
    for _ in range(TRIES):
        try:
            return await connect(str(inst.launcher_socket))
        except (FileNotFoundError, ConnectionRefusedError):
            await asyncio.to_thread(_start_launcher, inst)
    raise _no_launcher(inst, f"it ended {TRIES} times before it could answer")


def _no_launcher(inst: Instance, why: str) -> Unavailable:
    """With the last line of its log, which mostly says it all."""
    path = inst.run / "launcher.log"
    try:
        with open(path, "rb") as log:
            log.seek(max(0, path.stat().st_size - 4096))
            lines = log.read().decode(errors="replace").split("\n")
    except OSError:
        lines = []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return Unavailable("the launcher cannot be started", f"{why}: {last}" if last else why, f"See {path}")


async def connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.setblocking(False)
    try:
        while True:
            try:
                sockets.connect(sock, path)
                return sock
            except BlockingIOError:  # too many wait to be accepted
                await asyncio.sleep(0.005)
    except BaseException:
        sock.close()
        raise


def _start_launcher(inst: Instance) -> None:
    """Bind the socket here, so that one can connect before the launcher is up, and start it with that."""
    with file_lock(inst.run / "launcher.lock"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                sockets.connect(listener, str(inst.launcher_socket))
                return  # another engine was faster
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            sockets.bind(listener, str(inst.launcher_socket))
            listener.listen(1024)
            _spawn_launcher(inst, listener.fileno())


def _spawn_launcher(inst: Instance, listener: int) -> None:
    home = str(Path(__file__).resolve().parents[2])
    call = f"main({listener}, {str(inst.run)!r}, {build_id()!r})"
    program = f"import sys; sys.path.insert(0, {home!r}); from core.supervise.launcher import main; {call}"
    python = sys.executable or "/usr/bin/python3"
    try:
        view = unwritable(python)
    except OSError as error:
        raise Unavailable(
            "the launcher cannot be started", f"mounting a view of {python}: {error.strerror}", "It needs root"
        ) from error
    try:
        with open(inst.run / "launcher.log", "ab") as log:
            process = subprocess.Popen(
                [python, "-I", "-S", "-c", program],
                executable=f"/proc/self/fd/{view}",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={"PATH": os.defpath, "LANG": "C.UTF-8"},
                pass_fds=(listener, view),
                start_new_session=True,
            )
        # It forks once all its code is read; the launcher itself is nobody's child.
        if code := process.wait():
            raise _no_launcher(inst, f"it ended with code {code}")
    finally:
        os.close(view)


@functools.cache
def build_id() -> str:
    """Names the code of this installation: a launcher of another build is replaced."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for room in ("", "kernel", "model", "store", "cgroups", "logs", "runtime", "supervise"):
        for path in sorted((package / room).glob("*.py")):
            status = path.stat()
            digest.update(f"{path} {status.st_mtime_ns} {status.st_size}\n".encode())
    return digest.hexdigest()[:16]
