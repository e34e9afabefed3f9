"""The host: its load at this moment, and what it is."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from pathlib import Path

from core import cgroups
from core.errors import WharfError
from core.model import HostInfo, HostSample
from core.store.paths import Instance

_TICK = os.sysconf("SC_CLK_TCK")
# Kept open: a sample is one pread(2) per file. /proc's files are made anew at every read from offset 0.
_kept: dict[str, int] = {}


def _proc(name: str, size: int) -> bytes:
    fd = _kept.get(name)
    if fd is None:
        fd = _kept[name] = os.open(f"/proc/{name}", os.O_RDONLY | os.O_CLOEXEC)
    return os.pread(fd, size, 0)


def host_sample(inst: Instance) -> HostSample:
    """The host's counters now; takes about 0.1 ms, and more on hosts with very many CPUs."""
    stat = _proc("stat", 65536)
    # user nice system idle iowait irq softirq steal; guest time is within user and nice (proc(5))
    ticks = [int(word) for word in stat.split(b"\n", 1)[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    memory = _meminfo()
    disk = os.statvfs(nearest(inst.root))
    return HostSample(
        time=time.monotonic(),
        cpus=stat.count(b"\ncpu"),
        cpu_busy=(sum(ticks) - idle) / _TICK,
        cpu_total=sum(ticks) / _TICK,
        memory_used=memory["MemTotal"] - memory["MemAvailable"],
        memory_total=memory["MemTotal"],
        load1=float(_proc("loadavg", 64).split(b" ", 1)[0]),
        disk_used=(disk.f_blocks - disk.f_bfree) * disk.f_frsize,
        disk_total=disk.f_blocks * disk.f_frsize,
        pressure_cpu=_pressure(),
    )


def _meminfo() -> dict[str, int]:
    """MemTotal and MemAvailable in bytes: they stand in the first three lines."""
    lines = _proc("meminfo", 256).split(b"\n", 3)[:3]
    return {line.split(b":")[0].decode(): int(line.split()[1]) * 1024 for line in lines}


def _pressure() -> float | None:
    try:
        text = _proc("pressure/cpu", 256)
    except OSError:  # no such file, or EOPNOTSUPP where the kernel was booted with psi=0
        return None
    return float(text.split(b"avg10=", 1)[1].split(b" ", 1)[0])


def nearest(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    while not path.exists():
        path = path.parent
    return path


def host_info(
    inst: Instance,
    *,
    containers: int = 0,
    running: int = 0,
    paused: int = 0,
    stopped: int = 0,
    images: int = 0,
    engine_version: str = "",
    checkpoints: bool = False,
) -> HostInfo:
    """What this host is; the counts are the caller's."""
    uname = os.uname()
    try:
        version = cgroups.detect().version  # "none" for an ordinary user to whom no part is delegated
    except WharfError:
        version = "none"
    return HostInfo(
        hostname=uname.nodename,
        kernel=uname.release,
        os=_os_name(),
        cpus=os.cpu_count() or 1,
        memory=_meminfo()["MemTotal"],
        cgroup_version=version,
        data_root=str(inst.root),
        run_root=str(inst.run),
        containers=containers,
        running=running,
        paused=paused,
        stopped=stopped,
        images=images,
        engine_version=engine_version,
        checkpoints=checkpoints,
        warnings=tuple(_warnings()),
    )


def _os_name() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    return "Linux"


def _warnings() -> list[str]:
    """The gaps that change what a container may expect; ``wharf doctor`` explains them and more."""
    found = []
    try:
        layout = cgroups.detect()
        lost = {"cpu", "memory", "pids"} - set(layout.controllers)
    except WharfError:
        return ["No cgroups: no limits and no meters"]
    found += [f"No {name} limit support" for name in sorted(lost)]
    if layout.mount_of("memory") and not os.path.exists(f"{layout.mount_of('memory')}/memory.memsw.limit_in_bytes"):
        found.append("No swap limit support")
    with contextlib.suppress(OSError):
        if Path("/proc/sys/net/ipv4/ip_forward").read_text("ascii").strip() == "0":
            found.append("IPv4 forwarding is disabled")
    return found
