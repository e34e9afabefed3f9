"""The assembler: from a :class:`~core.runtime.seccomp_policy.Policy` to classic BPF.

A program begins with the architecture (numbers mean nothing before it is known), then finds the number by a binary
search over runs of numbers with the same verdict, then looks at arguments where a rule has some.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from core.runtime.seccomp_policy import ERRNO, KILL_PROCESS, Condition, Policy, Rule, bad
from core.runtime.syscalls import AUDIT_ARCH, TABLES

_X86, _X32, _ARM, _X86_64 = "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_ARM", "SCMP_ARCH_X86_64"
_X32_BIT, _END = 0x40000000, 1 << 32
# Where a table begins that does not grow with new calls: x32's own numbers, and what only ARM has.
_FIXED = {_X32: _X32_BIT | 512, _ARM: 0xF0000}
_UNKNOWN = ERRNO | errno.ENOSYS

# Instructions of classic BPF, linux/bpf_common.h
_LD, _AND, _RET, _JA, _JEQ, _JGT, _JGE = 0x20, 0x54, 0x06, 0x05, 0x15, 0x25, 0x35
_MAX_INSTRUCTIONS = 4096
_FAR = 250  # a conditional jump has 8 bits


class _Test(NamedTuple):
    position: int
    op: str
    value: int
    value_two: int
    narrow: bool  # the kernel looks at the lower 32 bits only


class _Branch(NamedTuple):
    tests: tuple[_Test, ...]
    action: int


class _Verdict(NamedTuple):
    """What happens to one system call: the first branch whose tests all hold, else ``otherwise``."""

    branches: tuple[_Branch, ...]
    otherwise: int


_Runs = list[tuple[int, _Verdict]]  # (first number, verdict), in order


def assemble(policy: Policy) -> bytes:
    """An array of ``struct sock_filter`` in native byte order.

    :raises InvalidArgument: it would have more than the kernel's 4096 instructions
    """
    code = _Code()
    entry = code.ret(KILL_PROCESS)
    for arch in reversed(policy.arches):
        if arch != _X32:  # is part of x86_64's, which it shares the architecture with
            code.go(code.tree(_runs(policy, arch)))
            start = code.emit(_LD, k=0)  # seccomp_data.nr
            entry = code.branch(_JEQ, AUDIT_ARCH[arch], start, entry)
    code.emit(_LD, k=4)  # seccomp_data.arch
    return code.program()


def _runs(policy: Policy, arch: str) -> _Runs:
    runs = _plane(policy, arch, 0, _X32_BIT if arch == _X86_64 else _END)
    if arch == _X86_64:
        if _X32 in policy.arches:
            runs += _plane(policy, _X32, _X32_BIT, _END)
        else:
            runs.append((_X32_BIT, _Verdict((), _UNKNOWN)))
    merged: _Runs = []
    for number, verdict in runs:
        if not merged or merged[-1][1] != verdict:
            merged.append((number, verdict))
    return merged


def _plane(policy: Policy, arch: str, start: int, stop: int) -> _Runs:
    """The runs of one architecture's numbers, which are those from ``start`` to before ``stop``."""
    table, verdicts = _table(arch), _verdicts(policy, arch)
    plain, unknown = _Verdict((), policy.default), _Verdict((), _UNKNOWN)
    steps: dict[int, _Verdict] = {start: plain}
    for number in sorted(verdicts):
        steps[number] = verdicts[number]
        steps.setdefault(number + 1, plain)
    fixed = _FIXED.get(arch, stop)
    growing = [number for number in verdicts if number < fixed]
    if growing and not policy.lenient:
        steps[max(growing) + 1] = unknown
        if fixed < stop:
            steps[fixed] = verdicts.get(fixed, plain)
            steps[max(table.values()) + 1] = unknown
    return sorted(steps.items())


def _table(arch: str) -> Mapping[str, int]:
    if arch in TABLES:
        return TABLES[arch]
    from core.runtime.syscalls_foreign import FOREIGN_TABLES  # late: few profiles name a second architecture

    return FOREIGN_TABLES[arch]


class _Call:
    """The rules for one number, as they come."""

    def __init__(self) -> None:
        self.branches: list[_Branch] = []
        self.outright: int | None = None

    def add(self, branches: Sequence[_Branch], action: int) -> None:
        if not branches:
            # The first unconditional rule wins over everything (libseccomp: the least specific one).
            self.outright = action if self.outright is None else self.outright
        self.branches += branches


def _verdicts(policy: Policy, arch: str) -> dict[int, _Verdict]:
    table = _table(arch)
    calls: dict[int, _Call] = {}
    for rule in policy.rules:
        for name in rule.names:
            if name in table:
                call = calls.setdefault(table[name], _Call())
                if rule.action != policy.default:  # as with runc, such a rule says nothing
                    call.add(_branches(name, rule, arch), rule.action)
        if arch == _X86 and rule.action != policy.default:
            _add_multiplexed(calls, rule, policy.default)
    return {
        number: _Verdict(tuple(call.branches), policy.default) if call.outright is None else _Verdict((), call.outright)
        for number, call in calls.items()
    }


