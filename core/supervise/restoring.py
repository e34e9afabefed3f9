"""A container's first process out of a checkpoint, for its monitor and for our OCI command line.

The forked process prepares the mounts (:mod:`core.runtime.staging`) and becomes CRIU, which makes the container's
first process as its sibling: a child of ours, as after any start.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, cast

from core.errors import Corrupt, StartFailed, WharfError
from core.kernel import libc
from core.runtime import finish, staging
from core.runtime.task import InitTask, Report
from core.supervise import criu
from core.supervise.child import follow
from core.supervise.outside import NULL, Given, Outside
from core.supervise.protocol import CHECKPOINT, close_all
from core.supervise.spawn import reported

PROGRAM = "criu"  # beside CHECKPOINT a name of a descriptor that a monitor gets for a restore
META = "checkpoint.json"  # in the folder of a checkpoint
IMAGES = "criu"  # folder of CRIU's images there
_MOST_META = 4 << 20  # bytes
_PATIENCE = 10.0  # seconds that CRIU may take to undo what it has done
_LINE, _IMAGES, _WORK, _FIRST = 3, 4, 5, 6  # descriptors in CRIU: socket, two folders, the first that it is given
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Saved:
    """``checkpoint.json``, as far as a restore needs it.

    :param input_ended: nobody writes to its standard input any more
    :param hold: its connections want :func:`core.supervise.criu.hold_connections`
    """

    options: criu.Options = field(default_factory=criu.Options)
    outside: Outside = field(default_factory=Outside)
    input_ended: bool = False
    hold: bool = False

    def to_plain(self) -> dict[str, object]:
        return {
            "options": vars(self.options),
            "mounts": [list(given) for given in self.outside.mounts],
            "files": self.outside.files,
            "network": self.outside.network,
            "input_ended": self.input_ended,
            "hold": self.hold,
        }

    @classmethod
    def from_plain(cls, data: object) -> Saved:
        """:raises Corrupt: not what :meth:`to_plain` gives"""
        try:
            plain = cast("dict[str, dict[str, object]]", data)
            options = {name: bool(plain["options"].get(name)) for name in criu.Options.__dataclass_fields__}
            mounts = [Given(*(str(word) for word in row)) for row in cast("list[list[str]]", plain["mounts"])]
            files = {str(name): int(cast(int, number)) for name, number in plain["files"].items()}
            if not all(NULL <= number <= 2 for number in files.values()):
                raise ValueError("a stream that is none")
            network = int(cast(int, plain["network"]))
            outside = Outside(mounts, files, network)
            return cls(criu.Options(**options), outside, bool(plain.get("input_ended")), bool(plain.get("hold")))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Corrupt("the checkpoint is damaged", f"its {META}: {error!r}", "Make a new one") from error


def read_meta(folder: int) -> dict[str, object]:
    """All of ``checkpoint.json`` in an open folder.

    :raises Corrupt: there is none, or it is damaged
    """
    try:
        fd = os.open(META, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        with open(fd, "rb") as file:
            content = json.loads(file.read(_MOST_META))
        if not isinstance(content, dict):
            raise ValueError("it is no object")
        return content
    except (OSError, ValueError) as error:
        raise Corrupt("the checkpoint is damaged", f"{META}: {error}", "Make a new one") from error


@dataclass(frozen=True)
class Order:
    """What to restore, and from where. The descriptors stay the caller's.

    :param images: folder of CRIU's images
    :param work: folder where its log comes
    :param program: CRIU's path
    :param hold: whoever has made the network namespace has not called :func:`core.supervise.criu.hold_connections`
    """

    images: int
    work: int
    program: str
    saved: Saved
    hold: bool = False


def start_kept(task: InitTask, cgroup: str, kept: dict[str, int], host_hooks: Callable[[int], None]) -> Restored:
    """:func:`start` by the descriptors that the engine has given to a monitor; the checkpoint's leave ``kept``: the
    next start, by policy, is an ordinary one.

    :raises WharfError: the checkpoint is damaged, or does not fit
    """
    folder, program = kept.pop(CHECKPOINT), kept.pop(PROGRAM)
    images = -1
    try:
        saved = Saved.from_plain(read_meta(folder))
        images = os.open(IMAGES, _FOLDER, dir_fd=folder)
        if saved.input_ended and "stdin" in kept:
            os.close(kept.pop("stdin"))
        order = Order(images, folder, os.readlink(f"/proc/self/fd/{program}"), saved)
        return start(task, cgroup, order, host_hooks)
    finally:
        close_all([fd for fd in (folder, program, images) if fd >= 0])


def start(task: InitTask, cgroup: str, order: Order, host_hooks: Callable[[int], None]) -> Restored:
    """Begin to restore; the container's cgroup is there.

    :param task: as for a start; ``stdio`` None for a container with a terminal
    :param host_hooks: what to do when its namespaces are made, given the pid of its first process
    :raises OSError: no process can be made
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    work, null = os.dup(order.work), os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        given = _inherited(task, order.saved, null)
        names = [(name, _FIRST + number) for number, (name, _) in enumerate(given)]
        request = _request(task, order.saved, cgroup, names)
        pid = os.fork()
        if pid == 0:
            ours.close()
            _become_criu(task, order, theirs.fileno(), null, [fd for _, fd in given])
        return Restored(pid, ours, work, request, host_hooks)
    except BaseException:
        ours.close()
        os.close(work)
        raise
    finally:
        theirs.close()
        os.close(null)


