"""A new monitor takes over a container whose monitor was killed, at whatever moment that was."""

from __future__ import annotations

import contextlib
import os

from core.errors import Conflict
from core.kernel import process
from core.runtime import namespaces
from core.supervise import resolver
from core.supervise.monitor import Monitor
from core.supervise.protocol import JOINED, SHM
from core.supervise.records import RunState, alive, load_exit, load_state
from core.supervise.release import release
from core.supervise.rundir import RunDir

_SHORT = 1.0  # seconds: a dead monitor holds no lock, and a living one keeps its container


def take_over(monitor: Monitor, status: int | None) -> bool:
    """Continue where the last monitor was.

    :param status: wait status of the container's first process, where the launcher has reaped it
    :returns: True where there is something left to watch
    """
    launch = monitor.launch
    if not os.path.isdir(launch.run_dir):
        release(launch)  # only that step was left
        return False
    try:
        rundir = RunDir(launch.run_dir, patience=_SHORT)
    except Conflict:
        return False  # it has one: another launcher was faster
    if not os.path.isdir(os.path.dirname(launch.exit_path)):
        # The container was removed meanwhile: nothing of it may come back, and what is left goes.
        monitor.rundir = rundir
        monitor.undo()
        release(launch)
        return False
    monitor.enter(rundir)
    old = load_state(launch.run_dir)
    if old is None:
        # Killed before it could say that the container runs: the engine knows, and fails or has another one do it.
        monitor.undo()
        return False
    monitor.resume_as(old)
    ended = load_exit(launch.exit_path, launch.run_dir)
    if ended is not None and ended.started == old.started:
        monitor.open_control()
        monitor.paper.note_exit(ended)  # once more: it may be in the run folder only
        monitor.after_exit(ended.exit_code, ended.ran, failed=bool(ended.error) and not ended.restarting)
    else:
        _join(monitor, old, status)
    return True


def _join(monitor: Monitor, old: RunState, status: int | None) -> None:
    """Go on with the container that runs, or note its end if it came meanwhile."""
    launch, kept, rundir = monitor.launch, monitor.kept, monitor.rundir
    assert rundir is not None
    # With copies from the launcher, a missing input means that it was ended; without any, nobody can tell.
    had_copies = "pidfd" in kept
    if not had_copies:
        pidfd = process.open_pidfd(old.pid, old.pid_start)
        if pidfd is not None:
            kept["pidfd"] = pidfd
    if alive(old) and "netns" not in kept:
        _find_namespaces(monitor, old.pid)
    if alive(old):
        # Nobody has the sockets where the launcher was killed too, or the last monitor before it could give copies of
        # new ones. A container without names is better than none.
        with contextlib.suppress(OSError):
            resolver.open_sockets(launch, kept)
    if launch.stdin_open and not launch.tty and not had_copies:
        kept["stdin"] = rundir.our_input()
    monitor.pidfd = kept.get("pidfd", -1)
    if not launch.tty:
        monitor.outputs = rundir.our_outputs()
    monitor.open_streams()
    monitor.open_control()
    monitor.save()
    monitor.give_to_launcher()
    if status is not None:
        monitor.record(status)
    elif monitor.pidfd < 0:
        monitor.record(process.zombie_status(old.pid, old.pid_start))
    else:
        monitor.watch_end()
        if monitor.service is not None and monitor.service.health is not None:
            monitor.service.health.resume(old.health, old.failing_streak)


def _find_namespaces(monitor: Monitor, pid: int) -> None:
    """What another start would join, of the process that runs; the paths in config.json may be a stranger's by now."""
    listed = namespaces.listed(monitor.config)
    # The user namespace was made before the container: the network namespace belongs to it.
    joined = [kind for kind, path in listed.items() if kind == "user" or (path and kind != "network")]
    wanted = {"netns": "net", **{f"{JOINED}{kind}": kind for kind in joined}}
    if "ipc" in joined:
        wanted[SHM] = "mnt"
    try:
        for name, file in wanted.items():
            if name in monitor.kept:
                continue
            monitor.kept[name] = os.open(f"/proc/{pid}/ns/{file}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        pass  # it has just ended
