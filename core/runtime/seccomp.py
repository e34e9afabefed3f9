"""Seccomp: from a profile in Docker's format to the program that the kernel runs at every system call.

Three steps::

    default_profile()  Docker's JSON: rules that depend on capabilities, architecture and kernel
    resolve(…)         OCI ``linux.seccomp``: the rules that hold for one container
    compile_filter(…)  classic BPF: an array of ``struct sock_filter`` for seccomp(2)

The verdicts are libseccomp's (compared with it in the tests), with three deliberate differences:

- System calls newer than everything the profile names answer ENOSYS instead of the default action, so that a newer C
  library falls back to what the profile knows (runc does the same by patching libseccomp's output).
- No foreign architecture passes: a 32-bit call kills the process, an x32 call answers ENOSYS. With the 32-bit
  ``socketcall`` a container evades every filter on socket's arguments.
- An argument that the kernel takes as an ``int`` is compared in its lower 32 bits only. Compared as 64 bits,
  ``socket(1 << 32 | AF_ALG, …)`` is "above 40" for the filter and AF_ALG for the kernel (CVE-2019-7303's pattern).
"""

from __future__ import annotations

import errno
import functools
import json
import os
import struct
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import InvalidArgument, Unsupported
from core.runtime.syscalls import AUDIT_ARCH, NATIVE, TABLES

