"""The engine's side: start, watch and talk to containers. Asynchronous; everything else in this room is not.

What there is to know about a container that runs is in two small files (:func:`read_state`, :func:`read_exit`);
no request is needed for it, so that nothing can hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import itertools
import json
import os
import signal as signals
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path

from core.errors import Conflict, StartFailed, Unavailable, WharfError, from_dict
from core.kernel import mount, process
from core.store.lock import file_lock
from core.store.paths import Instance
from core.supervise import sockets
from core.supervise.protocol import (
    CHUNK,
    HEADER,
    JSON,
    MAX_FDS,
    MAX_FRAME,
    PROTOCOL,
    Launch,
    Message,
    Started,
    close_all,
    json_frame,
)
from core.supervise.records import ExitRecord, RunState, alive, load_exit, load_state, monitor_alive
from core.supervise.rundir import CONTROL
from core.supervise.session import AttachSession, ExecSession, ready

__all__ = [
    "AttachSession",
    "EngineSocket",
    "ExecSession",
    "ExitRecord",
    "Launch",
    "RunState",
    "Started",
    "adopt",
    "alive",
    "attached",
    "launch",
    "monitor_alive",
    "open_attach",
    "open_exec",
    "read_exit",
    "read_state",
    "signal",
    "tell_stopping",
    "wait_pid",
]

_COUNT = itertools.count()  # several engines may be open in one process
_TRIES = 5  # a launcher may leave or retire just when we connect


# -- files
def read_state(inst: Instance, cid: str) -> RunState | None:
    """What the monitor of a container has written down; None where there is none (or it is of another boot)."""
    return load_state(inst.container_run(cid))


def read_exit(inst: Instance, cid: str) -> ExitRecord | None:
    """How the container's last run ended; None where it never did."""
    return load_exit(inst.container_dir(cid) / "exit.json")


def signal(run: RunState, number: int) -> bool:
    """Send a signal to the container's first process, never to another that got its pid.

    :returns: False where it has ended
    """
    pidfd = process.open_pidfd(run.pid, run.pid_start) if run.pid else None
    if pidfd is None:
        return False
    try:
        signals.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


async def wait_pid(run: RunState, timeout: float | None) -> bool:
    """Wait until the container's first process has ended.

    :param timeout: seconds; None: for ever
    :returns: False where it still runs after that
    """
    pidfd = process.open_pidfd(run.pid, run.pid_start) if run.pid else None
    if pidfd is None:
        return True
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(timeout):
            await ended.wait()
        return True
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


# -- the launcher
async def launch(
    inst: Instance,
    request: Launch,
    *,
    netns_fd: int | None = None,
    attach: socket.socket | None = None,
    hold: Sequence[int] = (),
) -> Started:
    """Start a container: returns when its command has been executed.

    A cancelled call, or an engine that dies meanwhile, undoes the start.

    :param netns_fd: network namespace to join; None: as config.json says
    :param attach: the monitor's end of a socket pair (see :func:`attached`)
    :param hold: descriptors (port reservations) that the monitor keeps open while the container runs
    :raises StartFailed: nothing stays behind; CommandNotFound and CommandNotExecutable are told apart
    """
    named = [("netns", netns_fd)] if netns_fd is not None else []
    named += [("attach", attach.fileno())] if attach is not None else []
    named += [(f"hold{number}", fd) for number, fd in enumerate(hold)]
    message: Message = {"op": "launch", "launch": request.to_plain(), "fds": [name for name, _ in named]}
    line, answer = await _ask_launcher(inst, message, [fd for _, fd in named if fd is not None])
    with line:
        started = answer.get("started")
        if not isinstance(started, dict):
            raise StartFailed(
                "cannot start the container", "its monitor was killed", object_id=request.id, step="monitor"
            )
        # From here on the start stands, even if we are cancelled or die.
        with contextlib.suppress(OSError):  # it may have ended, and its monitor with it, by now
            await line.send({"ok": True})
        return Started(**started)


async def adopt(inst: Instance, cid: str) -> None:
    """Have a container whose monitor was killed taken over by a new one (a running launcher has done that already).

    :raises Unavailable: no launcher can be started
    """
    line, _ = await _ask_launcher(inst, {"op": "adopt", "id": cid, "run_dir": str(inst.container_run(cid))}, [])
    line.close()


async def _ask_launcher(inst: Instance, message: Message, fds: list[int]) -> tuple[Line, Message]:
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
            return await _connect(str(inst.launcher_socket))
        except (FileNotFoundError, ConnectionRefusedError):
            await asyncio.to_thread(_start_launcher, inst)