def _branches(name: str, rule: Rule, arch: str) -> list[_Branch]:
    if not rule.args:
        return []
    if arch in (_X86, _ARM):
        ints: Sequence[int] = range(6)
    else:
        from core.runtime.syscalls_ints import INT_ARGS

        ints = INT_ARGS.get(name, ())
    tests = [_Test(*condition, condition.position in ints) for condition in rule.args]
    if len({test.position for test in tests}) < len(tests):
        # Several conditions on the same argument are alternatives (runc's reading of the specification).
        return [_Branch((test,), rule.action) for test in tests]
    return [_Branch(tuple(tests), rule.action)]


def _add_multiplexed(calls: dict[int, _Call], rule: Rule, default: int) -> None:
    """Rules for what i386 has in ``socketcall`` and ``ipc`` (a plain rule for these themselves outweighs them).

    No filter sees the arguments there. A rule that looks at them is left out where it allows more than the default
    action, and holds for all arguments where it allows less.
    """
    from core.runtime.syscalls_foreign import FOREIGN_TABLES, MULTIPLEXED

    if rule.args and _strictness(rule.action) > _strictness(default):
        return
    for carrier, (mask, inner) in MULTIPLEXED.items():
        for name in rule.names:
            if name in inner:
                test = _Test(*Condition(0, "SCMP_CMP_MASKED_EQ", mask, inner[name]), True)
                number = FOREIGN_TABLES[_X86][carrier]
                calls.setdefault(number, _Call()).add([_Branch((test,), rule.action)], rule.action)


def _strictness(action: int) -> int:
    """The kernel's own order of actions: lower is stricter. It compares them as signed numbers (seccomp(2))."""
    return (action & 0xFFFF0000) - (_END if action & 0x80000000 else 0)


class _Code:
    """Written backwards: BPF jumps only forward, so every target is known when its jump is written.

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
        if label is None or len(self._reversed) - label > _FAR:
            label = self._returns[action] = self.emit(_RET, k=action)
        return label

    def go(self, label: int) -> None:
        """Make what is written next run into ``label``."""
        if label < len(self._reversed):
            self.emit(_JA, k=len(self._reversed) - label)

    def _near(self, label: int) -> int:
        """``label``, or a jump to it where it is too far for a conditional one."""
        distance = len(self._reversed) - label
        return label if distance <= _FAR else self.emit(_JA, k=distance)

    def branch(self, op: int, k: int, yes: int, no: int) -> int:
        yes, no = self._near(yes), self._near(no)
        here = len(self._reversed)
        return self.emit(op, here - yes, here - no, k)

    def tree(self, runs: _Runs) -> int:
        """Binary search for the run that holds the number in the accumulator."""
        if len(runs) == 1:
            return self.verdict(runs[0][1])
        middle = len(runs) // 2
        right = self.tree(runs[middle:])
        left = self.tree(runs[:middle])
        return self.branch(_JGE, runs[middle][0], right, left)

    def verdict(self, verdict: _Verdict) -> int:
        label = self.ret(verdict.otherwise)
        for branch in reversed(verdict.branches):
            yes = self.ret(branch.action)
            for test in reversed(branch.tests):
                yes = self._compare(test, yes, label)
            label = yes
        return label

    def _compare(self, test: _Test, yes: int, no: int) -> int:
        low, high = 16 + 8 * test.position, 20 + 8 * test.position  # seccomp_data.args[position], little endian
        if test.op == "SCMP_CMP_MASKED_EQ":
            start = self._masked(low, test.value & 0xFFFFFFFF, test.value_two & 0xFFFFFFFF, yes, no)
            return start if test.narrow else self._masked(high, test.value >> 32, test.value_two >> 32, start, no)
        if test.narrow and 0 < test.value >> 32 < 0xFFFFFFFF:
            # Beyond what 32 bits reach, and no negative number either: the answer is known.
            return yes if test.op in ("SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE") else no
        if test.op in ("SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE"):
            yes, no = no, yes  # the opposite question, with the answers exchanged
        op = {"EQ": _JEQ, "NE": _JEQ, "GT": _JGT, "LE": _JGT, "GE": _JGE, "LT": _JGE}[test.op.removeprefix("SCMP_CMP_")]
        self.branch(op, test.value & 0xFFFFFFFF, yes, no)
        start = self.emit(_LD, k=low)
        if test.narrow:
            return start
        start = self.branch(_JEQ, test.value >> 32, start, no)
        if op != _JEQ:
            start = self.branch(_JGT, test.value >> 32, yes, start)
        return self.emit(_LD, k=high)

    def _masked(self, offset: int, mask: int, value: int, yes: int, no: int) -> int:
        self.branch(_JEQ, value, yes, no)
        self.emit(_AND, k=mask)
        return self.emit(_LD, k=offset)

    def program(self) -> bytes:
        if len(self._reversed) > _MAX_INSTRUCTIONS:
            raise bad(f"it needs {len(self._reversed)} instructions, and the kernel takes {_MAX_INSTRUCTIONS}")
        return b"".join(reversed(self._reversed))
