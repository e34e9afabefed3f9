"""How a monitor has its container made: by our own runtime, from launch and descriptors, or by another one."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

from core import cgroups
from core.kernel import netns
from core.kernel.bpf import FILTER_NEW_LISTENER
from core.runtime import hooks, namespaces, reaper
from core.runtime.defaults import Json
from core.runtime.task import ExecTask, Filter
from core.supervise import listener, spawn
from core.supervise.child import Process
from core.supervise.loop import Loop
from core.supervise.protocol import CHECKPOINT, Launch, Message, close_all, send
from core.supervise.rest import adopt_orphans
from core.supervise.rundir import RunDir
from core.supervise.starter import SOFT_FILES, Starter, Stdio, init_task

Requests = Mapping[str, Callable[[Message, socket.socket], bool]]


def make_namespaces(message: Message, fds: Sequence[int], reply: socket.socket) -> None:
    """Make a user namespace and what belongs to it, for the engine, which has too many threads for that.

    :param fds: a user namespace that is there already, or none
    :param reply: gets the descriptors; none are left here: those that the container needs come back
    :raises WharfError: see :func:`core.runtime.namespaces.make_owned`
    """
    pieces = namespaces.ranges(message["ids"])
    made = namespaces.make_owned(pieces, pieces, cast("list[str]", message["kinds"]), next(iter(fds), None))
    send(reply, {"kinds": list(made)}, list(made.values()))
    close_all([*made.values(), *fds])


def reap_in(loop: Loop) -> Callable[[int, int], None]:
    """What takes a killed child (pid and pidfd), and reaps it when it ends."""

    def take(pid: int, pidfd: int) -> None:
        def ended(events: int) -> None:
            loop.unwatch(pidfd)
            os.close(pidfd)
            os.waitpid(pid, 0)

        loop.watch(pidfd, ended)

    return take


class Runtime(Protocol):
    """What makes the processes of one container.

    ``requests`` are those of ``ctl.sock`` that need it (see :mod:`core.supervise.protocol`).
    """

    @property
    def requests(self) -> Requests: ...

    def attend(self, loop: Loop) -> None:
        """Be the parent of what loses its own, as far as the monitor has to be.

        :param loop: the monitor's, which begins to run after the first start
        """

    def prepare(self) -> None:
        """Make the cgroup for a start. :raises WharfError: see :func:`core.cgroups.create`"""

    def start(self, stdio: Stdio | None, rest: Callable[[], None] | None = None) -> Process:
        """Fork the container's first process; its cgroup is there.

        :param stdio: None: a terminal is made
        :param rest: see :func:`begin`
        """

    def execute(self, first: tuple[int, int], own: Json, stdio: Stdio | None) -> Process:
        """Fork a process that runs ``own`` inside, with what the container itself has.

        :param first: pid and pidfd of the container's first process
        """

    def clear(self, *, kill: bool = False) -> None:
        """After the end of the first process: let go of what was made for it, the cgroup too.

        :param kill: other processes may be left
        :raises WharfError:
        """


def runtime(
    launch: Launch,
    config: Json,
    kept: dict[str, int],
    starter: Starter | None = None,
    seccomp: Filter | None = None,
) -> Runtime:
    """The one that ``launch`` asks for.

    :param kept: descriptors by name, as the monitor holds them
    :param starter: for the first start, with launch and config already told; it belongs to the runtime from here on
    :param seccomp: the filter; None: it is in the bundle
    """
    if launch.runtime:
        if starter is not None:
            starter.dismiss()
        # Here, so that the others need not carry it. Nothing of a container's exists in this process yet.
        from core.supervise.external import External

        return External(launch, config, kept)
    return Native(launch, config, kept, starter, seccomp)


def own_network(launch: Launch, config: Json, pid: int) -> int | None:
    """A descriptor of the network namespace that was made with the container; None where it has another.

    Not of one that the command itself went into meanwhile, of the host or of a user namespace of its own.
    """
    if launch.runtime or namespaces.listed(config).get("network") != "":
        return None
    with contextlib.suppress(OSError):  # it has ended already, or may not be looked at
        found = netns.of_process(pid)
        if not netns.is_here(found) and netns.belongs_here(found):
            return found
        os.close(found)
    return None


class Native:
    """Our own: a child of this process makes itself the container (:mod:`core.runtime.init`)."""

    def __init__(
        self,
        launch: Launch,
        config: Json,
        kept: dict[str, int],
        starter: Starter | None,
        seccomp: Filter | None,
    ) -> None:
        self._launch = launch
        self._starter = starter
        self._config = config
        self._filter = seccomp
        self._kept = kept
        self._leave_to: Callable[[int, int], None] | None = None
        self.requests: Requests = {}

    def attend(self, loop: Loop) -> None:
        adopt_orphans(self._config)
        self._leave_to = reap_in(loop)

    def prepare(self) -> None:
        linux = cast(Json, self._config.get("linux") or {})
        cgroups.create(self._launch.cgroup, cast(Json, linux.get("resources") or {}))

    def start(self, stdio: Stdio | None, rest: Callable[[], None] | None = None) -> Process:
        launch, config, seccomp = self._launch, self._config, self._seccomp()

        def host_hooks(pid: int) -> None:
            if rest is not None:
                rest()
            state = hooks.state(config, cid=launch.id, status="creating", pid=pid, bundle=launch.bundle)
            for kind in ("prestart", "createRuntime"):
                hooks.run_all(config, kind, state)

        if CHECKPOINT in self._kept:
            # Here, so that the others need not carry it. Nothing of a container's exists in this process yet.
            from core.supervise import restoring

            self._dismiss()
            task = init_task(launch, config, self._kept, stdio, seccomp)
            return restoring.start_kept(task, launch.cgroup, self._kept, host_hooks)
        child = self._start(stdio, seccomp, host_hooks, asks=rest is not None)
        child.leave_to = self._leave_to
        self._find_agent(child, seccomp, None)
        return child

    def _start(
        self, stdio: Stdio | None, seccomp: Filter, host_hooks: Callable[[int], None], *, asks: bool
    ) -> spawn.Child:
        if reaper.wanted(self._config):
            self._dismiss()  # its memory would stay, as that of the container's pid 1
        starter, self._starter = self._starter, None
        if starter is not None:
            try:
                return starter.start(self._kept, stdio, host_hooks, asks=asks)
            except OSError:  # it has been killed
                starter.dismiss()
        task = init_task(self._launch, self._config, self._kept, stdio, seccomp, asks=asks)
        return spawn.start_init(task, self._launch.cgroup, host_hooks)

    def _dismiss(self) -> None:
        if self._starter is not None:
            self._starter.dismiss()
            self._starter = None

    def execute(self, first: tuple[int, int], own: Json, stdio: Stdio | None) -> Process:
        linux, seccomp = cast(Json, self._config.get("linux") or {}), self._seccomp()
        task = ExecTask(own, *first, stdio, seccomp, linux, SOFT_FILES)
        child = spawn.start_exec(self._launch.cgroup, task)
        child.leave_to = self._leave_to
        self._find_agent(child, seccomp, first[0])
        return child

    def _seccomp(self) -> Filter:
        """Of a monitor that takes over: read when it is needed first."""
        if self._filter is None:
            self._filter = spawn.read_filter(self._launch.bundle, self._config)
        return self._filter

    def _find_agent(self, child: spawn.Child, seccomp: Filter, first: int | None) -> None:
        """See to it that a filter that notifies has somebody who answers. ``first``: None: the child is it."""
        launch, config = self._launch, self._config

        def take(fd: int, pid: int) -> None:
            status, of = ("creating", pid) if first is None else ("running", first)
            state = hooks.state(config, cid=launch.id, status=status, pid=of, bundle=launch.bundle)
            listener.hand_over(fd, config, pid, state)

        if seccomp.flags & FILTER_NEW_LISTENER:
            child.take_listener = take

    def clear(self, *, kill: bool = False) -> None:
        self._dismiss()
        if kill:
            cgroups.kill(self._launch.cgroup)
        cgroups.remove(self._launch.cgroup)


def begin(
    made_by: Runtime, launch: Launch, rundir: RunDir, kept: dict[str, int], rest: Callable[[], None] | None = None
) -> tuple[Process, dict[int, int]]:
    """:meth:`Runtime.start` with the streams that the launch asks for.

    :param kept: the end of its input is added
    :param rest: takes what is still made outside while the first process sets itself up, which waits for it before it
        enters its root
    :returns: the first process on its way, and our ends of its output → stream
    """
    # Our ends first: a pipe that nobody holds open forgets its content, and a quick command has written and ended
    # before we come back here.
    outputs = {} if launch.tty else rundir.our_outputs()
    if launch.stdin_open and not launch.tty and "stdin" not in kept:
        kept["stdin"] = rundir.our_input()
    stdio = None if launch.tty else rundir.child_stdio(stdin=launch.stdin_open)
    try:
        return made_by.start(stdio, rest), outputs
    except BaseException:
        close_all(list(outputs))
        raise
    finally:
        close_all(stdio or ())
