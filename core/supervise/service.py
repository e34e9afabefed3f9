"""What a monitor does on request: attach, exec, stop restarting; and the health checks of its container."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from typing import TYPE_CHECKING, cast

from core.errors import Conflict, StartFailed, Unavailable
from core.runtime.defaults import Json
from core.supervise.child import Process
from core.supervise.control import Control
from core.supervise.health import Health
from core.supervise.protocol import HELD, OWN, Launch, Message, close_all, send
from core.supervise.restart import Restarts

if TYPE_CHECKING:
    from core.supervise.monitor import Monitor
    from core.supervise.proxy import Order


class Service:
    """The requests of ``ctl.sock`` (see :mod:`core.supervise.protocol`), answered for one monitor."""

    def __init__(self, monitor: Monitor, path: str) -> None:
        self._monitor = monitor
        handlers = {
            "attach": self._attach,
            "stopping": self._stopping,
            "keep": self._keep,
            "update": self._update,
            "hold": self._hold,
            "resolve": self._resolve,
            **monitor.runtime.requests,
        }
        self.control = Control(monitor.loop, path, handlers, self._start_exec, self._ports)
        check = monitor.launch.healthcheck
        self._holders: set[socket.socket] = set()
        self.health: Health | None = None
        if check is not None and check.test[0] in ("CMD", "CMD-SHELL"):
            self.health = Health(monitor.loop, check, self._start_check, self._health_changed)

    def _attach(self, message: Message, sock: socket.socket) -> bool:
        launch = self._monitor.launch
        send(sock, {"ok": True, "tty": launch.tty})
        self._monitor.pump.add(sock, stdin=bool(message.get("stdin")) and launch.stdin_open)
        return True

    def _stopping(self, message: Message, sock: socket.socket) -> bool:
        monitor = self._monitor
        monitor.stopping = True
        monitor.state = monitor.state._replace(stopping=True)  # written down: another monitor would restart it
        monitor.save()
        send(sock, {"ok": True})
        if monitor.state.status == "restarting":
            monitor.loop.after(0, monitor.finish)
        return False

    def _hold(self, message: Message, sock: socket.socket) -> bool:
        monitor = self._monitor
        if monitor.pidfd < 0:
            raise Conflict("cannot checkpoint the container", "it waits for its next start")
        if self.control.busy:
            raise Conflict("cannot checkpoint the container", "commands run in it (exec)", "Let them end first")
        if self.health and not self._holders:
            self.health.stop()
        self._holders.add(sock)
        before, monitor.stopping = monitor.stopping, monitor.stopping or bool(message.get("ending"))
        ended = monitor.launch.stdin_open and not monitor.launch.tty and "stdin" not in monitor.kept
        send(sock, {"input_ended": ended})
        monitor.loop.watch(sock.fileno(), lambda events: self._release(sock, before))
        return True

    def _release(self, sock: socket.socket, stopping: bool) -> None:
        monitor = self._monitor
        monitor.loop.unwatch(sock.fileno())
        self._holders.discard(sock)
        sock.close()
        if monitor.state.stopping:
            return
        monitor.stopping = stopping
        if self.health and not self._holders and monitor.pidfd >= 0:
            self.health.resume(monitor.state.health, monitor.state.failing_streak)

    def _keep(self, message: Message, sock: socket.socket) -> bool:
        """By a new launcher, which hears of all that changes from now on."""
        monitor = self._monitor
        send(sock, {"names": list(monitor.kept), "pid": monitor.state.pid}, list(monitor.kept.values()))
        monitor.store.close()
        monitor.store = sock
        sock.settimeout(None)
        return True

    def _ports(self, message: Message, fds: list[int]) -> None:
        kept = self._monitor.kept
        for name, fd in zip(cast("list[str]", message["fds"]), fds, strict=True):
            if name not in kept:
                kept[name] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)
        gone = set(cast("list[str]", message["drop"]))
        if "only" in message:
            gone |= {name for name in kept if name.startswith(HELD)} - set(cast("list[str]", message["only"]))
        closed = [kept.pop(name) for name in gone & kept.keys()]
        own = {name for name in kept if name.startswith(OWN)}
        try:
            self._monitor.carriers.serve(cast("list[Order]", message["serve"]))
        finally:
            close_all(closed)
        # Who is told that a port is closed may take it for another program.
        self._monitor.give_to_launcher(settled=bool(closed or own - kept.keys()))

    def _resolve(self, message: Message, sock: socket.socket) -> bool:
        try:
            self._monitor.serve_names(make=True)
        except OSError as error:
            raise Unavailable("cannot give the container a resolver", str(error), "See: wharf doctor") from error
        send(sock, {"ok": True})
        return False

    def _update(self, message: Message, sock: socket.socket) -> bool:
        """Of the container that runs, the engine has changed the limits itself; this is for the next start."""
        monitor = self._monitor
        plain: Message = {**monitor.launch.to_plain(), "restart": message["restart"]}
        launch = Launch.from_plain(plain)
        if launch.restart != monitor.launch.restart:
            if monitor.rundir is not None:
                monitor.rundir.save_launch(json.dumps(plain).encode())  # first: it may fail, on a full disk
            monitor.launch, monitor.restarts = launch, Restarts(launch.restart, monitor.restarts.count)
        linux = monitor.config["linux"]
        assert isinstance(linux, dict)
        linux["resources"] = message["resources"]
        send(sock, {"ok": True})
        return False

    def _start_exec(self, own: Json, stdio: tuple[int, int, int] | None) -> Process:
        monitor = self._monitor
        if monitor.pidfd < 0:
            raise StartFailed("cannot run a command in the container", "it is not running")
        if self._holders:
            raise Conflict("cannot run a command in the container", "a checkpoint of it is being made", "Try again")
        null = -1
        if stdio is None and not own.get("terminal"):
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            stdio = (null, null, null)
        try:
            first = monitor.state.pid, monitor.pidfd
            return monitor.runtime.execute(first, own, stdio)
        finally:
            if null >= 0:
                os.close(null)

    def _start_check(self, argv: tuple[str, ...], stdio: tuple[int, int, int]) -> Process:
        own = self._monitor.config["process"]
        assert isinstance(own, dict)
        annotations = self._monitor.config.get("annotations", {})
        return self._start_exec({**own, "args": list(argv), "terminal": False, "annotations": annotations}, stdio)

    def _health_changed(self, status: str, failures: int, output: str) -> None:
        monitor = self._monitor
        told = monitor.state.health
        monitor.state = monitor.state._replace(health=status, failing_streak=failures, health_output=output)
        monitor.save()
        if status != told and status != "starting":
            monitor.tell(f"health_status: {status}")
