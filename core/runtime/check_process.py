"""Rules within ``process`` (config.md, "Process")."""

from __future__ import annotations

from typing import Any

from core.kernel import caps
from core.runtime.schema import Findings

_GROUPS_MOST = 65_536  # NGROUPS_MAX
_REAL_TIME = ("SCHED_FIFO", "SCHED_RR")


def check(process: dict[str, Any], found: Findings) -> None:
    """Add to ``found`` what is wrong; complete ``user`` and thin out ``capabilities`` in place."""
    if not process["args"][0]:
        found.bad("process.args[0]", "", "no program can be called that", "Write the command's name or path")
    _check_user(process, found)
    _check_capabilities(process.get("capabilities", {}), found)
    _check_rlimits(process.get("rlimits", []), found)
    if "scheduler" in process:
        _check_scheduler(process["scheduler"], found)


def _check_user(process: dict[str, Any], found: Findings) -> None:
    # Required by the text, and left out by many; in the specification's own Go bindings that means 0.
    user = process["user"] = {"uid": 0, "gid": 0, **process.get("user", {})}
    groups = user.get("additionalGids", [])
    if len(groups) > _GROUPS_MOST:
        rule = f"a process has at most {_GROUPS_MOST} groups"
        found.bad("process.user.additionalGids", groups, rule, "Name fewer")


def _check_capabilities(sets: dict[str, list[str]], found: Findings) -> None:
    """A capability that cannot be granted is a warning and no failure (config.md, "Linux Process"): it is dropped."""
    for kind, names in sets.items():
        if isinstance(names, list):
            sets[kind] = _kept(kind, names, caps.NUMBERS, "this engine knows no such capability", found)
    for kind, wider, words in (  # capabilities(7), "Programmatically adjusting capability sets"
        ("effective", ("permitted",), "it is not permitted"),
        ("inheritable", ("bounding",), "it is not in the bounding set"),
        ("ambient", ("permitted", "inheritable"), "it is not both permitted and inheritable"),
    ):
        for other in wider:
            if kind in sets:
                sets[kind] = _kept(kind, sets[kind], sets.get(other, ()), words, found)


def _kept(kind: str, names: list[str], allowed: Any, words: str, found: Findings) -> list[str]:
    for index, name in enumerate(names):
        if name not in allowed:
            found.doubt(f"process.capabilities.{kind}[{index}]", name, f"{words}; left out")
    return [name for name in names if name in allowed]


def _check_rlimits(limits: list[dict[str, Any]], found: Findings) -> None:
    seen: set[str] = set()
    for index, limit in enumerate(limits):
        path = f"process.rlimits[{index}]"
        if limit["type"] in seen:
            found.bad(f"{path}.type", limit["type"], "this limit is set twice", "Leave one of them out")
        seen.add(limit["type"])
        if limit["soft"] > limit["hard"]:
            rule = f"the soft limit exceeds the hard one, which is {limit['hard']}"
            found.bad(f"{path}.soft", limit["soft"], rule, "Lower it, or raise the hard limit")


def _check_scheduler(wanted: dict[str, Any], found: Findings) -> None:
    """sched(7) and sched_setattr(2): what the kernel would answer with EINVAL, or would not look at."""
    policy, path = wanted["policy"], "process.scheduler"
    priority = wanted.get("priority", 0)
    if policy in _REAL_TIME and priority == 0:
        found.bad(f"{path}.priority", priority, f"{policy} has priorities from 1 to 99", "Give one of these")
    if policy not in _REAL_TIME and priority != 0:
        found.bad(f"{path}.priority", priority, f"{policy} knows no priority", "Leave it out, or use nice")
    times = {name: wanted.get(name, 0) for name in ("runtime", "deadline", "period")}
    if policy != "SCHED_DEADLINE":
        for name, value in times.items():
            if value:
                found.bad(f"{path}.{name}", value, f"only SCHED_DEADLINE has one, not {policy}", "Leave it out")
    elif times["runtime"] < 1024:
        found.bad(f"{path}.runtime", times["runtime"], "SCHED_DEADLINE needs at least 1024 ns", "Give more")
    elif times["runtime"] > times["deadline"] or times["deadline"] > (times["period"] or times["deadline"]):
        rule = f"runtime <= deadline <= period does not hold with {times['runtime']} and {times['period']}"
        found.bad(f"{path}.deadline", times["deadline"], rule, "Put the three in this order")
