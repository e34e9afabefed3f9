"""Which limits ``create`` and ``update`` refuse."""

from __future__ import annotations

import os
import re
from pathlib import Path

from core.errors import InvalidArgument
from core.model import Resources
from core.units import size_word

MIN_MEMORY = 6 * 1024 * 1024  # bytes; below it a start fails in confusing ways (Docker has the same floor)
MOST = 1 << 62  # of any count of bytes or microseconds
_CPUS = re.compile(r"[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*")


def check_limits(limits: Resources) -> None:
    """:raises InvalidArgument: a limit that no container can have, by itself or beside another"""
    if 0 < limits.memory < MIN_MEMORY:
        raise InvalidArgument(
            f"memory limit of {size_word(limits.memory)}", "the least is 6m", "Give --memory 6m or more"
        )
    _within("memory limit", limits.memory, 0, MOST)
    _within("memory reservation", limits.memory_reservation, 0, limits.memory or MOST)
    _within("limit of memory and swap", limits.memory_swap, -1, MOST)
    if limits.memory_swap > 0 and not 0 < limits.memory <= limits.memory_swap:
        raise InvalidArgument(
            "invalid limit of memory and swap", "it holds the memory too, whose limit is missing or larger", "Raise it"
        )
    if limits.nano_cpus and (limits.cpu_period or limits.cpu_quota):
        raise InvalidArgument("--cpus and --cpu-quota contradict each other", "--cpus sets the quota", "Give one")
    _check_cpus(limits.nano_cpus / 1e9)
    _within("CPU period", limits.cpu_period, 1_000, 1_000_000, or_zero=True)
    if limits.cpu_quota != -1:
        _within("CPU quota", limits.cpu_quota, 1_000, MOST, or_zero=True)
    _within("CPU shares", limits.cpu_shares, 2, 262_144, or_zero=True)
    _within("real-time period", limits.cpu_rt_period, 1_000, 1_000_000, or_zero=True)
    _within("real-time runtime", limits.cpu_rt_runtime, 0, limits.cpu_rt_period or 1_000_000)
    _within("swappiness", limits.memory_swappiness, -1, 100)
    _within("limit of processes", limits.pids_limit, -1, 1 << 22)
    _check_set("CPUs", limits.cpuset_cpus, Path("/sys/devices/system/cpu/online"))
    _check_set("memory nodes", limits.cpuset_mems, Path("/sys/devices/system/node/online"))
    _check_block(limits)


def _check_cpus(wanted: float) -> None:
    most = os.cpu_count() or 1
    if wanted and not 0.01 <= wanted <= most:
        raise InvalidArgument(f"cannot have {wanted:g} CPUs", f"this host has {most}", f"Give --cpus 0.01 to {most}")


def _check_block(limits: Resources) -> None:
    _within("block I/O weight", limits.blkio_weight, 10, 1000, or_zero=True)
    for each in limits.blkio_weight_device:
        _within(f"I/O weight of {each.path}", each.value, 10, 1000)
    for rates in (limits.device_read_bps, limits.device_write_bps, limits.device_read_iops, limits.device_write_iops):
        for each in rates:
            _within(f"I/O rate of {each.path}", each.value, 1, MOST)


def _within(what: str, value: int, low: int, high: int, *, or_zero: bool = False) -> None:
    if not (low <= value <= high or (or_zero and value == 0)):
        raise InvalidArgument(f"invalid {what}: {value}", f"it is not between {low} and {high}", "Give another")


def _check_set(what: str, wanted: str, online: Path) -> None:
    if not wanted:
        return
    if not _CPUS.fullmatch(wanted):
        raise InvalidArgument(f"invalid list of {what} {wanted[:100]!r}", "it is not like 0-2,4", "Write it so")
    try:
        there = online.read_text().strip()
    except OSError:
        there = "0"
    missing = _members(wanted) - _members(there)
    if missing:
        raise InvalidArgument(f"there are no {what} {wanted}", f"this host has {there}", "Choose among these")


def _members(text: str) -> set[int]:
    spans = [part.partition("-") for part in text.split(",")]
    return {number for low, _, high in spans for number in range(int(low), int(high or low) + 1)}
