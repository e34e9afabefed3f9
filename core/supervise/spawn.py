"""Fork the container's first process, or one that joins it, and follow it to its exec."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from typing import NoReturn, cast

from core import cgroups
from core.errors import Conflict, StartFailed, WharfError, from_dict
from core.kernel import process, userns
from core.kernel.clone import Place, fork_into, fork_new
from core.kernel.hop import hop
from core.runtime import execute, init, namespaces, notify
from core.runtime.defaults import FILTER_FILE, Json
from core.runtime.task import LISTENER, ExecTask, Filter, InitTask
from core.supervise.child import follow
from core.supervise.protocol import close_all

_PACKET = 65536
_PATIENCE = 0.5  # seconds a killed process may take to end


class Child:
    """A forked process on its way to the exec.

    ``line`` becomes readable when there is news; :meth:`advance` takes it. ``pid`` (of the command only from then on),
    ``pidfd`` and ``master`` (the terminal, if one was made) belong to the caller once ``running`` is True.

    :param place: where further pids appear, the command's last, if ``pid`` is only its guide into the container
        (see :mod:`core.runtime.execute`)
    """

    def __init__(self, pid: int, line: socket.socket, place: Place | None = None) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.line = line
        self.master: int | None = None
        self.terminal = False  # is one to be expected?
        self.running = False
        self.gone = False
        self.gated = False
        self.host_hooks: Callable[[int], None] | None = None
        self.take_listener: Callable[[int, int], None] | None = None
        self._place = place
        self.leisurely = False  # call bury() when there is time for it
        self.leave_to: Callable[[int, int], None] | None = None  # takes pid and pidfd of what is killed and stays
        self._dead: list[tuple[int, int]] = []  # pid and pidfd
        self._made = 0  # how many of those in there we have come to
        self._ready = False

    def advance(self) -> bool:
        """Take one packet (see :class:`core.runtime.task.Report`).

        :returns: True once the command has been executed
        :raises WharfError: it failed; the process is gone and everything of it closed
        """
        try:
            packet, fds, _, _ = socket.recv_fds(self.line, _PACKET, 1, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            packet, fds = b"", []
        if packet[:1] == b"T" and fds and self.terminal and self.master is None:
            self.master = fds[0]
            return False
        if packet[:1] == LISTENER and fds and self.take_listener is not None:
            self._take_listener(fds[0])
            return False
        close_all(fds)
        if packet[:1] == b"R":
            self._ready = True
        elif packet[:1] == b"H":
            self._run_hooks()
        elif packet[:1] == b"G":
            self.gated = True
        elif packet[:1] == b"E":
            self.destroy()
            raise reported(packet[1:])
        elif not packet and self._ready:
            self._follow()
            self.running = True
            self.line.close()
        elif not packet:
            raise StartFailed(
                "cannot start the container: its first process died while it was set up",
                f"it {_describe(self.destroy())}",
                "A memory limit may be too small for it" if not self._ready else "",
                step="set-up",
            )
        return self.running

    def _run_hooks(self) -> None:
        try:
            if self.host_hooks is not None:
                self.host_hooks(self.first)
        except BaseException:
            self.destroy()
            raise
        self.let_go()

    def _take_listener(self, listener: int) -> None:
        take, self.take_listener = self.take_listener, None
        try:
            if take is not None:
                take(listener, self.first)
        except BaseException:
            self.destroy()
            raise

    def let_go(self) -> None:
        """Answer its question: it goes on."""
        with contextlib.suppress(OSError):  # it has died: the next packet says so
            self.line.send(b"y")

    def pass_gate(self) -> None:
        """It waits for its start and no longer for us: ``pid`` is the first process's from here on."""
        self.let_go()
        # It closes its end once our death is not its own any more: not before that may we end.
        with contextlib.suppress(ConnectionResetError):
            self.line.recv(1)
        self._follow()
        self.line.close()

    @property
    def first(self) -> int:
        """The pid of the container's first process, also while only its guide is known."""
        return (self._place.last if self._place is not None else 0) or self.pid

    def _follow(self) -> None:
        """From the guides, which have nothing more to do, to the process that the last of them has made."""
        last = self.first
        while self.pid != last:
            self._dead.append((self.pid, self.pidfd))
            self._go_to_next()
        if self._place is not None:
            self._place.close()
            self._place = None
        if not self.leisurely:
            self.bury()

    def bury(self) -> None:
        """End and reap the guides."""
        for pid, pidfd in self._dead:
            self._reap(pid, pidfd)
        self._dead = []

    def _reap(self, pid: int, pidfd: int) -> int:
        """The wait status. A v1 freezer holds even SIGKILL back, for as long as somebody likes: others wait then."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if self.leave_to is not None:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(_PATIENCE * 1000):
                self.leave_to(pid, pidfd)
                return signal.SIGKILL
        status = os.waitpid(pid, 0)[1]
        os.close(pidfd)
        return status

    def _go_to_next(self) -> bool:
        """To what the process has made, which has been reaped: what is not there now never comes."""
        made = self._place.pid(self._made) if self._place is not None else 0
        if made:
            self._made += 1
            self.pid, self.pidfd = made, os.pidfd_open(made)  # ours to reap: the pid cannot be another's yet
        return bool(made)

    def destroy(self) -> int:
        """Kill and reap it and all that it has made, close everything. Returns the wait status of the last."""
        self.gone = True
        self.line.close()
        if self.master is not None:
            os.close(self.master)
        while True:
            status = self._reap(self.pid, self.pidfd)
            if not self._go_to_next():
                break
        if self._place is not None:
            self._place.close()
            self._place = None
        return status

    def wait(
        self, cancel: socket.socket | None, timeout: float | None, meanwhile: Callable[[], None] | None = None
    ) -> None:
        """See :func:`core.supervise.child.follow`. :raises WharfError: it failed and is gone"""
        follow(self, cancel, timeout, meanwhile)


def reported(packet: bytes) -> WharfError:
    """The error that a child tells of in a packet (see :class:`core.runtime.task.Report`)."""
    try:
        return from_dict(json.loads(packet))
    except (ValueError, KeyError, TypeError, AttributeError):
        # Whoever may trace processes inside may also write on the line of one that joins.
        return StartFailed("cannot start the container", "what its process reports makes no sense", step="set-up")


def _describe(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"ended with code {code}" if code >= 0 else f"was killed by signal {-code}"


def start_init(task: InitTask, cgroup: str, host_hooks: Callable[[int], None] | None = None) -> Child:
    """Fork the first process of a new container; its cgroup exists already.

    :param task: its ``report``, ``place`` and ``enter_cgroup`` are filled in here
    :param cgroup: relative to each hierarchy's root
    :param host_hooks: what to do when the container is made but not entered yet; given the pid of its first process
    :raises OSError: no process can be made
    """

    def become(report: int) -> NoReturn:
        init.run(task._replace(report=report, place=place, enter_cgroup=enter))

    def enter() -> None:
        cgroups.enter_self(cgroup, born=born is not None)

    born = cgroups.born_in(cgroup)
    where = _pid_namespace(task)
    place = Place() if _guided(task, where) else None
    child = _fork(become, born, place, None if place is not None else where)  # a guide stays in our pid namespace
    child.host_hooks, child.terminal = host_hooks, task.stdio is None
    return child


def become_init(task: InitTask, cgroup: str, place: Place, born: int | None) -> NoReturn:
    """Go on as the first process of a new container, or first as its guide: :func:`start_init` without a fork.

    :param task: its ``place`` and ``enter_cgroup`` are filled in here
    :param cgroup: :func:`core.cgroups.enter_early` has been called
    :param place: gets the pids
    :param born: :func:`core.cgroups.born_in`
    :raises OSError: :raises StartFailed: of what comes before; later failures are reported
    """
    where = _pid_namespace(task)
    guided = _guided(task, where)
    if not guided:
        if where:
            _join_pid_namespace(where)
        with _joining(where):
            hop(place, process.CLONE_NEWPID if where == "" else 0, -1 if born is None else born)
        place.close()
    elif born is not None:
        hop(place, 0, born)
    if born is not None:
        os.close(born)

    def enter() -> None:
        cgroups.enter_self(cgroup, born=born is not None, rest=True)

    init.run(task._replace(place=place if guided else None, enter_cgroup=enter))


def _guided(task: InitTask, where: str | int | None) -> bool:
    """Does the first process need a guide? In a user namespace we could send our children into another's pid namespace,
    and then no more into our own."""
    return namespaces.guided(task.config) or bool(where and userns.contained())


def start_exec(cgroup: str, task: ExecTask, *, frozen_too: bool = False) -> Child:
    """Fork a process into the container whose first process ``task.pid`` is.

    :param task: its ``report``, ``place`` and ``enter_cgroup`` are filled in here
    :raises Conflict: the container is paused (the process would hang before it could start)
    :raises OSError: the container has ended
    """
    if not frozen_too and cgroups.frozen(cgroup):
        raise Conflict("cannot run a command in the container", "it is paused", "Unpause it first")

    def become(report: int) -> NoReturn:
        execute.join(task._replace(report=report, place=place, enter_cgroup=enter))

    def enter() -> None:
        cgroups.enter_self(cgroup, born=born is not None)

    born, place = cgroups.born_in(cgroup), Place()
    child = _fork(become, born, place, None)
    child.terminal = task.stdio is None
    return child


def _pid_namespace(task: InitTask) -> str | int | None:
    """For the fork: ``""`` a new one, a path or a descriptor of one to join, None to stay in ours."""
    return task.joined.get("pid", namespaces.listed(task.config).get("pid"))


def _in_pid_namespace(where: str | int, fork: Callable[[], int]) -> int:
    home = os.open("/proc/self/ns/pid_for_children", os.O_RDONLY | os.O_CLOEXEC)
    try:
        # This changes where this process's *children* go, not where it is itself.
        _join_pid_namespace(where)
        try:
            with _joining(where):
                return fork()
        finally:
            process.setns(home, process.CLONE_NEWPID)
    finally:
        os.close(home)


@contextlib.contextmanager
def _joining(where: str | int | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not where or error.errno != errno.ENOMEM:  # pid_namespaces(7): nobody is born after its init
            raise
        raise StartFailed(
            "cannot join the pid namespace", "its first process has ended", "Start the other container first"
        ) from error


def _join_pid_namespace(where: str | int) -> None:
    opened = where if isinstance(where, int) else -1
    try:
        if isinstance(where, str):
            opened = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
        process.setns(opened, process.CLONE_NEWPID)
    except OSError as error:
        raise StartFailed(
            f"cannot join the pid namespace {where}", str(error.strerror), "Give a file like /proc/PID/ns/pid"
        ) from error
    finally:
        if isinstance(where, str) and opened >= 0:
            os.close(opened)


def _fork(become: Callable[[int], NoReturn], born: int | None, place: Place | None, pid_ns: str | int | None) -> Child:
    """Fork, born in the cgroup where the kernel can do that.

    :param place: given for a process that goes into a container only to make the real one there
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def fork() -> int:
        # Born in it: our own children could be sent there too (unshare(2)), but in a user namespace not back again.
        new = process.CLONE_NEWPID if pid_ns == "" else 0
        pid = fork_new(new) if born is None else fork_into(born, new)
        if pid == 0:
            ours.close()
            become(theirs.fileno())
        return pid

    try:
        return Child(_in_pid_namespace(pid_ns, fork) if pid_ns else fork(), ours, place)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        if born is not None:
            os.close(born)


