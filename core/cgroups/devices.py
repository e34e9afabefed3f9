"""Which devices a container may use: the OCI's list of rules, for the v1 controller and as an eBPF program for v2.

The rules are folded first into one default and its exceptions, by the same steps as the kernel's v1 controller
(security/device_cgroup.c), so that both versions decide alike.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from core.cgroups import files
from core.cgroups.files import Setting
from core.cgroups.layout import Layout
from core.errors import InvalidArgument, NoPrivilege, Unsupported, WharfError
from core.kernel import bpf

_ANY = -1
_ACCESS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_* of linux/bpf.h
_TYPES = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_*
_ALL = 7

Key = tuple[str, int, int]  # type, major, minor; _ANY is every number


class Policy(NamedTuple):
    """``allow`` is the answer where no exception matches; an exception is the opposite answer for some accesses."""

    allow: bool
    exceptions: dict[Key, int]


def fold(rules: Sequence[Mapping[str, Any]]) -> Policy:
    """The policy that a list of OCI rules (``linux.resources.devices``) leaves, later rules over earlier ones.

    :raises InvalidArgument: a malformed rule
    """
    allow = True
    exceptions: dict[Key, int] = {}
    for rule in rules:
        kind = rule.get("type") or "a"
        access = _access(rule.get("access") or "rwm")
        key = (kind, _number(rule.get("major")), _number(rule.get("minor")))
        if kind == "a":
            allow, exceptions = bool(rule["allow"]), {}
        elif kind not in ("b", "c", "u"):
            raise _bad(f"unknown device type {kind!r}")
        elif bool(rule["allow"]) != allow:
            key = ("c", *key[1:]) if kind == "u" else key
            exceptions[key] = exceptions.get(key, 0) | access
        elif key in exceptions:
            exceptions[key] &= ~access
            if not exceptions[key]:
                del exceptions[key]
    return Policy(allow, exceptions)


def _bad(why: str) -> InvalidArgument:
    return InvalidArgument("invalid device rule", why, "A rule has type a, b or c, numbers, and access out of r, w, m")


def _access(text: str) -> int:
    if not set(text) <= set(_ACCESS):
        raise _bad(f"unknown access {text!r}")
    return sum(_ACCESS[letter] for letter in set(text))


def _number(value: int | None) -> int:
    return _ANY if value is None or value < 0 else value


def _line(key: Key, access: int) -> str:
    numbers = ":".join("*" if n == _ANY else str(n) for n in key[1:])
    return f"{key[0]} {numbers} {''.join(letter for letter in 'rwm' if access & _ACCESS[letter])}"


def apply(layout: Layout, path: str, rules: Sequence[Mapping[str, Any]]) -> None:
    """Set a group's rules, those of a new one or in place of the ones it has; without any, it keeps what it has.

    :raises InvalidArgument: a malformed rule
    :raises NoPrivilege: the parent group forbids what shall be allowed
    :raises Unsupported: the kernel cannot do it
    """
    if not rules:
        return
    policy = fold(rules)
    mount = layout.mount_of("devices")
    try:
        if mount:
            _apply_v1(f"{mount}/{path}", policy)
        elif layout.unified:
            _apply_v2(f"{layout.unified}/{path}", policy)
        else:
            raise files.missing(Setting("devices", "devices.allow", "", "the device rules"))
    except WharfError:
        if privileged():
            raise


def privileged() -> bool:
    """Is this the host's root? Only he can set device rules, and needs them: others make no device files, and reach
    just the devices that are put before them."""
    from core.kernel import userns

    return os.geteuid() == 0 and not userns.contained()


def _apply_v1(folder: str, policy: Policy) -> None:
    before = _listed(files.read(f"{folder}/devices.list"))
    try:
        _change_v1(folder, before, policy)
    except OSError as exc:
        if not before.allow:
            with contextlib.suppress(OSError):
                _change_v1(folder, _listed(files.read_all(f"{folder}/devices.list")), before)
        raise NoPrivilege(
            "cannot set the device rules",
            f"{exc.filename or folder}: {exc.strerror}",
            "The group above forbids some of these devices, or groups below hold on to them",
        ) from exc


def _change_v1(folder: str, before: Policy, after: Policy) -> None:
    same, other = ("allow", "deny") if after.allow else ("deny", "allow")
    gone: dict[Key, int] = {}
    added = after.exceptions
    if before.allow or after.allow:
        # What is forbidden in a group that allows by default is not listed: nothing to compare with.
        files.write(f"{folder}/devices.{same}", "a")
    else:
        gone = _without(before.exceptions, after.exceptions)
        added = _without(after.exceptions, before.exceptions)
    # First what is new: a process that may use a device before and after never finds it forbidden.
    for name, exceptions in ((other, added), (same, gone)):
        if exceptions:
            files.write(f"{folder}/devices.{name}", *(_line(key, bits) for key, bits in exceptions.items()))


def _without(these: dict[Key, int], those: dict[Key, int]) -> dict[Key, int]:
    return {key: left for key, access in these.items() if (left := access & ~those.get(key, 0))}


def _listed(text: str) -> Policy:
    """The policy that a v1 group's ``devices.list`` shows: ``a *:* rwm`` alone, or what is allowed."""
    exceptions: dict[Key, int] = {}
    for line in text.splitlines():
        kind, numbers, access = line.split()
        if kind == "a":
            return Policy(True, {})
        major, _, minor = numbers.partition(":")
        first, second = (_ANY if number == "*" else int(number) for number in (major, minor))
        exceptions[kind, first, second] = _access(access)
    return Policy(False, exceptions)


