"""Words about consumption: raw counters at one moment; rates are the difference of two samples."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """One container's counters. Bytes, nanoseconds, counts; monotonic unless said otherwise."""

    id: str
    time: float  # time.monotonic() seconds when read
    cpu_ns: int = 0  # CPU time used since the start
    throttled_ns: int = 0
    memory: int = 0  # bytes in use now, page cache that can be dropped left out (docker stats' rule)
    memory_limit: int = 0  # bytes; 0 = no limit
    memory_peak: int = 0
    oom_kills: int = 0
    pids: int = 0
    pids_limit: int = 0
    block_read: int = 0
    block_write: int = 0
    net_rx: int = 0
    net_tx: int = 0


@dataclass(frozen=True)
class HostSample:
    """The host at one moment."""

    time: float  # time.monotonic() seconds
    cpus: int
    cpu_busy: float  # seconds of CPU spent busy, all CPUs together, since boot
    cpu_total: float  # seconds of CPU, busy and idle, since boot
    memory_used: int
    memory_total: int
    load1: float
    disk_used: int  # bytes of the file system with the data root
    disk_total: int
    pressure_cpu: float | None = None  # PSI "some avg10", percent; None without PSI