# SECCOMP_RET_* of linux/seccomp.h
_KILL_PROCESS, _ERRNO, _TRACE, _ALLOW = 0x80000000, 0x00050000, 0x7FF00000, 0x7FFF0000
_ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": _KILL_PROCESS,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": _ERRNO,
    "SCMP_ACT_TRACE": _TRACE,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": _ALLOW,
}
# A profile that lets the unknown pass wants newer calls to pass too.
_LENIENT = {"SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"}
_OPERATORS = {f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")}
_DOCKER_ARCH = {"SCMP_ARCH_X86_64": "amd64", "SCMP_ARCH_AARCH64": "arm64"}
_X32_BIT = 0x40000000
# Arguments (by position) that the kernel's own definitions take as int or unsigned int.
_INT_ARGS: dict[str, tuple[int, ...]] = {
    "socket": (0, 1, 2),
    "socketpair": (0, 1, 2),
    "personality": (0,),
    "ioctl": (0, 1),
    "fcntl": (0, 1),
    "prctl": (0,),
    "keyctl": (0,),
    "bpf": (0,),
    "setns": (0, 1),
}
# Instructions of classic BPF, linux/bpf_common.h
_LD, _AND, _RET, _JA, _JEQ, _JGT, _JGE = 0x20, 0x54, 0x06, 0x05, 0x15, 0x25, 0x35
_MAX_INSTRUCTIONS = 4096


class _Condition(NamedTuple):
    position: int
    op: str
    value: int
    value_two: int
    narrow: bool  # the kernel looks at the lower 32 bits only


class _Rule(NamedTuple):
    conditions: tuple[_Condition, ...]
    action: int


class _Verdict(NamedTuple):
    """What happens to one system call: the first rule whose conditions all hold, else ``otherwise``."""

    rules: tuple[_Rule, ...]
    otherwise: int


@functools.cache
def default_profile() -> dict[str, Any]:
    """The engine's default profile, equal in effect to Docker's. Callers must not change it."""
    text = Path(__file__).with_name("profiles").joinpath("default.json").read_text("utf-8")
    profile: dict[str, Any] = json.loads(text)
    return profile


def native_arch() -> str:
    """This machine's architecture in seccomp's words.

    :raises Unsupported: there is no system call table for it
    """
    machine = os.uname().machine
    if machine not in NATIVE:
        raise Unsupported(
            f"no seccomp filter for {machine}",
            "the engine knows the system calls of x86_64 and aarch64 only",
            "Run the container with --security-opt seccomp=unconfined, which gives up this protection",
        )
    return NATIVE[machine]


def resolve(
    profile: Mapping[str, Any], *, caps: Collection[str], arch: str | None = None, kernel: str | None = None
) -> dict[str, Any]:
    """The OCI ``linux.seccomp`` object that ``profile`` means for one container.

    :param profile: Docker's format: ``syscalls`` with ``includes``/``excludes`` of ``caps``, ``arches``, ``minKernel``,
        and ``archMap`` or ``architectures``
    :param caps: the container's bounding set (``CAP_…``)
    :param arch: seccomp's name of the architecture; default: this machine's
    :param kernel: release as ``uname -r`` prints it; default: this kernel's
    :raises InvalidArgument: the profile is malformed
    """
    arch = arch or native_arch()
    release = _version(kernel or os.uname().release)
    if "defaultAction" not in profile:
        raise _bad("it has no defaultAction")
    if profile.get("architectures") and profile.get("archMap"):
        raise _bad("it gives both architectures and archMap")
    result: dict[str, Any] = {"defaultAction": profile["defaultAction"]}
    if profile.get("defaultErrnoRet") is not None:
        result["defaultErrnoRet"] = profile["defaultErrnoRet"]
    if profile.get("flags"):
        result["flags"] = list(profile["flags"])
    listed = profile.get("architectures") or _mapped(profile.get("archMap") or [], arch)
    # As with libseccomp the machine's own architecture is always among them.
    result["architectures"] = list(listed) if arch in listed else [arch, *listed]
    result["syscalls"] = [
        _oci_rule(rule)
        for rule in profile.get("syscalls") or []
        if _applies(rule.get("includes") or {}, caps, arch, release, wanted=True)
        and _applies(rule.get("excludes") or {}, caps, arch, release, wanted=False)
    ]
    return result


def _bad(why: str) -> InvalidArgument:
    return InvalidArgument("invalid seccomp profile", why, "Compare it with Docker's documentation of the format")


def _mapped(arch_map: Sequence[Mapping[str, Any]], arch: str) -> list[str]:
    for entry in arch_map:
        if entry.get("architecture") == arch:
            return [arch, *(entry.get("subArchitectures") or [])]
    return [arch]


def _version(release: str) -> tuple[int, int]:
    parts = release.split("-")[0].split(".")
    try:
        return int(parts[0]), int(parts[1]) if len(parts) > 1 else 0
    except ValueError:
        raise _bad(f"{release!r} is not a kernel version") from None


def _applies(
    filters: Mapping[str, Any], caps: Collection[str], arch: str, release: tuple[int, int], *, wanted: bool
) -> bool:
    """Does the rule stay? ``includes`` need every capability named; one named in ``excludes`` is enough to drop it."""
    arches, names, minimum = filters.get("arches"), filters.get("caps"), filters.get("minKernel")
    if arches and (_DOCKER_ARCH.get(arch, arch) in arches) is not wanted:
        return False
    if names and (all(c in caps for c in names) if wanted else any(c in caps for c in names)) is not wanted:
        return False
    return not minimum or (release >= _version(minimum)) is wanted


def _oci_rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    if rule.get("name") and rule.get("names"):
        raise _bad(f"a rule gives both name ({rule['name']}) and names")
    names = list(rule.get("names") or ([rule["name"]] if rule.get("name") else []))
    if not names or "action" not in rule:
        raise _bad("a rule lacks names or action")
    result: dict[str, Any] = {"names": names, "action": rule["action"]}
    for key in ("errnoRet", "args"):
        if rule.get(key) is not None and rule[key] != []:
            result[key] = rule[key]
    return result


def compile_filter(seccomp: Mapping[str, Any]) -> bytes:
    """The BPF program (array of ``struct sock_filter``, native byte order) of an OCI ``linux.seccomp`` object.

    Rules of the architectures in :data:`core.runtime.syscalls.TABLES` are compiled; calls of any other architecture
    kill the process. Names the architecture does not have are passed over, as libseccomp does. Of the rules for one
    call, one without arguments outweighs all others; else the first that matches decides. Several conditions on the
    same argument within a rule are alternatives (runc's reading of the OCI specification).

    :raises InvalidArgument: unknown action or operator, or a filter beyond the kernel's 4096 instructions
    """
    return _compile(json.dumps(seccomp, sort_keys=True))


@functools.lru_cache(maxsize=32)
def _compile(text: str) -> bytes:
    seccomp = json.loads(text)
    default = _action(seccomp["defaultAction"], seccomp.get("defaultErrnoRet"))
    lenient = seccomp["defaultAction"] in _LENIENT or default == _ERRNO | errno.ENOSYS
    arches = [a for a in seccomp.get("architectures") or [native_arch()] if a in TABLES]
    code = _Code()
    entry = code.ret(_KILL_PROCESS)
    for arch in reversed(arches):
        verdicts = _verdicts(seccomp.get("syscalls") or [], TABLES[arch], default)
        start = code.tree(_segments(verdicts, default, arch, lenient=lenient))
        start = code.emit(_LD, k=0)  # seccomp_data.nr
        entry = code.branch(_JEQ, AUDIT_ARCH[arch], start, entry)
    code.emit(_LD, k=4)  # seccomp_data.arch: numbers mean nothing before it is known
    return code.program()


def _action(name: str, errno_ret: int | None) -> int:
    if name == "SCMP_ACT_NOTIFY":
        raise Unsupported(
            "seccomp notifications are not supported",
            "the profile asks a listener (SCMP_ACT_NOTIFY)",
            "Use SCMP_ACT_ERRNO or SCMP_ACT_LOG instead",
        )
    if name not in _ACTIONS:
        raise _bad(f"unknown action {name!r}")
    action = _ACTIONS[name]
    if action in (_ERRNO, _TRACE):
        action |= (errno.EPERM if errno_ret is None else int(errno_ret)) & 0xFFFF
    return action


def _verdicts(rules: Sequence[Mapping[str, Any]], table: Mapping[str, int], default: int) -> dict[int, _Verdict]:
    found: dict[int, _Verdict] = {}
    for rule in rules:
        action = _action(rule["action"], rule.get("errnoRet"))
        args = rule.get("args") or []
        for name in rule["names"]:
            number = table.get(name)
            if number is None:
                continue
            old = found.get(number, _Verdict((), default))
            if not args:
                # The first unconditional rule wins over everything (libseccomp: the least specific one).
                found[number] = old if number in found and not old.rules else _Verdict((), action)
            elif number not in found or old.rules:
                found[number] = _Verdict((*old.rules, *_conditional(name, args, action)), default)
    return found


def _conditional(name: str, args: Sequence[Mapping[str, Any]], action: int) -> tuple[_Rule, ...]:
    conditions = []
    for arg in args:
        index, op = arg.get("index"), arg.get("op")
        if not isinstance(index, int) or not 0 <= index <= 5 or op not in _OPERATORS or "value" not in arg:
            raise _bad(f"a rule for {name} has a malformed argument: {dict(arg)}")
        value, two = int(arg["value"]) % 2**64, int(arg.get("valueTwo") or 0) % 2**64
        conditions.append(_Condition(index, op, value, two, index in _INT_ARGS.get(name, ())))
    if len({c.position for c in conditions}) < len(conditions):
        return tuple(_Rule((c,), action) for c in conditions)
    return (_Rule(tuple(conditions), action),)


def _segments(
    verdicts: Mapping[int, _Verdict], default: int, arch: str, *, lenient: bool
) -> list[tuple[int, _Verdict]]:
    """Runs of numbers with the same verdict, as (first number, verdict), from 0 on."""
    plain, unknown = _Verdict((), default), _Verdict((), _ERRNO | errno.ENOSYS)
    newest = max(verdicts, default=-1) + 1
    steps: dict[int, _Verdict] = {0: plain}
    for number in sorted(verdicts):
        steps[number] = verdicts[number]
        steps[number + 1] = plain
    steps[newest] = plain if lenient else unknown
    if arch == "SCMP_ARCH_X86_64":
        steps[_X32_BIT] = unknown
    runs: list[tuple[int, _Verdict]] = []
    for number in sorted(steps):
        if not runs or runs[-1][1] != steps[number]:
            runs.append((number, steps[number]))
    return runs


class _Code:
    """An assembler that writes backwards: BPF jumps only forward, so every target is known when its jump is written.

    A label is the length of the code right after its instruction was written; the distance from the next one to be
    written is then the length less the label.
    """

    def __init__(self) -> None:
        self._reversed: list[bytes] = []
        self._returns: dict[int, int] = {}

    def emit(self, op: int, jt: int = 0, jf: int = 0, k: int = 0) -> int:
        self._reversed.append(struct.pack("=HBBI", op, jt, jf, k))
        return len(self._reversed)

    def ret(self, action: int) -> int:
        """A return, shared with an earlier one that a conditional jump can still reach."""
        label = self._returns.get(action)
        if label is None or len(self._reversed) - label > 250:
            label = self._returns[action] = self.emit(_RET, k=action)
        return label

    def _near(self, label: int) -> int:
        """``label``, or a jump to it where it is beyond the 8 bits that a conditional jump has."""
        distance = len(self._reversed) - label
        return label if distance <= 250 else self.emit(_JA, k=distance)

    def branch(self, op: int, k: int, yes: int, no: int) -> int:
        yes, no = self._near(yes), self._near(no)
        here = len(self._reversed)
        return self.emit(op, here - yes, here - no, k)

    def tree(self, runs: Sequence[tuple[int, _Verdict]]) -> int:
        """Binary search for the run that holds the number in the accumulator."""
        if len(runs) == 1:
            return self.verdict(runs[0][1])
        middle = len(runs) // 2
        right = self.tree(runs[middle:])
        left = self.tree(runs[:middle])
        return self.branch(_JGE, runs[middle][0], right, left)

    def verdict(self, verdict: _Verdict) -> int:
        label = self.ret(verdict.otherwise)
        for rule in reversed(verdict.rules):
            yes = self.ret(rule.action)
            for condition in reversed(rule.conditions):
                yes = self._compare(condition, yes, label)
            label = yes
        return label

    def _compare(self, c: _Condition, yes: int, no: int) -> int:
        if c.op in ("SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE"):
            yes, no = no, yes  # the opposite question, with the answers exchanged
        low, high = 16 + 8 * c.position, 20 + 8 * c.position  # seccomp_data.args[position], little endian
        if c.op == "SCMP_CMP_MASKED_EQ":
            start = self._masked(low, c.value & 0xFFFFFFFF, c.value_two & 0xFFFFFFFF, yes, no)
            return start if c.narrow else self._masked(high, c.value >> 32, c.value_two >> 32, start, no)
        test = {"EQ": _JEQ, "NE": _JEQ, "GT": _JGT, "LE": _JGT, "GE": _JGE, "LT": _JGE}[c.op.removeprefix("SCMP_CMP_")]
        self.branch(test, c.value & 0xFFFFFFFF, yes, no)
        start = self.emit(_LD, k=low)
        if c.narrow:
            return start
        start = self.branch(_JEQ, c.value >> 32, start, no)
        if test != _JEQ:
            start = self.branch(_JGT, c.value >> 32, yes, start)
        return self.emit(_LD, k=high)

    def _masked(self, offset: int, mask: int, value: int, yes: int, no: int) -> int:
        self.branch(_JEQ, value, yes, no)
        self.emit(_AND, k=mask)
        return self.emit(_LD, k=offset)

    def program(self) -> bytes:
        if len(self._reversed) > _MAX_INSTRUCTIONS:
            raise _bad(f"it needs {len(self._reversed)} instructions, and the kernel takes {_MAX_INSTRUCTIONS}")
        return b"".join(reversed(self._reversed))
