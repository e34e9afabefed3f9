"""The starter: a process made beforehand that becomes the container's first one.

A start by fork copies, page by page as they are written to, what the monitor and its child have in memory in common:
more than a thousand faults while somebody waits. So a spare monitor has a spare child, which has copied its memory
while nobody waited; it is told what to start, and goes on as the container's first process by
:func:`core.kernel.hop.hop`. Nothing of what it does is in the monitor's memory, which therefore stays small.

The monitor without one (it replaces one that was killed, starts a container again, or there was no spare) forks.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import NoReturn, cast

from core import cgroups
from core.kernel import libc, memory, process
from core.kernel.clone import Place
from core.kernel.hop import can_hop
from core.runtime import early, notify
from core.runtime.defaults import Json
from core.runtime.task import Early, Filter, InitTask, Report, Rootfs
from core.supervise import spawn
from core.supervise.protocol import JOINED, SHM, Launch, receive_payload, send, send_payload

SOFT_FILES = 1024  # Docker's default: programs that use select(2) break above it, and the launcher's own is raised
Stdio = tuple[int, int, int]
_REPORT, _STDIO = "report", ("stdin", "stdout", "stderr")  # names of descriptors


def init_task(
    launch: Launch, config: Json, kept: Mapping[str, int], stdio: Stdio | None, seccomp: Filter, *, asks: bool = False
) -> InitTask:
    """What the container's first process has to do.

    :param kept: descriptors by name
    :param asks: see :class:`core.runtime.task.InitTask`
    """
    return InitTask(
        config=config,
        rootfs=rootfs(launch),
        mount_point=launch.run_dir,
        stdio=stdio,
        joined=joined(kept),
        cgroup_views=spawn.cgroup_views(launch.cgroup, config),
        seccomp=seccomp,
        cid=launch.id,
        bundle=launch.bundle,
        soft_files=SOFT_FILES,
        asks=asks,
        shm=kept.get(SHM, -1),
    )


def told(payload: bytes) -> tuple[Json, Filter]:
    """What the engine's first message says: config.json without the seccomp rules, and the filter that they make."""
    message = json.loads(payload)
    program = base64.b64decode(message["filter"])
    return cast(Json, message["config"]), notify.unpack(program) if program else Filter()


def rootfs(launch: Launch) -> Rootfs:
    return Rootfs(list(launch.lower), launch.upper, launch.work, map_ids=launch.map_ids)


def joined(kept: Mapping[str, int]) -> dict[str, int]:
    """The namespaces that the container joins: type → descriptor."""
    found = {name.removeprefix(JOINED): fd for name, fd in kept.items() if name.startswith(JOINED)}
    if "netns" in kept:
        found["network"] = kept["netns"]
    return found


class Starter:
    """The monitor's end. What it is told, it does at once: the launch and config.json are read while the monitor makes
    the cgroup."""

    def __init__(self, pid: int, line: socket.socket, place: Place) -> None:
        self._pid = pid
        self._line = line
        self._place = place

    @classmethod
    def make(cls, *, isolated: bool) -> Starter | None:
        """Fork it; None where this host or machine cannot do it.

        :param isolated: it most likely is for an isolated container (:class:`core.supervise.protocol.Launch`)
        :raises OSError: no process can be made
        """
        if not can_hop():
            return None
        place = Place()
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            _become(theirs, place, isolated=isolated)
        theirs.close()
        return cls(pid, ours, place)

    def tell(self, payload: bytes) -> None:
        """The launch, config.json, and ``{}`` once the cgroup is there. A starter that was killed is noticed by
        :meth:`start`."""
        with contextlib.suppress(OSError):
            send_payload(self._line, payload)

    def start(
        self, kept: Mapping[str, int], stdio: Stdio | None, host_hooks: Callable[[int], None], *, asks: bool
    ) -> spawn.Child:
        """The container's first process on its way.

        :param kept: descriptors by name
        :param asks: see :class:`core.runtime.task.InitTask`
        :raises OSError: the starter has been killed
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        given = {_REPORT: theirs.fileno(), **dict(zip(_STDIO, stdio or (), strict=False))}
        given |= {name: fd for name, fd in kept.items() if name in ("netns", SHM) or name.startswith(JOINED)}
        try:
            send(self._line, {"fds": list(given), "asks": asks}, list(given.values()))
            child = spawn.Child(self._pid, ours, self._place)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._line.close()
        child.host_hooks, child.terminal, child.leisurely = host_hooks, stdio is None, True
        return child

    def dismiss(self) -> None:
        """It is not needed, or of no use any more."""
        self._line.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)  # ours to reap: the pid cannot be another's
        os.waitpid(self._pid, 0)
        self._place.close()


def _become(line: socket.socket, place: Place, *, isolated: bool) -> NoReturn:
    """In the child: get ready, and wait for the orders."""
    try:
        process.set_death_signal(signal.SIGKILL)
        libc.close_all_but({0, 1, 2, line.fileno()})
        process.set_title("wharf-starter")
        memory.own(memory.writable())
        layout = cgroups.detect()
        names = () if layout.version == "v2" else [os.path.basename(name) for name in layout.mounts]
        _serve(line, place, early.Stock(names, isolated=isolated))
    except EOFError:
        pass  # the monitor has gone, or does without us
    except BaseException:
        sys.__excepthook__(*sys.exc_info())
    finally:
        os._exit(1)


def _serve(line: socket.socket, place: Place, stock: early.Stock) -> NoReturn:
    launch = Launch.from_plain(json.loads(receive_payload(line)[0]))
    config, seccomp = told(receive_payload(line)[0])
    before = os.umask(0)
    made = early.make(config, rootfs(launch), stock, isolated=launch.isolated)
    receive_payload(line)
    cgroups.enter_early(launch.cgroup)
    made = early.add_cgroups(made, config, spawn.cgroup_views(launch.cgroup, config), stock)
    stock.close()
    os.umask(before)
    born = cgroups.born_in(launch.cgroup)
    payload, fds = receive_payload(line)
    orders = json.loads(payload)
    given = dict(zip(cast("list[str]", orders["fds"]), fds, strict=True))
    _start(launch, config, seccomp, given, made, place, born, asks=bool(orders["asks"]))


def _start(
    launch: Launch,
    config: Json,
    seccomp: Filter,
    given: dict[str, int],
    made: Early,
    place: Place,
    born: int | None,
    *,
    asks: bool,
) -> NoReturn:
    report = Report(given.pop(_REPORT))
    try:
        report.at("getting ready")
        stdio = [given.pop(name) for name in _STDIO if name in given]
        task = init_task(launch, config, given, cast(Stdio, tuple(stdio)) if stdio else None, seccomp, asks=asks)
        spawn.become_init(task._replace(report=report.fd, early=made), launch.cgroup, place, born)
    except BaseException as error:
        report.fail(error)
