"""The monitor's end of the userland proxy (:mod:`core.supervise.proxy`): forks it, tells it its ports, replaces it.

There is none before somebody calls: until then the monitor has the listening sockets of TCP in its own loop. Most
containers with ports are never called by ``[::1]``, and a process costs three megabytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, cast

from core.kernel import libc, netns, process
from core.supervise import proxy, uplink
from core.supervise.copies import SETTLED, until_settled
from core.supervise.protocol import OWN, send

if TYPE_CHECKING:
    from core.supervise.monitor import Monitor

FILE = "ports.json"  # in the run folder: for a monitor that comes after everything was killed
_LINE, _PIDFD = "proxy-line", "proxy-pidfd"  # among the monitor's descriptors
_FEW = 32  # ports whose sockets a monitor makes itself, until somebody calls
_PAUSE, _LONGEST = 0.1, 5.0  # seconds before one that has ended is replaced; doubled where it fails again and again
_STEADY = 10.0  # seconds: who has lived that long did not fail at once
_DYING = 1.0  # seconds that one may take to go after SIGKILL: its ports are free then
_TOLD = 3  # the failure in a row of which an event tells
_WHY = 300  # bytes of what it was


class Proxying:
    """The proxy of one container, if it needs one. Its line is kept where the container's other descriptors are: it
    lives on when the monitor is replaced."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._orders: list[proxy.Order] = []
        self._closed = False
        self._armed: list[int] = []
        self._since = -_STEADY  # when it was forked, by the monotonic clock; before this monitor's time
        self._failures = 0  # in a row

    def serve(self, orders: Sequence[proxy.Order]) -> None:
        """All that it is to listen on from now on."""
        if list(orders) == self._orders:
            return
        gone = [order for order in self._orders if order not in orders]
        self._orders = list(orders)
        with contextlib.suppress(OSError):
            self._save()
        if _PIDFD in self._monitor.kept:
            self._tell(settled=bool(gone))
        else:
            self._arm()

    def take(self, orders: Sequence[proxy.Order]) -> None:
        """Its ports, before anybody is told that the container runs: this monitor may be killed the moment after.

        :param orders: each with the ``name`` of its listening socket among the monitor's descriptors, with
            ``protocol``, ``target`` and ``bind``, an address and a port
        """
        self._orders = list(orders)
        if orders:
            with contextlib.suppress(OSError):  # a full disk: a monitor after this one and the launcher will not know
                self._save()

    def start(self) -> None:
        """For a container that has just been started, or started again."""
        if self._orders and _PIDFD not in self._monitor.kept:
            self._arm()

    def resume(self) -> None:
        """For one whose monitor was killed."""
        kept = self._monitor.kept
        self._orders = _load(self._path)
        if _PIDFD in kept and _LINE in kept:
            self._monitor.loop.watch(kept[_PIDFD], lambda events: self._ended())
        else:
            self._arm()

    def close(self) -> None:
        """The container has ended; the proxy sees it by its line, of which the launcher has the other copy."""
        self._closed = True
        self._disarm()
        pidfd = self._monitor.kept.get(_PIDFD)
        if pidfd is not None:
            self._monitor.loop.unwatch(pidfd)
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            self._reap(pidfd)

    def _arm(self) -> None:
        """Wait for the first caller. Not with many ports, of which each is a descriptor; nor with datagrams: those that
        came before the proxy is there might be more than their socket holds. Who brings this about gives the launcher
        its copies afterwards, with all others."""
        self._disarm()
        if not self._orders:
            return
        kept = self._monitor.kept
        self._bind()
        datagrams = any(order["protocol"] == "udp" for order in self._orders)
        if datagrams or any(order["name"] not in kept for order in self._orders):
            self._replace()
            return
        for order in self._orders:
            fd = kept[str(order["name"])]
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
                with contextlib.suppress(OSError):  # one that is ours alone has none
                    sock.setsockopt(socket.SOL_SOCKET, proxy.DETACH_FILTER, 0)
                sock.listen(proxy.BACKLOG)
            self._monitor.loop.watch(fd, lambda events: self._replace())
            self._armed.append(fd)

    def _disarm(self) -> None:
        for fd in self._armed:
            self._monitor.loop.unwatch(fd)
        self._armed.clear()

    @property
    def _path(self) -> str:
        return os.path.join(self._monitor.launch.run_dir, FILE)

    def _save(self) -> None:
        with open(f"{self._path}.new", "w") as file:
            json.dump(self._orders, file)
        os.rename(f"{self._path}.new", self._path)

    def _fork(self) -> None:
        """:raises OSError:"""
        monitor = self._monitor
        self._since = time.monotonic()
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            _become(theirs, monitor.launch.uplink, monitor.launch.id)
        theirs.close()
        for name in (_LINE, _PIDFD):
            if name in monitor.kept:
                os.close(monitor.kept.pop(name))
        monitor.kept[_LINE], monitor.kept[_PIDFD] = ours.detach(), os.pidfd_open(pid)
        self._tell()
        monitor.loop.watch(monitor.kept[_PIDFD], lambda events: self._ended())

    def _tell(self, *, settled: bool = False) -> None:
        """What to listen on, with the sockets that there are for it; the others it tries to bind itself.

        :param settled: wait until it listens on nothing else
        """
        kept = self._monitor.kept
        self._bind()
        given = {str(order["name"]): kept[str(order["name"])] for order in self._orders if order["name"] in kept}
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            if settled:
                given[SETTLED] = stack.enter_context(until_settled())
            line = stack.enter_context(socket.socket(fileno=os.dup(kept[_LINE])))
            send(line, {"ports": self._orders, "given": list(given)}, list(given.values()))

    def _bind(self) -> None:
        """Here, in the host's network, where the proxy of an ordinary user is not: it is in that of the containers.
        Whoever has a port already keeps it. Many ports of root's container are left to the proxy, which is in that
        network too."""
        kept = self._monitor.kept
        wanted = {str(order["name"]): order for order in self._orders}
        for name in [name for name in kept if name.startswith(OWN) and name not in wanted]:
            os.close(kept.pop(name))
        if len(wanted) > _FEW and not self._monitor.launch.uplink:
            return
        for name, order in wanted.items():
            if name not in kept:
                with contextlib.suppress(OSError):
                    kept[name] = proxy.bound(order).detach()

    def _ended(self) -> None:
        """It was killed, or failed: another one takes its place."""
        kept = self._monitor.kept
        pidfd = kept.pop(_PIDFD)
        self._monitor.loop.unwatch(pidfd)
        self._reap(pidfd)
        os.close(pidfd)
        if not self._closed:
            why = b""
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(kept[_LINE])) as line:
                why = line.recv(_WHY, socket.MSG_DONTWAIT)
            self._try_again(why.decode(errors="replace") or "it was killed")

    def _try_again(self, why: str) -> None:
        """Soon; ever later where it fails each time. Who listens to events hears of it once."""
        self._failures = 0 if time.monotonic() - self._since >= _STEADY else self._failures + 1
        if self._failures == _TOLD:
            self._monitor.tell("proxy_fails", error=why)
        pause = min(_PAUSE * 2 ** max(0, self._failures - 1), _LONGEST)
        self._monitor.loop.after(pause, self._replace)

    def _replace(self) -> None:
        self._disarm()  # before the fork: what it accepts is no call to us
        if self._closed or _PIDFD in self._monitor.kept:
            return
        try:
            self._fork()
        except OSError as error:
            self._try_again(f"it cannot be forked: {error.strerror}")
        else:
            self._monitor.give_to_launcher()

    def _reap(self, pidfd: int) -> None:
        try:
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        except ChildProcessError:  # a proxy that an earlier monitor has made: the launcher reaps it
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll(_DYING * 1000)


def _load(path: str) -> list[proxy.Order]:
    try:
        with open(path) as file:
            return cast("list[proxy.Order]", json.load(file))
    except (OSError, ValueError):
        return []


def _become(line: socket.socket, folder: str, cid: str) -> NoReturn:
    """In the child: reach the containers, then serve.

    :param folder: see :mod:`core.supervise.uplink`; empty: they are reached from where we are
    """
    code = 1
    try:
        process.set_title(f"wharf-proxy {cid}")
        libc.close_all_but({0, 1, 2, line.fileno()})
        if folder:
            namespace = uplink.open_shared(folder)
            netns.enter(namespace)
            os.close(namespace)
        proxy.serve(line)
        code = 0
    except Exception as error:
        with contextlib.suppress(OSError):
            line.send(str(error).encode()[:_WHY])
    finally:
        os._exit(code)
