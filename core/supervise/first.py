"""The first start of a container, which an engine waits for."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
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
    plain: bytes, reply: socket.socket, line: socket.socket, starter: Starter | None = None, *, note_pages: bool = False
) -> Monitor:
    """Bring the container up and answer the engine.

    The engine makes files and network while this process gets as far as the cgroup. Then nothing stands before the fork
    that can as well be done after it: the new process sets itself up on another processor, and needs no more of the
    network than its namespace for that; the rest may come while it is at it.

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
        orders = Orders(reply, kept)
        child, outputs = _begin(launch, rundir, orders, runtime, lambda: orders.hear_rest(monitor))
    except OSError as error:
        raise typed(error) from error
    monitor = Monitor(launch, line, config, kept, runtime)

    def meanwhile() -> None:
        process.set_title(title_of(launch))
        monitor.enter(rundir)
        rundir.save_launch(plain)
        if orders.whole:
            orders.serve(monitor)

    try:
        monitor.follow(child, outputs, reply, None, meanwhile)
        _announce(monitor, rundir, reply)
    except (OSError, WharfError) as error:
        monitor.rundir = rundir
        monitor.undo()
        raise typed(error) from error
    # The engine has its answer; what it need not wait for comes after it.
    monitor.attend(memory.written() if note_pages else ())
    child.bury()
    monitor.loop.watch(reply.fileno(), lambda events: _confirmed(monitor, reply))
    return monitor


def _announce(monitor: Monitor, rundir: RunDir, reply: socket.socket) -> None:
    """It runs: all that who hears of it may look at or rely on, then the answer."""
    # Whoever has the answer may kill this process, and the next one needs the terminal and the ports.
    monitor.give_to_launcher(starting=True)
    monitor.start_health()
    # Whoever is told that it runs can also see it. A start without it fails.
    write_state(rundir.path, monitor.state)
    # Here, not in the engine: this process tells the end as well, so that the two never change places.
    monitor.tell("start")
    send(reply, {"started": {name: getattr(monitor.state, name) for name in Started._fields}})


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
        if not rundir.fresh:
            runtime.clear(kill=True)  # that monitor had begun
        runtime.prepare()
        if starter is not None:
            starter.tell(b"{}")
        return config, kept, runtime
    except BaseException:
        rundir.remove()
        raise


class Orders:
    """What the engine says once it has what the container needs of it: at once, or first what its first process begins
    with.

    :param kept: gets the descriptors
    """

    def __init__(self, reply: socket.socket, kept: dict[str, int]) -> None:
        self._reply = reply
        self.kept = kept
        self._ports: list[Order] = []
        self.whole = False  # all is said

    def hear(self) -> None:
        """:raises StartFailed: the engine has given it up"""
        while not ({"ahead", "fds"} & (message := self._next()).keys()):
            tasks.make_namespaces(message, self._given, self._reply)
        self._take(message)

    def hear_rest(self, monitor: Monitor) -> None:
        """:raises StartFailed: the engine has given it up"""
        self._take(self._next())
        self.serve(monitor)

    def _next(self) -> Message:
        payload, self._given = _hear(self._reply)
        return cast(Message, json.loads(payload))

    def _take(self, message: Message) -> None:
        self.whole = "fds" in message
        for name, fd in zip(cast("list[str]", message["fds" if self.whole else "ahead"]), self._given, strict=True):
            if self.kept.setdefault(name, fd) != fd:
                os.close(fd)  # it was said ahead
        self._ports = cast("list[Order]", message.get("ports", []))
        if self.whole and uplink.LINE in self.kept:
            with socket.socket(fileno=os.dup(self.kept[uplink.LINE])) as line:
                uplink.await_ready(line)

    def serve(self, monitor: Monitor) -> None:
        """Do for the container what takes all of it, before anybody is told that it runs."""
        monitor.carriers.take(self._ports)
        monitor.open_control()
        attach = self.kept.pop("attach", None)
        if attach is not None:
            monitor.pump.add(socket.socket(fileno=attach), stdin=monitor.launch.stdin_open, lossless=True)


def _begin(
    launch: Launch, rundir: RunDir, orders: Orders, runtime: tasks.Runtime, rest: Callable[[], None]
) -> tuple[Process, dict[int, int]]:
    """The first process on its way, once the engine says that what it begins with is there.

    :returns: what :func:`core.supervise.tasks.begin` does
    """
    try:
        rundir.make_fifos()
        orders.hear()
        return tasks.begin(runtime, launch, rundir, orders.kept, None if orders.whole else rest)
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
    try:
        if not confirmed and not monitor.finished:
            monitor.undo()
            monitor.loop.stop()
    finally:
        reply.close()  # not before: who has given the start up waits until it is undone