def _inherited(task: InitTask, saved: Saved, null: int) -> list[tuple[str, int]]:
    """(name in the images, descriptor)."""
    streams = task.stdio or (null, null, null)
    found = [(name, null if number == NULL else streams[number]) for name, number in saved.outside.files.items()]
    if saved.outside.network:
        if "network" not in task.joined:
            why = "it had a network namespace of its own, and is to have the host's"
            raise StartFailed("cannot restore the container", why, "", step="restore")
        found.append((criu.NETWORK, task.joined["network"]))
    return found


def _request(task: InitTask, saved: Saved, cgroup: str, names: Sequence[tuple[str, int]]) -> bytes:
    count = len(saved.outside.mounts)
    mounts = [criu.given_mount(f"m{number}", f"{task.mount_point}/{number}") for number in range(count)]
    root = f"{task.mount_point}/{staging.ROOT}"
    return criu.restore_request(_IMAGES, _WORK, saved.options, root, mounts, names, _controllers(f"/{cgroup}"))


def _controllers(path: str) -> dict[str, str]:
    """Every controller of this host (cgroups(7), /proc/PID/cgroup), with ``path``."""
    with open("/proc/self/cgroup") as file:
        lines = [line.split(":", 2)[1] for line in file]
    return {name: path for line in lines for name in line.split(",")}


def _become_criu(task: InitTask, order: Order, line: int, null: int, given: Sequence[int]) -> NoReturn:
    """In the child."""
    report = Report(line)
    try:
        finish.guard(report)
        wanted = [(mount.destination, mount.rest) for mount in order.saved.outside.mounts]
        if order.hold and order.saved.hold and "network" in task.joined:
            report.at("holding back connections")
            criu.hold_connections(task.joined["network"])
        staging.prepare(task, report, wanted)
        report.at("opening the checkpoint")
        images, work = _here(order.images), _here(order.work)
        report.at("executing criu")
        # CRIU opens the folders through /proc/PID/fd of whoever has made its socket, and mounts there what it needs:
        # so that must be a process in this mount namespace.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        report.criu(ours.fileno())
        # Out of the way first: where they go may be where they come from.
        floor = _FIRST + len(given)
        wished = (null, null, criu.open_words(work), theirs.fileno(), images, work, *given)
        moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, floor) for fd in wished]
        for number, fd in enumerate(moved):
            os.dup2(fd, number, inheritable=True)
        libc.close_range(floor, cloexec=True)
        os.execve(order.program, ["criu", "swrk", str(_LINE)], {"PATH": criu.PATH, "LANG": "C.UTF-8"})
    except BaseException as error:
        report.fail(error)


def _here(folder: int) -> int:
    """The open folder as it is mounted in this mount namespace. :raises StartFailed: it has another name by now"""
    found = os.open(os.readlink(f"/proc/self/fd/{folder}"), _FOLDER)
    if not os.path.samestat(os.fstat(found), os.fstat(folder)):
        raise StartFailed("cannot restore the container", "its checkpoint was moved away", step="restore")
    return found


