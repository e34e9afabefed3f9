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
from core.kernel import mount
from core.store.lock import file_lock
from core.store.paths import Instance
from core.supervise import sockets
from core.supervise.protocol import HEADER, JSON, MAX_FDS, MAX_FRAME, PROTOCOL, Message, close_all, json_frame
from core.supervise.session import ready

_TRIES = 5  # a launcher may leave or retire just when we connect


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
        data = json_frame(message)
        sent = socket.send_fds(self.sock, [data], list(fds)) if fds else 0
        await asyncio.get_running_loop().sock_sendall(self.sock, data[sent:])

    async def receive(self) -> tuple[Message, list[int]]:
        """The next message and its descriptors.

        :raises EOFError: the other side has closed :raises WharfError: it answered with an error
        """
        fds: list[int] = []
        try:
            # No more than this frame: what follows it belongs to whoever takes the connection over.
            kind, length = HEADER.unpack(await self._exactly(HEADER.size, fds))
            if kind != JSON or length > MAX_FRAME:
                raise Unavailable("broken message", f"frame of kind {kind} with {length} bytes")
            message: Message = json.loads(await self._exactly(length, fds))
            error = message.get("error")
            if isinstance(error, dict):
                raise from_dict(error)
            return message, fds
        except BaseException:
            close_all(fds)
            raise

    async def _exactly(self, count: int, fds: list[int]) -> bytes:
        data = b""
        while len(data) < count:
            await ready(self.sock.fileno(), write=False)
            part, more, _, _ = socket.recv_fds(self.sock, count - len(data), MAX_FDS, socket.MSG_CMSG_CLOEXEC)
            fds += more
            if not part:
                raise EOFError
            data += part
        return data


async def ask_launcher(inst: Instance, message: Message, fds: list[int]) -> tuple[Line, Message]:
    """Ask the launcher, starting one where there is none or where it is of another version.

    :returns: the open connection and the answer; an empty one where the monitor was killed before it could answer
    """
    for _ in range(_TRIES):
        line = Line(await _connect_launcher(inst))
        try:
            await line.send({**message, "protocol": PROTOCOL, "build": build_id()}, fds)
            answer, _ = await line.receive()
        except EOFError:
            return line, {}
        except (ConnectionError, BrokenPipeError):
            line.close()  # it left for being idle just when we came
            continue
        except BaseException:
            line.close()
            raise
        if not answer.get("retired"):
            return line, answer
        line.close()
    raise Unavailable("the launcher does not answer", f"tried {_TRIES} times", f"See {inst.run / 'launcher.log'}")


async def _connect_launcher(inst: Instance) -> socket.socket:
    while True:
        try:
            return await connect(str(inst.launcher_socket))
        except (FileNotFoundError, ConnectionRefusedError):
            await asyncio.to_thread(_start_launcher, inst)


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
    code = f"import sys; sys.path.insert(0, {home!r}); from core.supervise.launcher import main; {call}"
    python = sys.executable or "/usr/bin/python3"
    view = read_only_view(python)
    try:
        with open(inst.run / "launcher.log", "ab") as log:
            process = subprocess.Popen(
                [python, "-I", "-S", "-c", code],
                executable=f"/proc/self/fd/{view}",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={"PATH": os.defpath, "LANG": "C.UTF-8"},
                pass_fds=(listener, view),
                start_new_session=True,
            )
        process.wait()  # it forks at once; the launcher itself is nobody's child
    finally:
        os.close(view)


def read_only_view(path: str) -> int:
    """A detached, read-only mount of one file.

    The interpreter is executed through it: an init that a container gets hold of by ``/proc/self/exe`` before or
    during its exec leads to this mount, and never to a way to write the host's binary (CVE-2019-5736).
    """
    view = mount.clone_tree(os.path.realpath(path))
    mount.set_attributes(view, mount.ATTR_RDONLY | mount.ATTR_NOSUID)
    return view


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
