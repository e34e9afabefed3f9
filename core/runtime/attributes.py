"""What ``process`` of config.json says about scheduling and accounting: set while the rights for it are there."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import cast

from core.errors import StartFailed
from core.kernel import sched
from core.runtime.defaults import Json


def set_oom_score(own: Json) -> None:
    """``process.oomScoreAdj``: on the host's side of a user namespace, where it can still be lowered.

    :raises StartFailed: lower than our own without CAP_SYS_RESOURCE
    """
    wanted = own.get("oomScoreAdj")
    if wanted is None:
        return
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        now = file.read().strip()
    if now == str(wanted):
        return
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(wanted))
    except PermissionError as error:
        raise StartFailed(
            f"cannot set the OOM score adjustment to {wanted}",
            f"ours is {now}, and going below the lowest so far needs CAP_SYS_RESOURCE",
            f"Ask for {now} or more",
            step="OOM score",
        ) from error


def set_scheduling(own: Json) -> None:
    """``process.scheduler`` and ``process.ioPriority``.

    :raises StartFailed: what the kernel refuses
    """
    scheduler = cast("Json | None", own.get("scheduler"))
    if scheduler:
        flags = sum(sched.FLAGS[name] for name in cast("list[str]", scheduler.get("flags") or []))
        numbers = {key: cast(int, scheduler.get(key) or 0) for key in ("nice", "priority")}
        times = {key: cast(int, scheduler.get(key) or 0) for key in ("runtime", "deadline", "period")}
        policy = str(scheduler["policy"])
        number = sched.POLICIES[policy]
        _try(f"the scheduler {policy}", lambda: sched.set_scheduler(number, flags=flags, **numbers, **times))
    wanted = cast("Json | None", own.get("ioPriority"))
    if wanted:
        kind, priority = sched.IO_CLASSES[str(wanted["class"])], cast(int, wanted.get("priority") or 0)
        _try(f"the I/O priority {wanted['class']} {priority}", lambda: sched.set_io_priority(kind, priority))


def ends_with_fork(own: Json) -> bool:
    """Would a process with ``process.scheduler`` not hand it on to its children (sched(7))?"""
    scheduler = cast(Json, own.get("scheduler") or {})
    flags = cast("list[str]", scheduler.get("flags") or [])
    return scheduler.get("policy") == "SCHED_DEADLINE" or "SCHED_FLAG_RESET_ON_FORK" in flags


def set_affinity(own: Json, which: str) -> None:
    """``process.execCPUAffinity``: ``initial`` until the cgroup is entered, ``final`` for the command."""
    text = cast(Json, own.get("execCPUAffinity") or {}).get(which)
    if text:
        _try(f"the CPUs {text}", lambda: os.sched_setaffinity(0, cpus(str(text))))


def cpus(text: str) -> set[int]:
    """The numbers of a list like ``0-2,7`` (cpuset(7), "List format").

    :raises ValueError:
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        found.update(range(int(first), int(last if dash else first) + 1))
    return found


def set_personality(linux: Json) -> None:
    """``linux.personality``: 32-bit programs may want the kernel to call itself one of 32 bits."""
    wanted = cast("Json | None", linux.get("personality"))
    if wanted:
        domain = sched.DOMAINS[str(wanted["domain"])]
        _try(f"the personality {wanted['domain']}", lambda: sched.set_personality(domain))


def _try(what: str, work: Callable[[], None]) -> None:
    try:
        work()
    except OSError as error:
        fix = "Leave it out, or give the engine the right"
        raise StartFailed(f"cannot set {what}", str(error.strerror), fix) from error
