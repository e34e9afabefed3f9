"""Waiting for the OOM killer."""

from __future__ import annotations

import contextlib
import os
import select

from core.cgroups import files
from core.cgroups.layout import check_path, detect
from core.errors import NoPrivilege, NotFound, Unsupported


class OomWatch:
    """Becomes readable when a process of the group was killed for want of memory, and when the group is removed.

    :meth:`fileno` is for ``poll``, ``epoll`` or an event loop; :meth:`news` takes what there is.
    """

    def __init__(self, folder: str, unified: bool) -> None:
        self._folder = folder
        self._fds: list[int] = []
        self._unified = unified
        self._epoll: select.epoll | None = None
        try:
            self._watch()
        except BaseException:
            self.close()
            raise
        self._seen = max(self._taken(), 0)  # a file that was never read counts as changed

    def _watch(self) -> None:
        file = "memory.events" if self._unified else "memory.oom_control"
        self._control = self._open(file)
        if self._unified:
            # The kernel marks changes of these files as urgent data; by way of epoll that is plain readability.
            self._epoll = select.epoll()
            self._fd = self._epoll.fileno()
            self._end = self._open("cgroup.events")
            for fd in (self._control, self._end):
                self._epoll.register(fd, select.EPOLLPRI)
            return
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._fds.append(self._fd)
        files.write(f"{self._folder}/cgroup.event_control", f"{self._fd} {self._control}")

    def _open(self, name: str) -> int:
        fd = os.open(f"{self._folder}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        self._fds.append(fd)
        return fd

    def fileno(self) -> int:
        return self._fd

    def _taken(self) -> int:
        """How many were killed so far, which is no news any more then; -1 where the group is gone."""
        try:
            if self._unified:
                os.pread(self._end, 4096, 0)
            else:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._fd)
            return files.fields(os.pread(self._control, 4096, 0).decode()).get("oom_kill", 0)
        except OSError:
            return -1

    def news(self) -> int | None:
        """How many processes were killed since the last call (0: none); None once the group is gone."""
        now = self._taken()
        if now < 0 or not os.path.isdir(self._folder):
            return None
        found, self._seen = now - self._seen, now
        return found

    def close(self) -> None:
        if self._epoll is not None:
            self._epoll.close()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def __enter__(self) -> OomWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def oom_watch(path: str) -> OomWatch:
    """Watch a group for the OOM killer.

    :raises NotFound: no such group
    :raises Unsupported: the host has no memory controller
    :raises NoPrivilege: the group may not be watched
    """
    check_path(path)
    layout = detect()
    mount = layout.mount_of("memory") or layout.unified
    folder = f"{mount}/{path}"
    if not mount or not os.path.isdir(folder):
        raise NotFound(f"no cgroup {path}", "its container does not run", "Start the container")
    try:
        return OomWatch(folder, not layout.mount_of("memory"))
    except FileNotFoundError as exc:
        raise Unsupported(
            "cannot watch for the OOM killer",
            f"there is no {exc.filename} (cgroup controller memory)",
            "Boot with cgroup_enable=memory",
        ) from exc
    except PermissionError as exc:
        raise NoPrivilege("cannot watch for the OOM killer", str(exc), "Run as the user who started it") from exc
