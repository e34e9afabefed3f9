"""How a monitor has its container made: by our own runtime, from launch and descriptors, or by another one."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

from core import cgroups
from core.kernel.bpf import FILTER_NEW_LISTENER
from core.runtime import hooks, namespaces
from core.runtime.defaults import Json
from core.runtime.task import ExecTask, Filter, InitTask, Rootfs
from core.supervise import listener, spawn
from core.supervise.child import Process
from core.supervise.loop import Loop
from core.supervise.protocol import CHECKPOINT, JOINED, SHM, Launch, Message, close_all, send
from core.supervise.rest import adopt_orphans
from core.supervise.rundir import RunDir

SOFT_FILES = 1024  # Docker's default: programs that use select(2) break above it, and the launcher's own is raised

Stdio = tuple[int, int, int]
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

    def start(self, stdio: Stdio | None) -> Process:
        """Fork the container's first process; its cgroup is there.

        :param stdio: None: a terminal is made
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


def runtime(launch: Launch, config: Json, kept: dict[str, int]) -> Runtime:
    """The one that ``launch`` asks for.

    :param kept: descriptors by name, as the monitor holds them
    """
    if launch.runtime:
        # Here, so that the others need not carry it. Nothing of a container's exists in this process yet.
        from core.supervise.external import External

        return External(launch, config, kept)
    return Native(launch, config, kept)


class Native:
    """Our own: a child of this process makes itself the container (:mod:`core.runtime.init`)."""

    def __init__(self, launch: Launch, config: Json, kept: dict[str, int]) -> None:
        self._launch = launch
        self._config = config
        self._filter: Filter | None = None
        self._kept = kept
        self.requests: Requests = {}

    def attend(self, loop: Loop) -> None:
        adopt_orphans(self._config)

    def prepare(self) -> None:
        linux = cast(Json, self._config.get("linux") or {})
        cgroups.create(self._launch.cgroup, cast(Json, linux.get("resources") or {}))

    def start(self, stdio: Stdio | None) -> Process:
        launch, config, seccomp = self._launch, self._config, self._seccomp()
        task = InitTask(
            config=config,
            rootfs=Rootfs(list(launch.lower), launch.upper, launch.work, map_ids=launch.map_ids),
            mount_point=launch.run_dir,
            stdio=stdio,
            joined=joined(self._kept),
            cgroup_views=spawn.cgroup_views(launch.cgroup, config),
            seccomp=seccomp,
            cid=launch.id,
            bundle=launch.bundle,
            soft_files=SOFT_FILES,
            shm=self._kept.get(SHM, -1),
        )

        def host_hooks(pid: int) -> None:
            state = hooks.state(config, cid=launch.id, status="creating", pid=pid, bundle=launch.bundle)
            for kind in ("prestart", "createRuntime"):
                hooks.run_all(config, kind, state)

        if CHECKPOINT in self._kept:
            # Here, so that the others need not carry it. Nothing of a container's exists in this process yet.
            from core.supervise import restoring

            return restoring.start_kept(task, launch.cgroup, self._kept, host_hooks)
        child = spawn.start_init(task, launch.cgroup, host_hooks)
        self._find_agent(child, seccomp, None)
        return child

    def execute(self, first: tuple[int, int], own: Json, stdio: Stdio | None) -> Process:
        linux, seccomp = cast(Json, self._config.get("linux") or {}), self._seccomp()
        task = ExecTask(own, *first, stdio, seccomp, linux, SOFT_FILES)
        child = spawn.start_exec(self._launch.cgroup, task)
        self._find_agent(child, seccomp, first[0])
        return child

    def _seccomp(self) -> Filter:
        """Read when it is needed first: at a start, when the engine has written it."""
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
        if kill:
            cgroups.kill(self._launch.cgroup)
        cgroups.remove(self._launch.cgroup)


def joined(kept: Mapping[str, int]) -> dict[str, int]:
    """The namespaces that the container joins: type → descriptor."""
    found = {name.removeprefix(JOINED): fd for name, fd in kept.items() if name.startswith(JOINED)}
    if "netns" in kept:
        found["network"] = kept["netns"]
    return found


def begin(made_by: Runtime, launch: Launch, rundir: RunDir, kept: dict[str, int]) -> tuple[Process, dict[int, int]]:
    """:meth:`Runtime.start` with the streams that the launch asks for.

    :param kept: the end of its input is added
    :returns: the first process on its way, and our ends of its output → stream
    """
    # Our ends first: a pipe that nobody holds open forgets its content, and a quick command has written and ended
    # before we come back here.
    outputs = {} if launch.tty else rundir.our_outputs()
    if launch.stdin_open and not launch.tty and "stdin" not in kept:
        kept["stdin"] = rundir.our_input()
    stdio = None if launch.tty else rundir.child_stdio(stdin=launch.stdin_open)
    try:
        return made_by.start(stdio), outputs
    except BaseException:
        close_all(list(outputs))
        raise
    finally:
        close_all(stdio or ())
