"""Processes of containers as the host sees them (proc(5)): which there are, whether they run, since when."""

from __future__ import annotations

import os
import time
from pathlib import Path


def processes(cid: str) -> set[int]:
    """Of its cgroup; from the host's side."""
    found = set()
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                if cid in (path / "cgroup").read_text() and runs(int(path.name)):
                    found.add(int(path.name))
            except OSError:
                continue
    return found


def stat(pid: int) -> list[str]:
    """Of /proc/PID/stat (proc_pid_stat(5)), from the third field on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def runs(pid: int) -> bool:
    """Not one that only waits for its parent, which reaps it in its own time."""
    try:
        return stat(pid)[0] not in "ZX"
    except OSError:
        return False


def begun(pid: int) -> float:
    """Seconds since the epoch; of one that has just ended: never."""
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    try:
        return boot + int(stat(pid)[19]) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return float("inf")


def zombies_of(cid: str) -> list[str]:
    """Of the container's monitor."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                rest = stat(int(path.name))
            except OSError:
                continue
            if rest[0] == "Z" and is_monitor(Path(f"/proc/{rest[1]}"), cid):
                found.append(path.name)
    return found


def is_monitor(process: Path, cid: str) -> bool:
    try:
        return (process / "cmdline").read_bytes().startswith(f"wharf-monitor {cid}".encode())
    except OSError:
        return False