def program(policy: Policy) -> bytes:
    """The eBPF program (type CGROUP_DEVICE) of a policy: returns 1 to allow, 0 to deny."""

    def ins(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
        return struct.pack("=BBhi", code, dst | src << 4, off, imm)

    def answer(allow: bool) -> list[bytes]:
        return [ins(0xB7, 0, imm=int(allow)), ins(0x95)]  # r0 = …; exit

    # struct bpf_cgroup_dev_ctx: u32 access_type (access << 16 | type), major, minor
    code = [
        ins(0x61, 2, 1, 0),  # r2 = access_type
        ins(0xBF, 3, 2),  # r3 = r2
        ins(0x57, 2, imm=0xFFFF),  # r2 &= 0xffff: type
        ins(0x77, 3, imm=16),  # r3 >>= 16: access
        ins(0x61, 4, 1, 4),  # r4 = major
        ins(0x61, 5, 1, 8),  # r5 = minor
    ]
    for (kind, major, minor), access in policy.exceptions.items():
        # (instructions without a jump, opcode of the jump to the next exception, register, value)
        tests: list[tuple[list[bytes], int, int, int]] = [([], 0x55, 2, _TYPES[kind])]
        if policy.allow:  # any access of the forbidden ones makes the exception hold
            tests.append(([ins(0xBF, 1, 3), ins(0x57, 1, imm=access)], 0x15, 1, 0))
        elif access != _ALL:  # every access asked for must be among the allowed ones
            tests.append(([ins(0xBF, 1, 3), ins(0x57, 1, imm=_ALL & ~access)], 0x55, 1, 0))
        tests += [([], 0x55, register, n) for register, n in ((4, major), (5, minor)) if n != _ANY]
        block = answer(not policy.allow)
        for before, jump, register, value in reversed(tests):
            block = [*before, ins(jump, register, off=len(block), imm=value), *block]
        code += block
    return b"".join(code + answer(policy.allow))


def _apply_v2(folder: str, policy: Policy) -> None:
    """Attach the rules to a v2 group as its device program, in place of the one it has."""
    code = program(policy)
    group = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        loaded = bpf.load_device_program(code)
        try:
            bpf.attach_device_program(group, loaded)
        finally:
            os.close(loaded)
    except OSError as exc:
        raise Unsupported(
            "cannot limit the container's devices",
            f"the kernel refused the eBPF device program: {exc}",
            "It needs CAP_SYS_ADMIN (or CAP_BPF and CAP_NET_ADMIN) and a kernel with CONFIG_CGROUP_BPF",
        ) from exc
    finally:
        os.close(group)
