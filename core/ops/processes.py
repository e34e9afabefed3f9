"""A container's meters without a cgroup: the sums over its processes, found by their pid namespace.

For an ordinary user's engine that was given no cgroup. It costs a look at every process of the host. CPU time of a
process that has ended counts as long as its parent runs; memory is what belongs to one process alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from core.cgroups import Counters

_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def read(firsts: Iterable[int]) -> dict[int, Counters]:
    """The counters of containers by the pid of their first process; those that have ended are left out."""
    spaces = {space: pid for pid in firsts if (space := _space(str(pid)))}
    found: dict[int, Counters] = {}
    if not spaces:
        return found
    for name in os.listdir("/proc"):
        if name.isdecimal() and (first := spaces.get(_space(name))):
            found[first] = _plus(found.get(first, Counters()), name)
    return found


def _space(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:  # gone, or another user's
        return ""


def _plus(sum_: Counters, pid: str) -> Counters:
    try:
        stat = _text(pid, "stat").rpartition(b")")[2].split()
        resident, shared = (int(word) for word in _text(pid, "statm").split()[1:3])
        lines = dict(line.split(b": ") for line in _text(pid, "io").splitlines())
    except OSError:
        return sum_
    # proc_pid_stat(5): user, system, and the same of the children that it has waited for
    ticks = sum(int(word) for word in stat[11:15])
    return sum_._replace(
        cpu_ns=sum_.cpu_ns + ticks * _TICK,
        memory=sum_.memory + (resident - shared) * _PAGE,
        pids=sum_.pids + int(stat[17]),
        block_read=sum_.block_read + int(lines.get(b"read_bytes", 0)),
        block_write=sum_.block_write + int(lines.get(b"write_bytes", 0)),
    )


def _text(pid: str, name: str) -> bytes:
    fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)
