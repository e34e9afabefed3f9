"""An OCI ``linux.seccomp`` object (runtime-spec, config-linux.md), checked and in the kernel's numbers.

Every error names the place, such as ``syscalls[3].args[0].op``, and what may stand there.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from core.errors import InvalidArgument
from core.kernel import bpf

KILL_PROCESS, ERRNO, NOTIFY, TRACE, ALLOW = 0x80000000, 0x00050000, 0x7FC00000, 0x7FF00000, 0x7FFF0000
#: SECCOMP_RET_* of linux/seccomp.h.
ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": ERRNO,
    "SCMP_ACT_NOTIFY": NOTIFY,
    "SCMP_ACT_TRACE": TRACE,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": ALLOW,
}
# A profile that lets the unknown pass wants newer calls to pass too.
_LENIENT = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
OPERATORS = tuple(f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": bpf.FILTER_TSYNC,
    "SECCOMP_FILTER_FLAG_LOG": bpf.FILTER_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": bpf.FILTER_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": bpf.FILTER_WAIT_KILLABLE_RECV,
}
ARCHES = tuple(
    f"SCMP_ARCH_{name}"
    for name in (
        "X86 X86_64 X32 ARM AARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE S390 S390X "
        "PARISC PARISC64 RISCV64 LOONGARCH64 M68K SH SHEB"
    ).split()
)
# What else a machine can execute. Calls of other architectures cannot occur, so that rules for them are not compiled.
BESIDE = {"SCMP_ARCH_X86_64": ("SCMP_ARCH_X86", "SCMP_ARCH_X32"), "SCMP_ARCH_AARCH64": ("SCMP_ARCH_ARM",)}
#: What the start itself needs when the filter is in force already: a rule must not have it wait for the listener.
OWN_CALLS = ("write", "sendmsg")

T = TypeVar("T")


class Condition(NamedTuple):
    """One of ``args``; for MASKED_EQ ``value`` is the mask."""

    position: int
    op: str
    value: int
    value_two: int


class Rule(NamedTuple):
    names: tuple[str, ...]
    action: int
    args: tuple[Condition, ...]


class Policy(NamedTuple):
    arches: tuple[str, ...]  # the machine's own first
    default: int
    lenient: bool  # calls newer than the profile get the default action, too
    flags: int  # SECCOMP_FILTER_FLAG_*
    rules: tuple[Rule, ...]


def bad(why: str) -> InvalidArgument:
    return InvalidArgument("invalid seccomp profile", why, "Compare it with config-linux.md of the OCI runtime-spec")


def one_of(value: object, allowed: Collection[str], where: str) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise bad(f"{where} is {_shown(value)}; allowed are {', '.join(allowed)}")
    return value


def number(value: object, limit: int, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
        raise bad(f"{where} is {_shown(value)}; it must be a whole number from 0 to {limit}")
    return value


def typed(value: object, kind: type[T], where: str) -> T:
    if not isinstance(value, kind):
        word = {str: "a string", dict: "an object", list: "an array", bool: "true or false"}[kind]
        raise bad(f"{where} is {_shown(value)}; it must be {word}")
    return value


def strings(value: object, where: str) -> list[str]:
    items = typed(value, list, where)
    if not all(isinstance(item, str) for item in items):  # hundreds of names, nearly always right: no place is written
        for index, item in enumerate(items):
            typed(item, str, f"{where}[{index}]")
    return items


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    text = "null" if value is None else repr(value)
    return text if len(text) < 60 else text[:60] + "…"


def read(oci: Mapping[str, Any], arch: str) -> Policy:
    """``linux.seccomp`` as the assembler needs it.

    :param arch: seccomp's name of the machine's own architecture, which is always among those compiled
    :raises InvalidArgument: something malformed
    """
    typed(oci, dict, "it")
    if "defaultAction" not in oci:
        raise bad("defaultAction is missing")
    default = read_action(oci["defaultAction"], oci.get("defaultErrnoRet"), "default")
    rules = tuple(
        read_rule(rule, f"syscalls[{index}]")
        for index, rule in enumerate(typed(oci.get("syscalls") or [], list, "syscalls"))
    )
    listed = read_arches(oci.get("architectures"), "architectures")
    lenient = oci["defaultAction"] in _LENIENT or default == ERRNO | errno.ENOSYS
    flags = read_flags(oci.get("flags"))
    if _listens(oci, default, rules):
        flags |= bpf.FILTER_NEW_LISTENER
    elif flags & bpf.FILTER_WAIT_KILLABLE_RECV:
        raise bad("the flag SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a rule whose action is SCMP_ACT_NOTIFY")
    beside = (name for name in BESIDE.get(arch, ()) if name in listed)
    return Policy((arch, *beside), default, lenient, flags, rules)


def read_rule(rule: object, where: str) -> Rule:
    rule = typed(rule, dict, where)
    for field in ("names", "action"):
        if field not in rule:
            raise bad(f"{where}.{field} is missing")
    names = strings(rule["names"], f"{where}.names")
    if not names or "" in names:
        raise bad(f"{where}.names must name at least one system call, and none by an empty string")
    action = read_action(rule["action"], rule.get("errnoRet"), where)
    args = typed(rule.get("args") or [], list, f"{where}.args")
    return Rule(tuple(names), action, tuple(_read_arg(arg, f"{where}.args[{i}]") for i, arg in enumerate(args)))


def _read_arg(arg: object, where: str) -> Condition:
    arg = typed(arg, dict, where)
    for field in ("index", "value", "op"):
        if field not in arg:
            raise bad(f"{where}.{field} is missing")
    return Condition(
        number(arg["index"], 5, f"{where}.index"),
        one_of(arg["op"], OPERATORS, f"{where}.op"),
        number(arg["value"], 2**64 - 1, f"{where}.value"),
        number(arg.get("valueTwo") or 0, 2**64 - 1, f"{where}.valueTwo"),
    )


def read_action(name: object, errno_ret: object, where: str) -> int:
    """:param where: of the rule; "default" for the default action"""
    at = ("defaultAction", "defaultErrnoRet") if where == "default" else (f"{where}.action", f"{where}.errnoRet")
    action = ACTIONS[one_of(name, ACTIONS, at[0])]
    if action not in (ERRNO, TRACE):
        if errno_ret is not None:
            raise bad(f"{at[1]} is set, and {name} returns none; only SCMP_ACT_ERRNO and SCMP_ACT_TRACE do")
        return action
    # The kernel knows errors up to 4095 and hands a tracer 16 bits.
    limit = 4095 if action == ERRNO else 0xFFFF
    return action | (errno.EPERM if errno_ret is None else number(errno_ret, limit, at[1]))


def read_arches(value: object, where: str) -> list[str]:
    return [one_of(name, ARCHES, f"{where}[{index}]") for index, name in enumerate(strings(value or [], where))]


def read_flags(value: object) -> int:
    """The bits of ``flags``; absent (not empty) they are SPEC_ALLOW where the kernel has it, as with runc.

    The kernel's own default was that until Linux 5.16: a filter switched speculation off, which slows everything down.
    """
    if value is None:
        return bpf.FILTER_SPEC_ALLOW if bpf.filter_flag_available(bpf.FILTER_SPEC_ALLOW) else 0
    bits = 0
    for index, name in enumerate(strings(value, "flags")):
        bits |= FLAGS[one_of(name, FLAGS, f"flags[{index}]")]
    return bits


def _listens(oci: Mapping[str, Any], default: int, rules: Sequence[Rule]) -> bool:
    """Is there a listener to be made? Its path is needed then, and read nowhere else (as the specification wants)."""
    path = typed(oci.get("listenerPath") or "", str, "listenerPath")
    if typed(oci.get("listenerMetadata") or "", str, "listenerMetadata") and not path:
        raise bad("listenerMetadata is set without listenerPath")
    if default == NOTIFY:
        raise bad("SCMP_ACT_NOTIFY cannot be the default action: the start itself would wait for an answer for ever")
    found = False
    for index, rule in enumerate(rules):
        if rule.action == NOTIFY:
            found = True
            for name in OWN_CALLS:
                if name in rule.names:
                    raise bad(
                        f"syscalls[{index}]: SCMP_ACT_NOTIFY cannot be used for {name}, "
                        "which the start itself needs to hand over the listener"
                    )
    if found and not path.startswith(("/", "@")):
        raise bad("an action is SCMP_ACT_NOTIFY; listenerPath must then be the absolute path of a unix socket")
    return found
