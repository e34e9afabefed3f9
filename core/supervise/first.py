"""The first start of a container, which an engine waits for."""

from __future__ import annotations

import json
import socket
from typing import cast

from core.errors import StartFailed, WharfError
from core.kernel import process
from core.runtime.defaults import Json
from core.supervise import tasks
from core.supervise.child import Process
from core.supervise.monitor import Monitor, typed
from core.supervise.protocol import Launch, Message, Started, receive, send
from core.supervise.records import write_state
from core.supervise.rundir import RunDir


def start(plain: bytes, reply: socket.socket, line: socket.socket) -> Monitor:
    """Bring the container up and answer the engine.

    The engine makes files and network while this process gets as far as the cgroup. Then nothing stands before the fork
    that can as well be done after it: the new process sets itself up on another processor.

    :param plain: the launch as JSON
    :param reply: the engine's connection
    :param line: to the launcher
    :raises WharfError: nothing is left behind
    """
    launch = Launch.from_plain(json.loads(plain))
    try:
        rundir = RunDir(launch.run_dir)
        rundir.clear()
        rundir.make_fifos()
        config, kept, runtime = _get_ready(launch, rundir, reply)
        child, outputs = _begin(launch, rundir, reply, kept, runtime)
    except OSError as error:
        raise typed(error) from error
    monitor, attach = Monitor(launch, line, config, kept, runtime), kept.pop("attach", None)

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


def _get_ready(launch: Launch, rundir: RunDir, reply: socket.socket) -> tuple[Json, dict[str, int], tasks.Runtime]:
    try:
        kept: dict[str, int] = {}
        config = cast(Json, _hear(reply)[0]["config"])
        runtime = tasks.runtime(launch, config, kept)
        runtime.prepare()
        return config, kept, runtime
    except BaseException:
        rundir.remove()
        raise


def _begin(
    launch: Launch, rundir: RunDir, reply: socket.socket, kept: dict[str, int], runtime: tasks.Runtime
) -> tuple[Process, dict[int, int]]:
    """The first process on its way, once the engine says that all else is there: then ``kept`` gets its descriptors."""
    try:
        while "fds" not in (orders := _hear(reply))[0]:
            tasks.make_namespaces(*orders, reply)
        message, fds = orders
        kept.update(zip(cast("list[str]", message["fds"]), fds, strict=True))
        return tasks.begin(runtime, launch, rundir, kept)
    except BaseException:
        runtime.clear()
        rundir.remove()
        raise


def _hear(reply: socket.socket) -> tuple[Message, list[int]]:
    try:
        return receive(reply)
    except EOFError:
        raise StartFailed("cannot start the container", "the engine has given it up", step="monitor") from None


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
