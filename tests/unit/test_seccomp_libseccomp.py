"""Our programs against libseccomp's, for every system call that both know. Both are run by a simulator."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from core.runtime.syscalls_foreign import FOREIGN_TABLES, MULTIPLEXED, X32_BIT
from core.runtime.syscalls_ints import INT_ARGS
from tests.seccomp_lab import (
    ALL_TABLES,
    ALLOW,
    ARM,
    ARM64,
    DEFAULT_CAPS,
    ENOSYS,
    I386,
    OPERATORS,
    X32,
    X86_64,
    Args,
    Libseccomp,
    default_rules,
    profile,
    program,
)

MORE_CAPS = ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_NICE", "CAP_SYSLOG", "CAP_BPF", "CAP_SYS_TIME"]
INTERESTING = [0, 1, 8, 16, 37, 38, 39, 40, 41, 0x80, 0x20000, 0x20008, 0x02000000, 0x7E020000, 0x10000011, 0xFFFFFFFF]
WIDE = [1 << 32, (1 << 32) | 38, (1 << 63), 2**64 - 1]
BITS32 = (I386, ARM)


@pytest.fixture(scope="module")
def library() -> Libseccomp:
    try:
        return Libseccomp()
    except OSError:
        pytest.skip("needs libseccomp2 from Debian, to compare with")


def cases(arch: str, library: Libseccomp, oci: Mapping[str, Any]) -> Iterator[tuple[int, Args]]:
    """Every number up to beyond the table that both know or that nobody knows, with several arguments where a rule
    looks at them."""
    looked_at = {name for rule in oci["syscalls"] if rule.get("args") for name in rule["names"]}
    names = {number: name for name, number in ALL_TABLES[arch].items()}
    start = X32_BIT if arch == X32 else 0
    for number in range(start, start + 700):
        if number in names and not library.known(arch, names[number]):
            continue  # libseccomp is older than that call
        for value in INTERESTING if names.get(number) in looked_at else (0, 0xFFFFFFFF):
            yield number, (value, 1, 2, 3, 4, 5)
        for value in WIDE:
            if arch not in BITS32 and names.get(number) in looked_at and names[number] not in INT_ARGS:
                yield number, (value, value, 0, 0, 0, 0)


def newest(oci: Mapping[str, Any], arch: str) -> int:
    table = ALL_TABLES[arch]
    numbers = [table[name] for rule in oci["syscalls"] for name in rule["names"] if name in table]
    return max(number for number in numbers if number % X32_BIT < 512)


@pytest.mark.parametrize("arch", [X86_64, ARM64])
@pytest.mark.parametrize("extra", [[], ["CAP_SYS_ADMIN"], MORE_CAPS], ids=["default", "admin", "many"])
def test_default_profile(arch: str, extra: list[str], library: Libseccomp) -> None:
    oci = default_rules(arch, DEFAULT_CAPS + extra)
    ours, theirs = program(oci, arch), library.compile(oci, arch)
    for number, args in cases(arch, library, oci):
        wanted = theirs.run(arch, number, args) if number <= newest(oci, arch) else ENOSYS
        assert ours.run(arch, number, args) == wanted, (number, args)


@pytest.mark.parametrize("native", [X86_64, ARM64])
@pytest.mark.parametrize("extra", [[], MORE_CAPS], ids=["default", "many"])
def test_several_architectures(native: str, extra: list[str], library: Libseccomp) -> None:
    """The default profile as somebody would widen it for 32-bit programs, with the calls that only they have."""
    arches = [native, *((I386, X32) if native == X86_64 else (ARM,))]
    oci = default_rules(native, DEFAULT_CAPS + extra)
    names = "socketcall ipc mmap2 _llseek stat64 fstat64 waitpid ugetrlimit set_tls cacheflush clock_gettime64 umount"
    oci = {**oci, "architectures": arches}
    oci["syscalls"] = [*oci["syscalls"], {"names": names.split(), "action": "SCMP_ACT_ALLOW"}]
    ours, theirs = program(oci, native), library.compile(oci, *arches)
    for arch in arches:
        fixed = X32_BIT | 512
        for number, args in cases(arch, library, oci):
            if arch == X32 and number >= fixed:
                wanted = theirs.run(arch, number, args) if number < fixed + 36 else ENOSYS
            else:
                wanted = theirs.run(arch, number, args) if number <= newest(oci, arch) else ENOSYS
            assert ours.run(arch, number, args) == wanted, (arch, number, args)
    if native == ARM64:
        for name in ("set_tls", "cacheflush", "breakpoint"):
            number = FOREIGN_TABLES[ARM][name]
            assert ours.run(ARM, number) == theirs.run(ARM, number)


def test_multiplexed_calls(library: Libseccomp) -> None:
    """Where socketcall and ipc are not allowed as a whole, what they carry is."""
    names = ["socket", "connect", "accept", "send", "recvmmsg", "semget", "msgrcv", "shmat"]
    oci = profile("SCMP_ACT_ERRNO", {"names": names, "action": "SCMP_ACT_ALLOW"}, architectures=[I386])
    ours, theirs = program(oci), library.compile(oci, X86_64, I386)
    allowed = set()
    for carrier, (_, inner) in MULTIPLEXED.items():
        for number in range(40):
            args = (number, 1, 2, 3)
            answer = ours.run(I386, FOREIGN_TABLES[I386][carrier], args)
            assert answer == theirs.run(I386, FOREIGN_TABLES[I386][carrier], args), (carrier, number)
            allowed |= {name for name, value in inner.items() if value == number and answer == ALLOW}
    assert allowed == set(names)


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("arch", [X86_64, ARM64])
def test_operators_at_their_borders(op: str, arch: str, library: Libseccomp) -> None:
    """Each operator, with values whose halves are at their borders, against arguments just beside them."""
    halves = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
    borders = [high << 32 | low for high in halves for low in halves]
    around = sorted({(value + step) % 2**64 for value in borders for step in (-1, 0, 1)})
    for value in borders:
        for two in borders if op == "SCMP_CMP_MASKED_EQ" else [0]:
            if two & ~value:
                continue  # can never match; libseccomp refuses to see that
            args = [{"index": 1, "op": op, "value": value, "valueTwo": two}]  # an off_t: 64 bits
            rule = {"names": ["lseek"], "action": "SCMP_ACT_ALLOW", "args": args}
            oci = profile("SCMP_ACT_KILL", rule, architectures=[arch])
            ours, theirs = program(oci, arch), library.compile(oci, arch)
            for arg in around:
                answer = ours.call(arch, "lseek", 0, arg)
                assert answer == (ALLOW if OPERATORS[op][1](arg, value, two) else 0), (value, two, arg)
                assert answer == theirs.call(arch, "lseek", 0, arg), (value, two, arg)


def random_rules(dice: random.Random, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """One or two rules for each of many calls, with up to three conditions each."""

    def condition(index: int) -> dict[str, Any]:
        op, value = dice.choice(list(OPERATORS)), dice.choice(INTERESTING + WIDE)
        two = dice.choice(INTERESTING + WIDE) & value if op == "SCMP_CMP_MASKED_EQ" else 0
        return {"index": index, "op": op, "value": value, "valueTwo": two}

    def rule(name: str) -> dict[str, Any]:
        args = [condition(i) for i in dice.sample(range(6), dice.choice([0, 0, 1, 1, 2, 3]))]
        return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": args}

    return {name: [rule(name) for _ in range(dice.choice([1, 1, 1, 2]))] for name in dice.sample(names, 80)}


def holds(rule: Mapping[str, Any], args: Args) -> bool:
    return all(OPERATORS[a["op"]][1](args[a["index"]], a["value"], a["valueTwo"]) for a in rule["args"])


@pytest.mark.parametrize("seed", range(20))
def test_random_profiles_decide_as_written(seed: int, library: Libseccomp) -> None:
    """Against the rules' own meaning; and against libseccomp where a call has one rule (2.5.4 merges several of them
    wrongly: a second rule's wide comparison can be lost)."""
    dice = random.Random(seed)
    table = ALL_TABLES[X86_64]
    names = [name for name in table if name not in INT_ARGS and library.number(X86_64, name) == table[name]]
    rules = random_rules(dice, names)
    flat = [rule for several in rules.values() for rule in several]
    oci = profile("SCMP_ACT_ERRNO", *flat, defaultErrnoRet=38)
    ours, theirs = program(oci), library.compile(oci, X86_64)
    for name, several in rules.items():
        for _ in range(60):
            args = tuple(dice.choice(INTERESTING + WIDE) for _ in range(6))
            answer = ours.call(X86_64, name, *args)
            assert answer == (ALLOW if any(holds(rule, args) for rule in several) else ENOSYS), (several, args)
            if len(several) == 1:
                assert answer == theirs.call(X86_64, name, *args), (several, args)


@pytest.mark.parametrize(("arch", "least"), [(X86_64, 350), (ARM64, 290), (I386, 400), (X32, 330), (ARM, 390)])
def test_tables_agree(arch: str, least: int, library: Libseccomp) -> None:
    known = {name: library.number(arch, name) for name in ALL_TABLES[arch]}
    carried = {name for _, inner in MULTIPLEXED.values() for name in inner} if arch == I386 else set()
    differing = {n: k for n, k in known.items() if n not in carried and k >= 0 and k != ALL_TABLES[arch][n]}
    assert differing == {}
    assert sum(number >= 0 for number in known.values()) > least
