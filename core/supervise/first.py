"""The first start of a container, which an engine waits for."""

from __future__ import annotations

import json
import socket
from typing import cast

from core.errors import StartFailed, WharfError
from core.kernel import process
from core.runtime.defaults import Json
from core.runtime.task import Filter
from core.supervise import spawn, tasks
from core.supervise.child import Process
from core.supervise.monitor import Monitor, typed
from core.supervise.protocol import Launch, Started, receive, send
from core.supervise.records import write_state
from core.supervise.rundir import RunDir


def start(plain: bytes, reply: socket.socket, line: socket.socket) -> Monitor:
    """Bring the container up and answer the engine.

    The engine makes cgroup, files and network while this process gets here. Then nothing stands before the fork that
    can as well be done after it: the new process sets itself up on another processor.

    :param plain: the launch as JSON
    :param reply: the engine's connection
    :param line: to the launcher
    :raises WharfError: nothing is left behind
    """
    launch = Launch.from_plain(json.loads(plain))
    try:
        rundir = RunDir(launch.run_dir)
        rundir.clear()
        config, seccomp, kept = _orders(launch, rundir, reply)
        attach = kept.pop("attach", None)
        runtime = tasks.runtime(launch, config, seccomp, kept)
        child, outputs = _begin(runtime, launch, rundir, kept)
    except OSError as error:
        raise typed(error) from error
    monitor = Monitor(launch, line, config, kept, runtime)

    def meanwhile() -> None:
        process.set_title(title_of(launch))
        monitor.enter(rundir)
        rundir.save_launch(plain)
        monitor.open_control()
        if attach is not None:
            monitor.pump.add(socket.socket(fileno=attach), stdin=launch.stdin_open, lossless=True)

    try:
        monitor.follow(child, outputs, reply, None, meanwhile)
        monitor.start_health()
        # The state before the answer: whoever is told that it runs can also see it. A start without it fails.
        write_state(rundir.path, monitor.state)
        # Here, not in the engine: this process tells the end as well, so that the two never change places.
        monitor.tell("start")
        send(reply, {"started": {name: getattr(monitor.state, name) for name in Started._fields}})
    except (OSError, WharfError) as error:
        monitor.rundir = rundir
        monitor.undo()
        raise typed(error) from error
    # The engine has its answer; what it need not wait for comes after it.
    monitor.attend()
    monitor.loop.watch(reply.fileno(), lambda events: _confirmed(monitor, reply))
    return monitor


def title_of(launch: Launch) -> str:
    return f"wharf-monitor {launch.id}"


def _orders(launch: Launch, rundir: RunDir, reply: socket.socket) -> tuple[Json, Filter, dict[str, int]]:
    """The engine has made what the container needs, and says with which configuration and descriptors it is started.

    Until then the cgroup is the engine's, and, if that has gone, perhaps the next one's already.
    """
    try:
        rundir.make_fifos()
        message, fds = receive(reply)
        if "ids" in message:
            tasks.make_namespaces(message, fds, reply)
            message, fds = receive(reply)
        kept = dict(zip(cast("list[str]", message["fds"]), fds, strict=True))
        config = cast(Json, message["config"])
        return config, spawn.read_filter(launch.bundle, config), kept
    except EOFError:
        rundir.remove()
        raise StartFailed("cannot start the container", "the engine has given it up", step="monitor") from None
    except BaseException:
        rundir.remove()
        raise


def _begin(
    runtime: tasks.Runtime, launch: Launch, rundir: RunDir, kept: dict[str, int]
) -> tuple[Process, dict[int, int]]:
    try:
        return tasks.begin(runtime, launch, rundir, kept)
    except BaseException:
        runtime.clear()
        rundir.remove()
        raise


def _confirmed(monitor: Monitor, reply: socket.socket) -> None:
    """The engine has noted the start down; or it has gone, and the start with it."""
    monitor.loop.unwatch(reply.fileno())
    try:
        confirmed = bool(reply.recv(4096))
    except OSError:
        confirmed = False
    reply.close()
    if not confirmed and not monitor.finished:
        monitor.undo()
        monitor.loop.stop()