async def _connect(path: str) -> socket.socket:
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


# -- monitors
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


async def _call(inst: Instance, cid: str, message: Message, fds: Sequence[int] = ()) -> tuple[Line, Message, list[int]]:
    """Ask the monitor of a container. :raises Conflict: it has none"""
    try:
        line = Line(await _connect(str(inst.container_run(cid) / CONTROL)))
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise Conflict(
            f"container {cid[:12]} is not running", "it has no monitor", "Start it first", object_id=cid
        ) from error
    try:
        await line.send(message, fds)
        return (line, *await line.receive())
    except (EOFError, ConnectionError) as error:
        line.close()
        raise Unavailable("the monitor does not answer", "it has ended meanwhile", object_id=cid) from error
    except BaseException:
        line.close()
        raise


async def tell_stopping(inst: Instance, cid: str) -> None:
    """Have the monitor not start the container again when it ends. Without a monitor there is nothing to tell."""
    with contextlib.suppress(Conflict, Unavailable):
        line, _, _ = await _call(inst, cid, {"op": "stopping"})
        line.close()


async def attached(sock: socket.socket, *, tty: bool, stdin: bool) -> AttachSession:
    """A session on one end of a socket pair whose other end :func:`launch` was given as ``attach``.

    :param stdin: False: the input is ended at once
    """
    session = AttachSession(sock, tty=tty)
    if not stdin and not tty:
        await session.close_stdin()
    return session


async def open_attach(inst: Instance, cid: str, stdin: bool) -> AttachSession:
    """Attach to a running container. :raises Conflict: it does not run"""
    line, answer, _ = await _call(inst, cid, {"op": "attach", "stdin": stdin})
    return AttachSession(line.sock, tty=bool(answer["tty"]))


async def open_exec(inst: Instance, cid: str, own: dict[str, object], *, tty: bool, detach: bool) -> ExecSession:
    """Run an OCI ``process`` (:func:`core.runtime.spec.exec_process`) inside a running container.

    :raises Conflict: it does not run, or is paused
    :raises StartFailed: CommandNotFound and CommandNotExecutable are told apart
    """
    message: Message = {"op": "exec", "process": {**own, "terminal": tty}}
    if tty or detach:
        line, _, fds = await _call(inst, cid, message)
        if not tty:
            return ExecSession(line.sock, {}, None, tty=False)
        if detach:
            close_all(fds)  # nobody looks at that terminal; the command must not block on it
            return ExecSession(line.sock, {}, None, tty=True)
        return ExecSession(line.sock, {"stdout": fds[0]}, fds[0], tty=True)
    pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
    theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
    ours = [pipes[0][1], pipes[1][0], pipes[2][0]]
    try:
        line, _, _ = await _call(inst, cid, message, theirs)
    except BaseException:
        close_all(ours)
        raise
    finally:
        close_all(theirs)
    return ExecSession(line.sock, {"stdout": ours[1], "stderr": ours[2]}, ours[0], tty=False)


# -- the ends of containers
class EngineSocket:
    """``$RUN/engines/PID.sock``: monitors tell this engine of containers that have ended.

    :param handler: releases what the container with that id holds
    """

    def __init__(self, inst: Instance, handler: Callable[[str], Awaitable[None]]) -> None:
        self._path = inst.engines / f"{os.getpid()}.{next(_COUNT)}.sock"
        self._handler = handler
        self._tasks: set[asyncio.Task[None]] = set()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._sock.setblocking(False)

    async def start(self) -> None:
        sockets.bind(self._sock, str(self._path))
        self._sock.listen(1024)
        self._run(self._accept())

    async def close(self) -> None:
        """Let the work at hand finish; monitors that come later find another engine or clean up themselves."""
        self._path.unlink(missing_ok=True)
        self._sock.close()
        for task in list(self._tasks):
            if task.get_name() == "accept":
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _run(self, work: Coroutine[object, object, None], name: str = "accept") -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._sock)
            self._run(self._serve(sock), "exited")

    async def _serve(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with sock:
            try:
                message = json.loads(await loop.sock_recv(sock, CHUNK))
                await self._handler(str(message["id"]))
                await loop.sock_sendall(sock, b'{"ok": true}')
            except (OSError, ValueError, KeyError, WharfError):
                return  # without an answer the monitor turns to the next engine, or to the one-shot clean-up
