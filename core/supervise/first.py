"""The first start of a container, which an engine waits for."""

from __future__ import annotations

import json
import os
import socket
from typing import cast

from core.errors import StartFailed, WharfError
from core.kernel import memory, process
from core.runtime.defaults import Json
from core.supervise import tasks, uplink
from core.supervise.child import Process
from core.supervise.monitor import Monitor, typed
from core.supervise.protocol import Launch, Message, Started, receive_payload, send
from core.supervise.proxy import Order
from core.supervise.records import write_state
from core.supervise.rundir import RunDir
from core.supervise.starter import Starter, told


def start(
    plain: bytes,
    reply: socket.socket,
    line: socket.socket,
    starter: Starter | None = None,
    *,
    note_pages: bool = False,
) -> Monitor:
    """Bring the container up and answer the engine.

    The engine makes files and network while this process gets as far as the cgroup. Then nothing stands before the fork
    that can as well be done after it: the new process sets itself up on another processor.

    :param plain: the launch as JSON
    :param reply: the engine's connection
    :param line: to the launcher
    :param starter: made beforehand
    :param note_pages: tell the launcher which pages of memory this takes
    :raises WharfError: nothing is left behind
    """
    payload, _ = _hear(reply)
    if starter is not None:
        starter.tell(plain)
        starter.tell(payload)
    launch = Launch.from_plain(json.loads(plain))
    try:
        rundir = RunDir(launch.run_dir)
        rundir.clear()
        config, kept, runtime = _get_ready(launch, rundir, payload, starter)
        ports, (child, outputs) = _begin(launch, rundir, reply, kept, runtime)
    except OSError as error:
        raise typed(error) from error
    monitor, attach = Monitor(launch, line, config, kept, runtime, ports), kept.pop("attach", None)

    def meanwhile() -> None:
        process.set_title(title_of(launch))
        monitor.enter(rundir)
        rundir.save_launch(plain)
        monitor.carriers.note()
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
    monitor.attend(memory.written() if note_pages else ())
    child.bury()
    monitor.loop.watch(reply.fileno(), lambda events: _confirmed(monitor, reply))
    return monitor


def title_of(launch: Launch) -> str:
    return f"wharf-monitor {launch.id}"


def _get_ready(
    launch: Launch, rundir: RunDir, payload: bytes, starter: Starter | None
) -> tuple[Json, dict[str, int], tasks.Runtime]:
    try:
        kept: dict[str, int] = {}
        if launch.uplink:  # while the engine makes the container's network
            kept[uplink.LINE] = uplink.join(launch.uplink).detach()
        config, seccomp = told(payload)
        runtime = tasks.runtime(launch, config, kept, starter, seccomp)
        runtime.prepare()
        if starter is not None:
            starter.tell(b"{}")
        return config, kept, runtime
    except BaseException:
        rundir.remove()
        raise


def _begin(
    launch: Launch, rundir: RunDir, reply: socket.socket, kept: dict[str, int], runtime: tasks.Runtime
) -> tuple[list[Order], tuple[Process, dict[int, int]]]:
    """The first process on its way, once the engine says that all else is there: then ``kept`` gets its descriptors.

    :returns: ports for a proxy, and what :func:`core.supervise.tasks.begin` does
    """
    try:
        rundir.make_fifos()
        while "fds" not in (message := cast(Message, json.loads((orders := _hear(reply))[0]))):
            tasks.make_namespaces(message, orders[1], reply)
        fds = orders[1]
        kept.update(zip(cast("list[str]", message["fds"]), fds, strict=True))
        if uplink.LINE in kept:
            with socket.socket(fileno=os.dup(kept[uplink.LINE])) as line:
                uplink.await_ready(line)
        ports = cast("list[Order]", message.get("ports", []))
        return ports, tasks.begin(runtime, launch, rundir, kept)
    except BaseException:
        runtime.clear()
        rundir.remove()
        raise


def _hear(reply: socket.socket) -> tuple[bytes, list[int]]:
    """The engine's next message, as it came, and its descriptors."""
    try:
        return receive_payload(reply)
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
