"""What a forked child needs to become the container's first process, or one that joins it; and how it reports back.

No dataclasses, here and in all that a monitor imports: their module brings inspect, ast and tokenize with it, more than
a megabyte that every fork has to set up.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, NoReturn

from core.errors import InvalidArgument, StartFailed, WharfError
from core.kernel.clone import Place
from core.runtime.defaults import Json

_PACKET = 65536
LISTENER = b"L"  #: the packet that brings a seccomp listener


class Rootfs(NamedTuple):
    """The container's root: folders that overlayfs stacks (``lower`` top first), or the one folder ``path``.

    :param map_ids: show owners as the container's user namespace maps them
    """

    lower: Sequence[str] = ()
    upper: str = ""
    work: str = ""
    path: str = ""
    map_ids: bool = False


class Early(NamedTuple):
    """Mounts that were made beforehand (:mod:`core.runtime.early`).

    :param root: -1: none
    :param mounts: by their index in config.json's mounts
    :param unshared: CLONE_NEW* of the namespaces that the process is in already
    :param placed: which of ``mounts`` are mounted in another of them already
    :param empty: :func:`core.runtime.covers.make_empty`; -1: none
    :param cgroups: what the container sees of its cgroups (:mod:`core.runtime.views`); -1: none
    """

    root: int = -1
    mounts: Mapping[int, int] = {}
    unshared: int = 0
    cgroups: int = -1
    placed: Collection[int] = ()
    empty: int = -1

    @property
    def fds(self) -> set[int]:
        return {*self.mounts.values(), self.root, self.cgroups, self.empty} - {-1}


class Filter(NamedTuple):
    """A seccomp program and the flags to install it with (SECCOMP_FILTER_FLAG_*); no program: unconfined."""

    program: bytes = b""
    flags: int = 0


class InitTask(NamedTuple):
    """How to start a container. Descriptors are the child's own after the fork.

    :param mount_point: a host folder that the root is put on, in the child's mount namespace only
    :param stdio: None: make a terminal
    :param joined: namespace type → descriptor; it wins over a path in config.json
    :param shm: mount namespace of another container, whose /dev/shm this one shares; -1: none
    :param cgroup_views: name below /sys/fs/cgroup ("" for itself) → host folder
    :param place: receives the pid of the first process where that is not the one that was forked (see
        :func:`core.runtime.namespaces.guided`)
    :param soft_files: soft limit of open files where config.json says nothing; None: as it is
    :param preserve: so many descriptors from 3 on go to the command
    :param keyring: a new session keyring: the caller's would be readable inside
    :param asks: have the parent say when all is there that is made outside (the network), before the root is entered
    :param gate: a listening socket: wait for a connection on it before the command is executed, and report there
    """

    config: Json
    rootfs: Rootfs
    mount_point: str
    stdio: tuple[int, int, int] | None
    joined: Mapping[str, int]
    cgroup_views: list[tuple[str, str]]
    seccomp: Filter
    cid: str = ""
    bundle: str = ""
    soft_files: int | None = None
    preserve: int = 0
    keyring: bool = True
    gate: int = -1
    asks: bool = False
    shm: int = -1
    early: Early = Early()
    # Who forks fills these in.
    report: int = -1  # SOCK_SEQPACKET to the parent (see :class:`Report`)
    place: Place | None = None
    enter_cgroup: Callable[[], None] = lambda: None


class ExecTask(NamedTuple):
    """How to run ``process`` inside the container whose first process ``pid`` is.

    :param pidfd: of that process
    :param place: receives the pid of the process that runs it
    """

    process: Json
    pid: int
    pidfd: int
    stdio: tuple[int, int, int] | None
    seccomp: Filter
    linux: Json
    soft_files: int | None = None
    preserve: int = 0
    keyring: bool = True
    # Who forks fills these in.
    report: int = -1
    place: Place | None = None
    enter_cgroup: Callable[[], None] = lambda: None


class Report:
    """The child's line to its parent. Every packet that asks is answered by one byte, or by a closed line.

    ==========================  ============================================================
    packet                      meaning
    ==========================  ============================================================
    ``T`` + one descriptor      the terminal's master side
    ``C`` + one descriptor      of a restore: CRIU's socket, which takes the line's place
    ``L`` + one descriptor      the listener of a seccomp filter that notifies
    ``H``                       asks for what the host's side has to do, hooks above all, before the root is entered
    ``G``                       asks to be let go on: set-up is done, it waits at the gate
    ``R``                       the exec comes next
    ``E`` + JSON                it failed; an error by ``WharfError.to_dict``
    end of file                 after ``R``: the command was executed (the socket is
                                close-on-exec); without it: the child was killed
    ==========================  ============================================================
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.step = ""

    def at(self, step: str) -> None:
        """Note what is tried now: a failure names it."""
        self.step = step

    def terminal(self, master: int) -> None:
        self._hand_over(b"T", master)

    def criu(self, fd: int) -> None:
        self._hand_over(b"C", fd)

    def _hand_over(self, packet: bytes, fd: int) -> None:
        with socket.socket(fileno=os.dup(self.fd)) as line:
            socket.send_fds(line, [packet], [fd])

    def ask(self, packet: bytes) -> None:
        """Have the parent do something, and wait until it is done; without a parent this process ends."""
        os.write(self.fd, packet)
        if not os.read(self.fd, _PACKET):
            os._exit(1)

    def ready(self) -> None:
        os.write(self.fd, b"R")

    def fail(self, error: BaseException) -> NoReturn:
        """Tell the parent and end this process."""
        try:
            os.write(self.fd, b"E" + json.dumps(self._typed(error).to_dict()).encode())
        finally:
            os._exit(127)

    def _typed(self, error: BaseException) -> WharfError:
        if isinstance(error, InvalidArgument):
            return StartFailed(error.what, error.why, error.fix, step=self.step)
        if isinstance(error, WharfError):
            error.step = error.step or self.step
            return error
        if isinstance(error, OSError):
            name = f" ({error.filename})" if error.filename else ""
            why = f"{error.strerror or error}{name}"
        else:
            why = f"{type(error).__name__}: {error}"
        return StartFailed(f"cannot start the container: {self.step} failed", why, step=self.step)
