"""What a monitor gives to :mod:`core.supervise.spawn`: the tasks of its container, from launch and descriptors."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import cast

from core import cgroups
from core.kernel.bpf import FILTER_NEW_LISTENER
from core.runtime import hooks, namespaces
from core.runtime.defaults import Json
from core.runtime.task import ExecTask, Filter, InitTask, Rootfs
from core.supervise import listener, spawn
from core.supervise.protocol import JOINED, SHM, Launch, Message, close_all, send
from core.supervise.rundir import RunDir

SOFT_FILES = 1024  # Docker's default: programs that use select(2) break above it, and the launcher's own is raised


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


def make_cgroup(launch: Launch, config: Json) -> None:
    """:raises WharfError: see :func:`core.cgroups.create`"""
    linux = cast(Json, config.get("linux") or {})
    cgroups.create(launch.cgroup, cast(Json, linux.get("resources") or {}))


def start(
    launch: Launch, config: Json, seccomp: Filter, kept: Mapping[str, int], stdio: tuple[int, int, int] | None
) -> spawn.Child:
    """Fork the container's first process.

    :param kept: descriptors by name, as the monitor holds them
    """
    joined = {name.removeprefix(JOINED): fd for name, fd in kept.items() if name.startswith(JOINED)}
    if "netns" in kept:
        joined["network"] = kept["netns"]
    task = InitTask(
        config=config,
        rootfs=Rootfs(list(launch.lower), launch.upper, launch.work, map_ids=launch.map_ids),
        mount_point=launch.run_dir,
        stdio=stdio,
        joined=joined,
        cgroup_views=spawn.cgroup_views(launch.cgroup, config),
        seccomp=seccomp,
        cid=launch.id,
        bundle=launch.bundle,
        soft_files=SOFT_FILES,
        shm=kept.get(SHM, -1),
    )

    def host_hooks(pid: int) -> None:
        state = hooks.state(config, cid=launch.id, status="creating", pid=pid, bundle=launch.bundle)
        for kind in ("prestart", "createRuntime"):
            hooks.run_all(config, kind, state)

    child = spawn.start_init(task, launch.cgroup, host_hooks)
    _find_agent(child, launch, config, seccomp, None)
    return child


def begin(
    launch: Launch, rundir: RunDir, config: Json, seccomp: Filter, kept: dict[str, int]
) -> tuple[spawn.Child, dict[int, int]]:
    """:func:`start` with the streams that the launch asks for; its cgroup is there.

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
        return start(launch, config, seccomp, kept, stdio), outputs
    except BaseException:
        close_all(list(outputs))
        raise
    finally:
        close_all(stdio or ())


def execute(
    launch: Launch,
    config: Json,
    seccomp: Filter,
    first: tuple[int, int],
    own: Json,
    stdio: tuple[int, int, int] | None,
) -> spawn.Child:
    """Fork a process that runs ``own`` inside, with what the container itself has.

    :param first: pid and pidfd of the container's first process
    """
    linux = cast(Json, config.get("linux") or {})
    child = spawn.start_exec(launch.cgroup, ExecTask(own, *first, stdio, seccomp, linux, SOFT_FILES))
    _find_agent(child, launch, config, seccomp, first[0])
    return child


def _find_agent(child: spawn.Child, launch: Launch, config: Json, seccomp: Filter, first: int | None) -> None:
    """See to it that a filter that notifies has somebody who answers. ``first``: None: the child is it."""

    def take(fd: int, pid: int) -> None:
        status, of = ("creating", pid) if first is None else ("running", first)
        state = hooks.state(config, cid=launch.id, status=status, pid=of, bundle=launch.bundle)
        listener.hand_over(fd, config, pid, state)

    if seccomp.flags & FILTER_NEW_LISTENER:
        child.take_listener = take