class Restored:
    """The first process on its way out of the images; see :class:`core.supervise.spawn.Child`, whose place it takes."""

    def __init__(
        self, guide: int, line: socket.socket, work: int, request: bytes, hooks: Callable[[int], None]
    ) -> None:
        self.pid = 0
        self.pidfd = -1
        self.line = line
        self.master: int | None = None
        self.gated = False
        self._guide = guide  # CRIU
        self._work = work  # the folder of CRIU's log
        self._request = request
        self._hooks = hooks

    def advance(self) -> bool:
        """Take one message. :returns: True once the container runs :raises WharfError: it failed; nothing is left"""
        try:
            data, fds, _, _ = socket.recv_fds(self.line, criu.MESSAGE, 4, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            data, fds = b"", []
        if data[:1] == b"C" and fds:
            self._talk_to_criu(fds)
            return False
        if data[:1] == b"E":
            close_all(fds)
            self.destroy()
            raise reported(data[1:])
        try:
            reply = criu.parse_reply(data) if data else criu.Reply("", False, 0)
        except ValueError:
            reply = criu.Reply("", False, 0)
        if reply.script:
            self._step(reply, fds)
            return False
        close_all(fds)
        if not reply.success:
            raise self._failed()
        self._follow()
        self._close()
        return True

    def _talk_to_criu(self, fds: list[int]) -> None:
        # Under the number that the line has: whoever waits for news waits for that.
        os.dup2(fds[0], self.line.fileno(), inheritable=False)
        close_all(fds)
        with contextlib.suppress(OSError):  # it has died: the next message says so
            self.line.send(self._request)

    def _step(self, reply: criu.Reply, fds: list[int]) -> None:
        if reply.script == "orphan-pts-master" and fds and self.master is None:
            self.master, fds = fds[0], fds[1:]
        close_all(fds)
        if reply.pid and not self.pid:
            self.pid = reply.pid
            self.pidfd = os.pidfd_open(reply.pid)  # ours to reap: it cannot be another's yet
        if reply.script == "setup-namespaces":
            try:
                self._hooks(self.pid)
            except BaseException:
                self.destroy()
                raise
        with contextlib.suppress(OSError):  # it has died: the next message says so
            self.line.send(criu.acknowledge(success=True))

    def _follow(self, patience: float = 0.0) -> None:
        """CRIU is done, or is to be: reap it.

        :param patience: seconds until it is killed; 0: it ends by itself
        """
        if not self._guide:
            return
        if patience:
            pidfd = os.pidfd_open(self._guide)
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(patience * 1000):
                os.kill(self._guide, signal.SIGKILL)
            os.close(pidfd)
        os.waitpid(self._guide, 0)
        self._guide = 0

    def _failed(self) -> WharfError:
        log = criu.read_log(self._work, criu.RESTORE_LOG)
        error = criu.explain("cannot restore the container", log, StartFailed)
        error.fix = error.fix or f"See {os.readlink(f'/proc/self/fd/{self._work}')}/{criu.RESTORE_LOG}"
        self.destroy()
        error.step = "restore"
        return error

    def wait(
        self, cancel: socket.socket | None, timeout: float | None, meanwhile: Callable[[], None] | None = None
    ) -> None:
        """See :func:`core.supervise.child.follow`. :raises WharfError: it failed and is gone"""
        follow(self, cancel, timeout, meanwhile)

    def bury(self) -> None:
        """Nothing is left."""

    def destroy(self) -> int:
        """Kill and reap what is there, close everything. Returns the wait status of the first process, or 0."""
        self.line.close()  # CRIU, if it is at work, gives up at its next step, and undoes what it has done
        self._follow(patience=_PATIENCE)
        status = 0
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                status = os.waitpid(self.pid, 0)[1]
            os.close(self.pidfd)
            self.pidfd = -1
        if self.master is not None:
            os.close(self.master)
            self.master = None
        self._close()
        return status

    def _close(self) -> None:
        self.line.close()
        if self._work >= 0:
            os.close(self._work)
            self._work = -1