def cgroup_views(path: str, config: Json) -> list[tuple[str, str]]:
    """What the container shall see in /sys/fs/cgroup: (name there, folder on the host)."""
    layout = cgroups.detect()
    if layout.version == "v2":
        # Without a cgroup namespace, /proc/self/cgroup names the group as the host does: then the whole tree fits it.
        own = "cgroup" in namespaces.listed(config)
        return [("", f"{layout.unified}/{path}" if own else cgroups.host().unified)]
    return [(os.path.basename(mount), f"{mount}/{path}") for mount in layout.mounts]


def read_config(bundle: str) -> Json:
    """``config.json``, for a monitor that takes over. :raises StartFailed: it cannot be read"""
    try:
        with open(os.path.join(bundle, "config.json"), "rb") as file:
            config = cast(Json, json.load(file))
        # The filter says it all already, and the rules are by far the largest part.
        cast(Json, cast(Json, config["linux"]).get("seccomp", {})).pop("syscalls", None)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(bundle, error) from error
    return config


def read_filter(bundle: str, config: Json) -> Filter:
    """The compiled seccomp filter of a container that has one. :raises StartFailed: it cannot be read"""
    if "seccomp" not in cast(Json, config["linux"]):
        return Filter()
    try:
        with open(os.path.join(bundle, FILTER_FILE), "rb") as file:
            return notify.unpack(file.read())
    except OSError as error:
        raise _unreadable(bundle, error) from error


def _unreadable(bundle: str, error: Exception) -> StartFailed:
    return StartFailed(f"cannot read the bundle in {bundle}", str(error), step="bundle")
