"""What a forked child needs to become the container's first process, or one that joins it; and how it reports back."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from core.errors import InvalidArgument, StartFailed, WharfError
from core.kernel import process
from core.kernel.clone import Place
from core.runtime.defaults import Json

# By their names in config.json. The pid namespace is entered by a fork.
NAMESPACES = {
    "mount": process.CLONE_NEWNS,
    "uts": process.CLONE_NEWUTS,
    "ipc": process.CLONE_NEWIPC,
    "network": process.CLONE_NEWNET,
    "cgroup": process.CLONE_NEWCGROUP,
}


@dataclass
class Rootfs:
    """The folders that overlayfs stacks; ``lower`` top first."""

    lower: list[str]
    upper: str
    work: str


@dataclass
class InitTask:
    """How to start a container. Descriptors are the child's own after the fork."""

    config: Json
    rootfs: Rootfs
    mount_point: str  # a host folder that the root is put on, in the child's mount namespace only
    report: int  # SOCK_SEQPACKET to the monitor (see :class:`Report`)
    stdio: tuple[int, int, int] | None  # None: make a terminal
    netns: int | None
    enter_cgroup: Callable[[], None]
    cgroup_views: list[tuple[str, str]]  # name below /sys/fs/cgroup ("" for itself) → host folder
    seccomp: bytes


@dataclass
class ExecTask:
    """How to run ``process`` inside the container whose first process ``pidfd`` is.

    ``place`` receives the pid of the process that runs it.
    """

    process: Json
    pidfd: int
    place: Place
    report: int
    stdio: tuple[int, int, int] | None
    enter_cgroup: Callable[[], None]
    seccomp: bytes


class Report:
    """The child's line to the monitor.

    ==========================  ============================================================
    packet                      meaning
    ==========================  ============================================================
    ``T`` + one descriptor      the terminal's master side
    ``R``                       set-up is done, the exec comes next
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
        with socket.socket(fileno=os.dup(self.fd)) as line:
            socket.send_fds(line, [b"T"], [master])

    def ready(self) -> None:
        os.write(self.fd, b"R")

    def fail(self, error: BaseException) -> NoReturn:
        """Tell the monitor and end this process."""
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
