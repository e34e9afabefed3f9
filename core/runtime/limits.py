"""Limits in the specification's words: ``--ulimit`` as ``process.rlimits``, the others as ``linux.resources``."""

from __future__ import annotations

import functools
import resource
from collections.abc import Sequence
from typing import cast

from core.errors import InvalidArgument
from core.kernel import caps
from core.model.container import ContainerSpec, Resources
from core.runtime import nodes
from core.runtime.defaults import Json

_PERIOD = 100_000  # microseconds: the kernel's default CPU period


def rlimits(ulimits: Sequence[str]) -> list[Json]:
    """``process.rlimits``.

    :raises InvalidArgument: no such limit, or a hard limit above our own that we may not raise
    """
    limits: list[Json] = []
    for name, soft, hard in parse_ulimits(ulimits):
        _check_hard_limit(name, _unsigned(hard))
        limits.append({"type": f"RLIMIT_{name.upper()}", "soft": _unsigned(soft), "hard": _unsigned(hard)})
    return limits


def parse_ulimits(ulimits: Sequence[str]) -> list[tuple[str, int, int]]:
    """Name, soft and hard limit (-1: none) of ``nofile=1024:2048``. :raises InvalidArgument:"""
    found = []
    for text in ulimits:
        name, _, values = text.lower().partition("=")
        soft_text, _, hard_text = values.partition(":")
        known = hasattr(resource, f"RLIMIT_{name.upper()}")
        try:
            soft = _limit(soft_text)
            hard = _limit(hard_text) if hard_text else soft
        except ValueError:
            known = False
        if not known:
            raise InvalidArgument(f"invalid ulimit {text!r}", "it is not like nofile=1024:2048", "See setrlimit(2)")
        if _unsigned(soft) > _unsigned(hard):
            raise InvalidArgument(f"invalid ulimit {text!r}", "the soft limit exceeds the hard one", "Swap them")
        found.append((name, soft, hard))
    return found


def _check_hard_limit(name: str, hard: int) -> None:
    own = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1]
    if own == resource.RLIM_INFINITY or hard <= own or "CAP_SYS_RESOURCE" in caps.bounding():
        return
    raise InvalidArgument(
        f"cannot raise {name} to {hard}",
        f"this host's own hard limit is {own} and CAP_SYS_RESOURCE is missing",
        f"Ask for at most {own}",
    )


def _limit(text: str) -> int:
    value = int(text)
    if not -1 <= value < 1 << 64:
        raise ValueError
    return value


def _unsigned(value: int) -> int:
    return (1 << 64) - 1 if value == -1 else value


def resources(spec: ContainerSpec) -> Json:
    """``linux.resources`` in the kernel's units: bytes, microseconds. :raises InvalidArgument: a device that is none"""
    return {"devices": nodes.rules(spec), **cgroup_limits(spec.resources)}


def cgroup_limits(limits: Resources) -> Json:
    """``linux.resources`` without its device rules. :raises InvalidArgument: a device that is none"""
    found = {"memory": _memory(limits), "cpu": _cpu(limits), "blockIO": _block(limits)}
    if limits.pids_limit:
        found["pids"] = {"limit": limits.pids_limit}
    return {key: value for key, value in found.items() if value}


# What a container has of which nothing was said, as far as a group at work can be told so.
_FREE: dict[str, Json] = {
    "memory": {"limit": -1, "swap": -1, "reservation": -1},
    "cpu": {"quota": -1, "shares": 1024},
    "pids": {"limit": -1},
}


def whole_limits(limits: Resources) -> Json:
    """As :func:`cgroup_limits`, with a word for what is not limited: for a group that may have been changed."""
    found = cgroup_limits(limits)
    return {**found, **{part: {**free, **cast(Json, found.get(part, {}))} for part, free in _FREE.items()}}


def _memory(limits: Resources) -> Json:
    memory: Json = {}
    if limits.memory:
        memory["limit"] = limits.memory
        # Docker's rule: as much swap as memory where nothing is said.
        memory["swap"] = limits.memory_swap or limits.memory * 2
    if limits.memory_reservation:
        memory["reservation"] = limits.memory_reservation
    if limits.memory_swappiness >= 0:
        memory["swappiness"] = limits.memory_swappiness
    if limits.oom_kill_disable:
        memory["disableOOMKiller"] = True
    return memory


def _cpu(limits: Resources) -> Json:
    period, quota = limits.cpu_period, limits.cpu_quota
    if limits.nano_cpus:
        period, quota = _PERIOD, limits.nano_cpus * _PERIOD // 1_000_000_000
    wanted = {
        "shares": limits.cpu_shares,
        "period": period,
        "quota": quota,
        "realtimePeriod": limits.cpu_rt_period,
        "realtimeRuntime": limits.cpu_rt_runtime,
        "cpus": limits.cpuset_cpus,
        "mems": limits.cpuset_mems,
    }
    return {key: value for key, value in wanted.items() if value}


def _block(limits: Resources) -> Json:
    block: Json = {"weight": limits.blkio_weight} if limits.blkio_weight else {}
    for key, word, wanted in (
        ("weightDevice", "weight", limits.blkio_weight_device),
        ("throttleReadBpsDevice", "rate", limits.device_read_bps),
        ("throttleWriteBpsDevice", "rate", limits.device_write_bps),
        ("throttleReadIOPSDevice", "rate", limits.device_read_iops),
        ("throttleWriteIOPSDevice", "rate", limits.device_write_iops),
    ):
        entries = []
        for each in wanted:
            major, minor = nodes.number_of(each.path)
            entries.append({"major": major, "minor": minor, word: each.value})
        if entries:
            block[key] = entries
    return block


@functools.cache
def _own_oom_score() -> int:
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        return int(file.read())


def oom_score_adj(wanted: int) -> int | None:
    """``process.oomScoreAdj``; None leaves the launcher's as it is, where nothing else can or need be had.

    A container does not inherit that the engine's own session is spared by the OOM killer.

    :raises InvalidArgument: less than our own without the right to lower it
    """
    own = _own_oom_score()
    if wanted == own:
        return None
    if wanted < own and "CAP_SYS_RESOURCE" not in caps.bounding():
        if wanted == 0:
            return None
        raise InvalidArgument(
            f"cannot lower the OOM score to {wanted}",
            f"this process has {own}, and CAP_SYS_RESOURCE is missing",
            f"Ask for {own} or more",
        )
    return wanted
