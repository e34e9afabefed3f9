"""The counters of many containers, read often: descriptors stay open, one pread(2) per file.

A sample of a container costs about ten system calls. Descriptors are kept while they take less than half of what this
process may open; beyond that they are opened for each sample.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Callable
from typing import NamedTuple

from core.cgroups.layout import Layout, check_path, detect
from core.errors import NotFound

_UNLIMITED = 1 << 60  # v1 writes "no limit" as the greatest multiple of a page
# What each version's figures are read from: name -> (v1 controller, file)
_V1 = {
    "usage": ("cpuacct", "cpuacct.usage"),
    "cpu": ("cpu", "cpu.stat"),
    "memory": ("memory", "memory.usage_in_bytes"),
    "stat": ("memory", "memory.stat"),
    "peak": ("memory", "memory.max_usage_in_bytes"),
    "oom": ("memory", "memory.oom_control"),
    "pids": ("pids", "pids.current"),
    "pids_max": ("pids", "pids.max"),
    "io": ("blkio", "blkio.throttle.io_service_bytes_recursive"),
}
_V2 = {
    "cpu": "cpu.stat",
    "memory": "memory.current",
    "stat": "memory.stat",
    "limit": "memory.max",
    "peak": "memory.peak",
    "oom": "memory.events",
    "pids": "pids.current",
    "pids_max": "pids.max",
    "io": "io.stat",
}


class Counters(NamedTuple):
    """One group's counters; units and meaning as in :class:`core.model.Sample`."""

    cpu_ns: int = 0
    throttled_ns: int = 0
    memory: int = 0
    memory_limit: int = 0
    memory_peak: int = 0
    oom_kills: int = 0
    pids: int = 0
    pids_limit: int = 0
    block_read: int = 0
    block_write: int = 0


class _Group:
    """The files of one group, open or not."""

    def __init__(self, paths: dict[str, str]) -> None:
        self.paths = paths
        self.fds: dict[str, int] = {}
        self.peak = 0  # the highest usage seen, for kernels without memory.peak

    def open(self) -> None:
        for name, path in self.paths.items():
            with contextlib.suppress(FileNotFoundError):
                self.fds[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        for fd in self.fds.values():
            os.close(fd)
        self.fds.clear()

    def text(self, name: str) -> bytes:
        fd = self.fds.get(name)
        return os.pread(fd, 16384, 0) if fd is not None else b""

    def number(self, name: str) -> int:
        """The file's number; 0 for a missing file and for "max"."""
        word = self.text(name).strip()
        return int(word) if word.isdigit() else 0

    def field(self, name: str, key: bytes) -> int:
        """The number behind ``key`` in a flat keyed file."""
        text = b"\n" + self.text(name)
        start = text.find(b"\n" + key + b" ")
        return int(text[start + len(key) + 2 :].split(b"\n", 1)[0]) if start >= 0 else 0


class Sampler:
    """Reads counters; not for several threads at once."""

    def __init__(self, layout: Layout | None = None) -> None:
        self._layout = layout or detect()
        self._groups: dict[str, _Group] = {}
        self._budget = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2

    def read(self, path: str) -> Counters:
        """The counters of the group at ``path`` now.

        :raises NotFound: there is no such group (any more)
        """
        group = self._groups.get(path)
        for attempt in range(2):
            if group is None:
                group = self._open(path)
            try:
                counters = self._read(group)
            except OSError as exc:
                # ENODEV: the group was removed; one of the same name may stand in its place (a restart).
                self.forget(path)
                group.close()
                group = None
                if exc.errno != errno.ENODEV or attempt:
                    raise
                continue
            if path not in self._groups:
                group.close()
            return counters
        raise _gone(path)

    def forget(self, path: str) -> None:
        """Close what is kept for ``path``."""
        group = self._groups.pop(path, None)
        if group:
            self._budget += len(group.paths)
            group.close()

    def close(self) -> None:
        for path in list(self._groups):
            self.forget(path)

    def _open(self, path: str) -> _Group:
        check_path(path)
        layout = self._layout
        if layout.version == "v2":
            paths = {name: f"{layout.unified}/{path}/{file}" for name, file in _V2.items()}
        else:
            paths = {
                name: f"{layout.mount_of(controller)}/{path}/{file}"
                for name, (controller, file) in _V1.items()
                if layout.mount_of(controller)
            }
        group = _Group(paths)
        group.open()
        if not group.fds:
            raise _gone(path)
        if self._budget >= len(paths):
            self._budget -= len(paths)
            self._groups[path] = group
        return group

    def _read(self, group: _Group) -> Counters:
        read: Callable[[_Group], Counters] = _read_v2 if self._layout.version == "v2" else _read_v1
        counters = read(group)
        group.peak = max(group.peak, counters.memory_peak, counters.memory)
        return counters if counters.memory_peak else counters._replace(memory_peak=group.peak)


def _gone(path: str) -> NotFound:
    if not detect().mounts:
        return NotFound(f"no cgroup {path}", "this user may not make any, so nothing is counted", "See `wharf doctor`")
    return NotFound(f"no cgroup {path}", "its container does not run", "Start the container")


def _read_v1(group: _Group) -> Counters:
    stat = b"\n" + group.text("stat")
    limit = _after(stat, b"\nhierarchical_memory_limit ")
    # Docker's rule: page cache that can be dropped at once is not "in use".
    inactive = _after(stat, b"\ntotal_inactive_file ")
    # "8:0 Read 4096", and the same operations again in a line "Total"
    words = [line.split() for line in group.text("io").splitlines()]
    return _counters(
        group,
        cpu=group.number("usage"),
        throttled=group.field("cpu", b"throttled_time"),
        inactive=inactive,
        limit=limit if limit < _UNLIMITED else 0,
        block=[sum(int(w[2]) for w in words if len(w) == 3 and w[1] == kind) for kind in (b"Read", b"Write")],
    )


def _read_v2(group: _Group) -> Counters:
    words = group.text("io").split()  # "8:0 rbytes=4096 wbytes=0 rios=1 …"
    cpu = b"\n" + group.text("cpu")
    return _counters(
        group,
        cpu=_after(cpu, b"\nusage_usec ") * 1000,
        throttled=_after(cpu, b"\nthrottled_usec ") * 1000,
        inactive=group.field("stat", b"inactive_file"),
        limit=group.number("limit"),
        block=[sum(int(word[7:]) for word in words if word.startswith(key)) for key in (b"rbytes=", b"wbytes=")],
    )


def _counters(group: _Group, *, cpu: int, throttled: int, inactive: int, limit: int, block: list[int]) -> Counters:
    """With what both versions have under the same names."""
    return Counters(
        cpu,
        throttled,
        max(group.number("memory") - inactive, 0),
        limit,
        group.number("peak"),
        group.field("oom", b"oom_kill"),
        group.number("pids"),
        group.number("pids_max"),
        *block,
    )


def _after(text: bytes, key: bytes) -> int:
    start = text.find(key)
    return int(text[start + len(key) :].split(b"\n", 1)[0]) if start >= 0 else 0
