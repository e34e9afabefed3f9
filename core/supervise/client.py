"""The engine's side: start, watch and talk to containers. Asynchronous; everything else in this room is not.

What there is to know about a container that runs is in two small files (``read_state``, ``read_exit``);
no request is needed for it, so that nothing can hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal as signals
import socket
import time
from collections.abc import Mapping, Sequence

from core.errors import Conflict, InvalidArgument, Unavailable, Unsupported
from core.kernel import process
from core.model.container import RestartPolicy
from core.store.paths import Instance
from core.supervise.contact import Line, ask_launcher, connect
from core.supervise.exits import EngineSocket
from core.supervise.launching import Launching
from core.supervise.protocol import JOINED, OTHER_VERSION, SHM, Launch, Message, Started, close_all
from core.supervise.records import EXIT, ExitRecord, RunState, alive, monitor_goes_on, read_exit, read_state, write_exit
from core.supervise.rundir import CONTROL, is_held
from core.supervise.session import AttachSession, ExecSession

__all__ = [
    "JOINED",
    "SHM",
    "AttachSession",
    "EngineSocket",
    "ExecSession",
    "ExitRecord",
    "Launch",
    "Launching",
    "RunState",
    "Started",
    "adopt",
    "alive",
    "attached",
    "await_monitor_left",
    "deliver",
    "freeze",
    "hold",
    "monitor_goes_on",
    "open_attach",
    "open_exec",
    "read_exit",
    "read_state",
    "reserve",
    "reserve_only",
    "resolve",
    "secure_exit",
    "signal",
    "tell_stopping",
    "update",
    "wait_pid",
]


_REPLACED = 3.0  # seconds until a monitor that was killed has a successor


# -- files
def secure_exit(inst: Instance, cid: str) -> bool:
    """Before the run folder goes: bring an exit record that is only there (its disk was full) to its place.

    :returns: False where that cannot be written yet: the folder must stay
    """
    folder, home = inst.container_run(cid), inst.container_dir(cid)
    if (folder / EXIT).exists() and home.is_dir():
        record = read_exit(inst, cid)
        try:
            if record is not None:
                write_exit(str(home / "exit.json"), record)
        except OSError:
            return False
    return True


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


async def deliver(inst: Instance, cid: str, run: RunState, number: int) -> bool:
    """:func:`signal`, the way that the container's runtime wants it: another one is asked, by the monitor.

    :raises Unavailable: the monitor does not answer (SIGKILL needs none)
    :raises Conflict: the runtime refuses
    """
    if run.external:
        try:
            await _ask_monitor(inst, cid, {"op": "signal", "number": number})
            return True
        except (Conflict, Unavailable):
            if number != signals.SIGKILL and alive(run):
                raise
    return signal(run, number)


async def freeze(inst: Instance, cid: str, on: bool) -> None:
    """Pause or resume a container of another runtime. :raises Conflict: it refuses :raises Unavailable:"""
    await _ask_monitor(inst, cid, {"op": "freeze", "on": on})


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


async def await_monitor_left(inst: Instance, cid: str, timeout: float = 2.0) -> None:
    """Wait until the monitor of a container that has ended lets go of cgroup and run folder: it must not meet the next
    start's. One that cannot write the exit record down stays, and is not waited for.

    :param timeout: seconds
    """
    folder = inst.container_run(cid)
    end = time.monotonic() + timeout
    while is_held(str(folder)) and not (folder / EXIT).exists():
        if time.monotonic() > end:
            return
        await asyncio.sleep(0.001)


# -- the launcher
async def adopt(inst: Instance, cid: str) -> None:
    """Have a container whose monitor was killed taken over by a new one (a running launcher has done that already).

    :raises Unavailable: no launcher can be started
    """
    await ask_launcher(inst, "adopt", id=cid, run_dir=str(inst.container_run(cid)))


# -- monitors
async def _call(inst: Instance, cid: str, message: Message, fds: Sequence[int] = ()) -> tuple[Line, Message, list[int]]:
    """Ask the monitor of a container. :raises Conflict: it has none"""
    try:
        line = Line(await connect(str(inst.container_run(cid) / CONTROL)))
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise Conflict(
            f"container {cid[:12]} is not running", "it has no monitor", "Start it first", object_id=cid
        ) from error
    try:
        return (line, *await line.ask(message, fds))
    except (EOFError, ConnectionError) as error:
        line.close()
        raise Unavailable("the monitor does not answer", "it has ended meanwhile", object_id=cid) from error
    except BaseException:
        line.close()
        raise


async def _ask_monitor(inst: Instance, cid: str, message: Message, fds: Sequence[int] = ()) -> None:
    """A monitor that was killed is replaced within moments: then the next one is asked.

    :raises Unsupported: it is of an earlier version of this program, and knows no such request
    """
    end = time.monotonic() + _REPLACED
    while True:
        try:
            (await _call(inst, cid, message, fds))[0].close()
            return
        except Unavailable:
            pass
        except Conflict:
            state = read_state(inst, cid)
            if state is None or monitor_goes_on(state):
                raise
        except InvalidArgument as error:
            if error.why != OTHER_VERSION:
                raise
            raise Unsupported(
                f"container {cid[:12]} cannot be changed in that way while it runs",
                "another version of wharf has started it, and its monitor does not know how",
                "Restart the container: wharf restart",
                object_id=cid,
            ) from error
        if time.monotonic() > end:
            raise Unavailable(f"the monitor of container {cid[:12]} does not answer", "it was killed", object_id=cid)
        await asyncio.sleep(0.05)


async def hold(inst: Instance, cid: str, *, ending: bool) -> tuple[Line, Message]:
    """As long as the line is open nothing new is run inside: no exec, no health check.

    :param ending: nor is the container started again, should it end meanwhile
    :returns: the line and what the monitor says: ``input_ended``
    :raises Conflict: it does not run, or commands run in it
    """
    line, answer, _ = await _call(inst, cid, {"op": "hold", "ending": ending})
    return line, answer


async def tell_stopping(inst: Instance, cid: str) -> None:
    """Have the monitor not start the container again when it ends. Without a monitor there is nothing to tell."""
    with contextlib.suppress(Conflict, Unavailable):
        line, _, _ = await _call(inst, cid, {"op": "stopping"})
        line.close()


async def update(inst: Instance, cid: str, resources: dict[str, object], restart: RestartPolicy) -> None:
    """Have the monitor start the container with other limits, and by another policy, from now on.

    :param resources: ``linux.resources``
    :raises Conflict: it has no monitor
    :raises Unavailable: the monitor has ended meanwhile
    """
    message: Message = {"op": "update", "resources": resources, "restart": vars(restart)}
    line, _, _ = await _call(inst, cid, message)
    line.close()


async def reserve(
    inst: Instance,
    cid: str,
    sockets: Mapping[str, socket.socket],
    drop: Sequence[str] = (),
    serve: Sequence[Message] = (),
) -> None:
    """Have the monitor keep these sockets, and let go of those that are called so.

    :param serve: all that its proxy is to listen on from now on
    :raises Conflict: it has no monitor
    :raises Unavailable: the monitor has ended meanwhile
    """
    if sockets or drop or serve:
        message: Message = {"op": "ports", "fds": list(sockets), "drop": list(drop), "serve": list(serve)}
        await _ask_monitor(inst, cid, message, [sock.fileno() for sock in sockets.values()])


async def reserve_only(inst: Instance, cid: str, names: Sequence[str], serve: Sequence[Message]) -> None:
    """Have the monitor let go of all reservations but these. As :func:`reserve` otherwise."""
    message: Message = {"op": "ports", "fds": [], "drop": [], "only": list(names), "serve": list(serve)}
    await _ask_monitor(inst, cid, message)


async def resolve(inst: Instance, cid: str) -> None:
    """Have the monitor of a running container serve names: it is on a user-defined network from now on.

    Its file is to be there (:func:`core.dns.zone.container_file`). One that serves already goes on with that.

    :raises Conflict: it has no monitor
    :raises Unavailable: the monitor has ended meanwhile
    :raises WharfError: the kernel cannot do it
    """
    await _ask_monitor(inst, cid, {"op": "resolve"})


async def attached(sock: socket.socket, *, tty: bool, stdin: bool) -> AttachSession:
    """A session on one end of a socket pair whose other end :meth:`Launching.go` was given as ``attach``.

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
