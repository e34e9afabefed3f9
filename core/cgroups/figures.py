"""All counters of a group at once, in the words of ``runc events --stats``: for the OCI command line.

What is read often, for many containers, is :class:`core.cgroups.sampler.Sampler`'s.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from typing import Any

from core.cgroups import files
from core.cgroups.layout import Layout, check_path, detect
from core.errors import NotFound

_NO_LIMIT = (1 << 64) - 1  # how "max" is told
Figures = dict[str, Any]


def stats(path: str) -> Figures:
    """The group's counters: ``cpu`` (nanoseconds), ``cpuset``, ``memory`` (bytes), ``pids``, ``blkio``, ``hugetlb``,
    as ``runc events --stats`` nests and names them (the ``data`` of an event of type ``stats``, without what is not a
    cgroup's: ``intel_rdt``, ``network_interfaces``). What the host does not count is 0 or missing.

    :raises NotFound: no such group
    """
    check_path(path)
    layout = detect()
    group = _Group(layout, path)
    if not group.folders:
        raise NotFound(f"no cgroup {path}", "its container does not run", "Start the container")
    found = {
        "cpu": _cpu(group),
        "cpuset": _cpuset(group),
        "memory": _memory(group),
        "pids": {"current": group.number("pids", "pids.current"), "limit": group.bound("pids", "pids.max")},
        "blkio": _block(group),
        "hugetlb": _huge_pages(group),
    }
    for part, name in (("cpu", "cpu"), ("memory", "memory"), ("blkio", "io")):
        pressure = group.pressure(name)
        if pressure:
            found[part]["psi"] = pressure
    return found


class _Group:
    """Reads a group's files by their controller's v1 name, wherever that controller is."""

    def __init__(self, layout: Layout, path: str) -> None:
        wanted = ((name, mount) for h in layout.hierarchies for name, mount in ((c, h.mount) for c in h.controllers))
        self.folders = {name: f"{mount}/{path}" for name, mount in wanted if os.path.isdir(f"{mount}/{path}")}
        unified = f"{layout.unified}/{path}"
        self.unified = unified if layout.unified and os.path.isdir(unified) else ""
        if self.unified:
            self.folders[""] = unified

    def on_v1(self, controller: str) -> bool:
        return controller in self.folders

    def text(self, controller: str, file: str) -> str:
        """A file's content; empty where there is none, or the kernel will not read it."""
        folder = self.folders.get(controller) or self.unified
        with contextlib.suppress(OSError):
            return files.read_all(f"{folder}/{file}").strip()
        return ""

    def number(self, controller: str, file: str) -> int:
        word = self.text(controller, file)
        return int(word) if word.lstrip("-").isdigit() else 0

    def bound(self, controller: str, file: str, unlimited: int = 0) -> int:
        word = self.text(controller, file)
        return int(word) if word.isdigit() else unlimited

    def fields(self, controller: str, file: str) -> dict[str, int]:
        return files.fields(self.text(controller, file))

    def pressure(self, name: str) -> Figures:
        """``some avg10=0.00 avg60=0.00 avg300=0.00 total=0`` and the like; the v2 tree has it on a hybrid host too."""
        found: Figures = {}
        for line in self.text("", f"{name}.pressure").splitlines():
            kind, *words = line.split()
            pairs = (word.split("=") for word in words)
            found[kind] = {key: int(value) if key == "total" else float(value) for key, value in pairs}
        return found


def _cpu(group: _Group) -> Figures:
    stat = group.fields("cpu", "cpu.stat")
    throttling = {"periods": stat.get("nr_periods", 0), "throttledPeriods": stat.get("nr_throttled", 0)}
    if not group.on_v1("cpuacct"):
        usage = {name: stat.get(f"{key}_usec", 0) * 1000 for name, key in _TIMES}
        return {"usage": usage, "throttling": {**throttling, "throttledTime": stat.get("throttled_usec", 0) * 1000}}
    each = [line.split() for line in group.text("cpuacct", "cpuacct.usage_all").splitlines()[1:]]  # "cpu user system"
    kernel, user = group.number("cpuacct", "cpuacct.usage_sys"), group.number("cpuacct", "cpuacct.usage_user")
    usage_v1: Figures = {"total": group.number("cpuacct", "cpuacct.usage"), "kernel": kernel, "user": user}
    usage_v1["percpu"] = [int(word) for word in group.text("cpuacct", "cpuacct.usage_percpu").split()]
    usage_v1["percpu_user"] = [int(line[1]) for line in each]
    usage_v1["percpu_kernel"] = [int(line[2]) for line in each]
    return {"usage": usage_v1, "throttling": {**throttling, "throttledTime": stat.get("throttled_time", 0)}}


_TIMES = (("total", "usage"), ("kernel", "system"), ("user", "user"))
_CPUSET_FLAGS = (
    "cpu_exclusive mem_hardwall mem_exclusive memory_migrate memory_spread_page memory_spread_slab memory_pressure "
    "sched_load_balance sched_relax_domain_level"
).split()


def _cpuset(group: _Group) -> Figures:
    found: Figures = {name: _numbers(group.text("cpuset", f"cpuset.{name}")) for name in ("cpus", "mems")}
    for name in _CPUSET_FLAGS:
        found[name] = group.number("cpuset", f"cpuset.{name}")
    return found


def _numbers(text: str) -> list[int]:
    """``0-2,5`` one by one."""
    found: list[int] = []
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _memory(group: _Group) -> Figures:
    raw = group.fields("memory", "memory.stat")
    if group.on_v1("memory"):
        return {
            "cache": raw.get("cache", 0),
            "usage": _memory_v1(group, "memory"),
            "swap": _memory_v1(group, "memory.memsw"),
            "kernel": _memory_v1(group, "memory.kmem"),
            "kernelTCP": _memory_v1(group, "memory.kmem.tcp"),
            "raw": raw,
        }
    usage = _memory_v2(group, "memory")
    swap = _memory_v2(group, "memory.swap")
    # The OCI's words are v1's, where swap is memory + swap; the highest use of both together v2 does not know.
    both = swap["limit"] + usage["limit"] if _NO_LIMIT not in (swap["limit"], usage["limit"]) else _NO_LIMIT
    swap.update(usage=swap["usage"] + usage["usage"], limit=both, max=0)
    kernel = {"limit": 0, "usage": raw.get("kernel", 0), "max": 0, "failcnt": 0}
    tcp = {"limit": 0, "usage": raw.get("sock", 0), "max": 0, "failcnt": 0}
    return {"cache": raw.get("file", 0), "usage": usage, "swap": swap, "kernel": kernel, "kernelTCP": tcp, "raw": raw}


def _memory_v1(group: _Group, name: str) -> Figures:
    words = {"limit": "limit_in_bytes", "usage": "usage_in_bytes", "max": "max_usage_in_bytes", "failcnt": "failcnt"}
    return {key: group.number("memory", f"{name}.{file}") for key, file in words.items()}


def _memory_v2(group: _Group, name: str) -> Figures:
    return {
        "limit": group.bound("memory", f"{name}.max", _NO_LIMIT),
        "usage": group.number("memory", f"{name}.current"),
        "max": group.number("memory", f"{name}.peak"),
        "failcnt": group.fields("memory", f"{name}.events").get("max", 0),
    }


_BLOCK_V1 = {  # BFQ's figures where that is at work, CFQ's on old kernels, else the block layer's own
    "ioServiceBytesRecursive": ("bfq.io_service_bytes", "io_service_bytes", "throttle.io_service_bytes"),
    "ioServicedRecursive": ("bfq.io_serviced", "io_serviced", "throttle.io_serviced"),
    "ioQueueRecursive": ("bfq.io_queued", "io_queued"),
    "ioServiceTimeRecursive": ("bfq.io_service_time", "io_service_time"),
    "ioWaitTimeRecursive": ("bfq.io_wait_time", "io_wait_time"),
    "ioMergedRecursive": ("bfq.io_merged", "io_merged"),
    "ioTimeRecursive": ("bfq.time", "time"),
    "sectorsRecursive": ("bfq.sectors", "sectors"),
}
_BLOCK_V2 = {
    "rbytes": ("ioServiceBytesRecursive", "Read"),
    "wbytes": ("ioServiceBytesRecursive", "Write"),
    "rios": ("ioServicedRecursive", "Read"),
    "wios": ("ioServicedRecursive", "Write"),
}


def _block(group: _Group) -> Figures:
    found: Figures = {}
    if not group.on_v1("blkio"):
        for line in group.text("io", "io.stat").splitlines():  # "8:0 rbytes=4096 wbytes=0 rios=1 …"
            device, *words = line.split()
            for word in words:
                key, _, value = word.partition("=")
                if key in _BLOCK_V2:
                    table, operation = _BLOCK_V2[key]
                    found.setdefault(table, []).append(_entry(device, operation, value))
        return found
    for table, names in _BLOCK_V1.items():
        texts = (group.text("blkio", f"blkio.{name}_recursive") for name in names)
        entries = next((entries for text in texts if (entries := list(_entries(text)))), None)
        if entries:
            found[table] = entries
    return found


def _entries(text: str) -> Iterable[Figures]:
    """``8:0 Read 4096``, ``8:0 4096``, and a last line ``Total 4096``."""
    for line in text.splitlines():
        device, *rest = line.split()
        if ":" in device:
            yield _entry(device, rest[0] if len(rest) > 1 else "", rest[-1])


def _entry(device: str, operation: str, value: str) -> Figures:
    major, _, minor = device.partition(":")
    return {"major": int(major), "minor": int(minor), "op": operation, "value": int(value)}


_PAGES = re.compile(r"hugetlb\.([0-9]+[KMG]B)\.(?:current|usage_in_bytes)")


def _huge_pages(group: _Group) -> Figures:
    found: Figures = {}
    folder = group.folders.get("hugetlb") or group.unified
    for name in sorted(os.listdir(folder)) if folder else ():
        match = _PAGES.fullmatch(name)
        if not match:
            continue
        size = match[1]
        # Reservations, where the kernel counts them: those are what a limit is about.
        kind = f"hugetlb.{size}.rsvd" if group.text("hugetlb", f"hugetlb.{size}.rsvd.{name.split('.')[-1]}") else ""
        kind = kind or f"hugetlb.{size}"
        if group.on_v1("hugetlb"):
            words = {"usage": "usage_in_bytes", "max": "max_usage_in_bytes", "failcnt": "failcnt"}
            found[size] = {key: group.number("hugetlb", f"{kind}.{file}") for key, file in words.items()}
        else:
            refused = group.fields("hugetlb", f"hugetlb.{size}.events").get("max", 0)
            found[size] = {"usage": group.number("hugetlb", f"{kind}.current"), "max": 0, "failcnt": refused}
    return found
