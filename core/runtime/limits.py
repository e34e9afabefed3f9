"""Limits in the specification's words: ``--ulimit`` as ``process.rlimits``, the others as ``linux.resources``."""

from __future__ import annotations

import resource
from collections.abc import Sequence

from core.errors import InvalidArgument
from core.kernel import caps
from core.model.container import ContainerSpec, Resources
from core.runtime import defaults
from core.runtime.defaults import Json

_PERIOD = 100_000  # microseconds: the kernel's default CPU period


def rlimits(ulimits: Sequence[str]) -> list[Json]:
    """From ``nofile=1024:2048``.

    :raises InvalidArgument: no such limit, or a hard limit above our own that we may not raise
    """
    limits: list[Json] = []
    for text in ulimits:
        name, _, values = text.partition("=")
        soft_text, _, hard_text = values.partition(":")
        number = getattr(resource, f"RLIMIT_{name.upper()}", None)
        try:
            soft = _limit(soft_text)
            hard = _limit(hard_text) if hard_text else soft
        except ValueError:
            number = None
        if number is None:
            raise InvalidArgument(f"invalid ulimit {text!r}", "it is not like nofile=1024:2048", "See setrlimit(2)")
        if soft > hard:
            raise InvalidArgument(f"invalid ulimit {text!r}", "the soft limit exceeds the hard one", "Swap them")
        _check_hard_limit(text, number, hard)
        limits.append({"type": f"RLIMIT_{name.upper()}", "soft": soft, "hard": hard})
    return limits


def _check_hard_limit(text: str, number: int, hard: int) -> None:
    own = resource.getrlimit(number)[1]
    if own == resource.RLIM_INFINITY or hard <= own or "CAP_SYS_RESOURCE" in caps.bounding():
        return
    raise InvalidArgument(
        f"cannot raise {text!r}",
        f"this host's own hard limit is {own} and CAP_SYS_RESOURCE is missing",
        f"Ask for at most {own}",
    )


def _limit(text: str) -> int:
    value = int(text)
    if not -1 <= value < 1 << 64:
        raise ValueError
    return (1 << 64) - 1 if value == -1 else value


def resources(spec: ContainerSpec) -> Json:
    """``linux.resources`` in the kernel's units: bytes, microseconds."""
    found: Json = {"devices": [{"allow": True, "access": "rwm"}] if spec.privileged else defaults.device_rules()}
    limits = spec.resources
    memory: Json = {}
    if limits.memory:
        memory["limit"] = limits.memory
        # Docker's rule: as much swap as memory where nothing is said.
        memory["swap"] = limits.memory_swap or limits.memory * 2
    if limits.memory_reservation:
        memory["reservation"] = limits.memory_reservation
    if limits.oom_kill_disable:
        memory["disableOOMKiller"] = True
    if memory:
        found["memory"] = memory
    cpu = _cpu(limits)
    if cpu:
        found["cpu"] = cpu
    if limits.pids_limit > 0:
        found["pids"] = {"limit": limits.pids_limit}
    return found


def _cpu(limits: Resources) -> Json:
    period, quota = limits.cpu_period, limits.cpu_quota
    if limits.nano_cpus:
        period, quota = _PERIOD, limits.nano_cpus * _PERIOD // 1_000_000_000
    wanted = {
        "shares": limits.cpu_shares,
        "period": period,
        "quota": quota,
        "cpus": limits.cpuset_cpus,
        "mems": limits.cpuset_mems,
    }
    return {key: value for key, value in wanted.items() if value}
