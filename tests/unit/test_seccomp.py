"""Seccomp, as far as no kernel is asked: what a profile means, and that what is malformed is named."""

from __future__ import annotations

import itertools
import random
import socket
from collections.abc import Mapping
from typing import Any

import pytest

from core.errors import InvalidArgument
from core.runtime import seccomp
from core.runtime.syscalls import TABLES
from core.runtime.syscalls_foreign import X32_BIT
from tests.seccomp_lab import (
    ALL_TABLES,
    ALLOW,
    ARM,
    ARM64,
    DEFAULT_CAPS,
    ENOSYS,
    EPERM,
    I386,
    KILL_PROCESS,
    X32,
    X86_64,
    Program,
    default_rules,
    profile,
    program,
)

# What Docker's default profile denies on x86_64 to a container without capabilities.
DENIED = set(
    """
_sysctl acct add_key afs_syscall bpf chroot clock_settime create_module delete_module fanotify_init file_getattr
file_setattr finit_module fsconfig fsmount fsopen fspick get_kernel_syms get_mempolicy getpmsg init_module
io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl listns
lookup_dcookie lsm_get_self_attr lsm_list_modules lsm_set_self_attr mbind migrate_pages mount mount_setattr move_mount
move_pages nfsservctl open_by_handle_at open_tree open_tree_attr perf_event_open pidfd_getfd pivot_root
process_madvise putpmsg query_module quotactl quotactl_fd reboot request_key rseq_slice_yield security set_mempolicy
set_mempolicy_home_node setdomainname sethostname setns settimeofday swapoff swapon sysfs syslog tuxcall umount2
unshare uprobe uselib userfaultfd ustat vhangup vserver
""".split()
)
# What each capability lets through beside that, and nothing else does.
BY_CAPABILITY = {
    "BPF": "bpf",
    "DAC_READ_SEARCH": "open_by_handle_at",
    "PERFMON": "perf_event_open",
    "SYSLOG": "syslog",
    "SYS_ADMIN": "bpf clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr "
    "lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd "
    "setdomainname sethostname setns syslog umount2 unshare",
    "SYS_BOOT": "reboot",
    "SYS_CHROOT": "chroot",
    "SYS_MODULE": "delete_module finit_module init_module",
    "SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "SYS_PACCT": "acct",
    "SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "SYS_RAWIO": "ioperm iopl",
    "SYS_TIME": "clock_settime settimeofday",
    "SYS_TTY_CONFIG": "vhangup",
}
NEWER_THAN_PROFILE = {"open_tree_attr", "file_getattr", "file_setattr", "listns", "rseq_slice_yield"}
# Of arguments: (call, those let through, those refused); families 38 and 40 are AF_ALG and AF_VSOCK.
BY_ARGUMENT = [
    ("socket", (0, 1, 2, 10, 16, 17, 37, 39, 41, 44), (38, 40)),
    ("personality", (0, 8, 0x20000, 0x20008, 0xFFFFFFFF), (1, 4, 0x40000, 0x0400000)),
    ("clone", (0, 17, 0x003D0F00, 0x01200011), (1 << 17, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30)),
]


def capability_sets() -> list[tuple[str, ...]]:
    """None, each, every pair, and some by chance."""
    dice, names = random.Random(3), list(BY_CAPABILITY)
    found: list[tuple[str, ...]] = [(), ("NET_ADMIN",), tuple(names), *((name,) for name in names)]
    found += itertools.combinations(names, 2)
    return found + [tuple(dice.sample(names, dice.randrange(3, 13))) for _ in range(30)]


@pytest.mark.parametrize("arch", [X86_64, ARM64])
def test_default_profile_is_dockers_in_effect(arch: str) -> None:
    """The facts above were compared with moby/profiles' default.json, for every set of the capabilities it names."""
    table = TABLES[arch]
    for caps in capability_sets():
        found = program(default_rules(arch, [f"CAP_{name}" for name in caps]), arch)
        allowed = {name for cap in caps if cap in BY_CAPABILITY for name in BY_CAPABILITY[cap].split()}
        refused = {name for name in DENIED | {"clone3"} if name in table} - allowed
        answers = {name: found.run(arch, number) for name, number in table.items()}
        assert {name for name, answer in answers.items() if answer != ALLOW} == refused, caps
        enosys = (NEWER_THAN_PROFILE | {"clone3"}) & refused
        assert {name: answers[name] for name in refused} == {n: ENOSYS if n in enosys else EPERM for n in refused}
        for name, fine, not_fine in BY_ARGUMENT:
            assert {found.call(arch, name, value) for value in fine} == {ALLOW}, (caps, name)
            if name != "clone" or "SYS_ADMIN" not in caps:
                assert {found.call(arch, name, value) for value in not_fine} == {EPERM}, (caps, name)


def test_kernel_and_architecture_conditions() -> None:
    def names(oci: Mapping[str, Any]) -> set[str]:
        return {name for rule in oci["syscalls"] for name in rule["names"]}

    assert "ptrace" in names(default_rules(X86_64, [], "4.8"))
    assert "ptrace" not in names(default_rules(X86_64, [], "4.7.10-generic"))
    assert "ptrace" in names(default_rules(X86_64, ["CAP_SYS_PTRACE"], "4.7"))
    assert "arch_prctl" not in names(default_rules(ARM64, []))
    assert default_rules(ARM64, [])["architectures"] == [ARM64]
    foreign = profile("SCMP_ACT_ALLOW", architectures=[ARM64])
    assert seccomp.resolve(foreign, caps=[], arch=X86_64)["architectures"] == [X86_64, ARM64]
    mapped = profile("SCMP_ACT_ALLOW", archMap=[{"architecture": X86_64, "subArchitectures": [I386, X32]}])
    assert seccomp.resolve(mapped, caps=[], arch=X86_64)["architectures"] == [X86_64, I386, X32]
    assert seccomp.resolve(mapped, caps=[], arch=ARM64)["architectures"] == [ARM64]


def test_foreign_architectures_do_not_pass_by_default() -> None:
    found = program(default_rules(X86_64, DEFAULT_CAPS))
    assert found.call(I386, "socketcall", 1) == KILL_PROCESS
    assert found.run(ARM64, 0) == KILL_PROCESS
    assert found.call(X32, "read") == ENOSYS
    assert found.run(X86_64, 0xFFFFFFFF) == ENOSYS
    lenient = program(profile("SCMP_ACT_ALLOW"))
    assert lenient.call(X32, "socket") == ENOSYS
    assert lenient.run(X86_64, 5000) == ALLOW
    assert lenient.call(I386, "read") == KILL_PROCESS
    assert program(profile("SCMP_ACT_ALLOW"), ARM64).call(ARM, "read") == KILL_PROCESS


def test_listed_architectures_have_the_same_rules() -> None:
    """Of docker's own file, whose archMap names them: a profile that somebody brings."""
    rule = {"names": ["mkdir", "set_tls", "mmap2", "execve"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}
    for native, others in ((X86_64, [I386, X32]), (ARM64, [ARM])):
        found = program(profile("SCMP_ACT_ALLOW", rule, architectures=others), native)
        for arch in (native, *others):
            for name in ("mkdir", "set_tls", "mmap2", "execve"):
                if name in ALL_TABLES[arch]:
                    assert found.call(arch, name) == 0x50000 | 99, (arch, name)
            assert found.call(arch, "openat") == ALLOW, arch
    # A machine's own is always among them; what it cannot execute is not compiled at all.
    assert seccomp.compile_filter(profile("SCMP_ACT_ALLOW", architectures=[ARM, "SCMP_ARCH_S390X"]), X86_64) == (
        seccomp.compile_filter(profile("SCMP_ACT_ALLOW"), X86_64)
    )


def test_multiplexed_calls_are_not_a_way_around_arguments() -> None:
    """With i386's socketcall the arguments are in memory: no filter sees them."""
    family = [{"index": 0, "op": "SCMP_CMP_EQ", "value": 38}]
    beside = {"architectures": [I386]}
    denying = program(
        profile("SCMP_ACT_ALLOW", {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": family}, **beside)
    )
    assert denying.call(I386, "socket", 38) == EPERM
    assert denying.call(I386, "socket", 2) == ALLOW
    assert denying.call(I386, "socketcall", 1) == EPERM
    assert denying.call(I386, "socketcall", 2) == ALLOW
    allowing = program(
        profile("SCMP_ACT_ERRNO", {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": family}, **beside)
    )
    assert allowing.call(I386, "socket", 38) == ALLOW
    assert allowing.call(I386, "socketcall", 1) == EPERM
    # ipc's upper half is a version.
    semaphores = program(profile("SCMP_ACT_ERRNO", {"names": ["semget"], "action": "SCMP_ACT_ALLOW"}, **beside))
    assert semaphores.call(I386, "ipc", 1 << 16 | 2) == ALLOW
    assert semaphores.call(I386, "ipc", 3) == EPERM
    # Whoever names the carrier itself means it.
    plain = [{"names": ["socketcall"], "action": "SCMP_ACT_ALLOW"}, {"names": ["socket"], "action": "SCMP_ACT_KILL"}]
    assert program(profile("SCMP_ACT_ERRNO", *plain, **beside)).call(I386, "socketcall", 1) == ALLOW


def test_int_arguments_are_compared_as_the_kernel_takes_them() -> None:
    """CVE-2019-7303's pattern: bits beyond an int must not carry a value past the filter."""
    found = program(default_rules(X86_64, DEFAULT_CAPS))
    for family in (socket.AF_ALG, socket.AF_VSOCK):
        for high in (0, 1 << 32, 1 << 63, 0xFFFFFFFF << 32):
            assert found.call(X86_64, "socket", high | family, 5, 0) == EPERM
    assert found.call(X86_64, "socket", socket.AF_INET, 1, 0) == ALLOW
    assert found.call(X86_64, "personality", 2**64 - 1) == ALLOW


@pytest.mark.parametrize(
    ("op", "answer"),
    [("NE", True), ("LT", True), ("LE", True), ("EQ", False), ("GE", False), ("GT", False)],
)
def test_values_that_no_int_reaches(op: str, answer: bool) -> None:
    args = [{"index": 1, "op": f"SCMP_CMP_{op}", "value": 1 << 40}]
    found = program(profile("SCMP_ACT_ERRNO", {"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": args}))
    for value in (0, 1, 0xFFFFFFFF, 1 << 40, 1 << 41):
        assert (found.call(X86_64, "ioctl", 0, value) == ALLOW) is answer


@pytest.mark.parametrize(
    ("action", "errno_ret", "wanted"),
    [
        ("SCMP_ACT_KILL", None, 0),
        ("SCMP_ACT_KILL_THREAD", None, 0),
        ("SCMP_ACT_KILL_PROCESS", None, 0x80000000),
        ("SCMP_ACT_TRAP", None, 0x00030000),
        ("SCMP_ACT_ERRNO", None, 0x00050001),
        ("SCMP_ACT_ERRNO", 0, 0x00050000),
        ("SCMP_ACT_ERRNO", 4095, 0x00050FFF),
        ("SCMP_ACT_NOTIFY", None, 0x7FC00000),
        ("SCMP_ACT_TRACE", None, 0x7FF00001),
        ("SCMP_ACT_TRACE", 0xFFFF, 0x7FF0FFFF),
        ("SCMP_ACT_LOG", None, 0x7FFC0000),
        ("SCMP_ACT_ALLOW", None, 0x7FFF0000),
    ],
)
def test_actions(action: str, errno_ret: int | None, wanted: int) -> None:
    rule = {"names": ["getppid"], "action": action, **({} if errno_ret is None else {"errnoRet": errno_ret})}
    found = program(profile("SCMP_ACT_TRAP", rule, listenerPath="/agent"))
    assert found.call(X86_64, "getppid") == wanted
    assert found.call(X86_64, "getpid") == 0x00030000
    assert found.call(X86_64, "openat2") == ENOSYS  # newer than all that is named
    if action != "SCMP_ACT_NOTIFY":
        more = {} if errno_ret is None else {"defaultErrnoRet": errno_ret}
        assert (
            program(profile(action, {"names": ["openat2"], "action": "SCMP_ACT_TRAP"}, **more)).run(X86_64, 1) == wanted
        )


def test_without_a_rule_nothing_is_newer_than_the_profile() -> None:
    assert program(profile("SCMP_ACT_KILL_PROCESS")).call(X86_64, "read") == KILL_PROCESS
    unknown = {"names": ["no_such_call"], "action": "SCMP_ACT_ALLOW"}
    assert program(profile("SCMP_ACT_KILL_PROCESS", unknown)).call(X86_64, "read") == KILL_PROCESS


def test_of_several_rules_for_a_call() -> None:
    def rule(action: str, *args: int) -> dict[str, Any]:
        conditions = [{"index": index, "op": "SCMP_CMP_EQ", "value": value} for index, value in enumerate(args)]
        return {"names": ["lseek"], "action": action, "args": conditions}

    found = program(
        profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_TRAP", 1), rule("SCMP_ACT_LOG", 1, 2), rule("SCMP_ACT_KILL", 3))
    )
    assert [found.call(X86_64, "lseek", *args) for args in ((1, 2), (3, 2), (2, 2))] == [0x30000, 0, ALLOW]
    found = program(profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_TRAP", 1), rule("SCMP_ACT_LOG"), rule("SCMP_ACT_KILL")))
    assert found.call(X86_64, "lseek", 1) == 0x7FFC0000  # one without arguments outweighs, the first of them
    found = program(profile("SCMP_ACT_ALLOW", rule("SCMP_ACT_ALLOW"), rule("SCMP_ACT_TRAP")))
    assert found.call(X86_64, "lseek") == 0x30000  # what says the same as the default says nothing
    twice = rule("SCMP_ACT_TRAP", 1)
    twice["args"].append({"index": 0, "op": "SCMP_CMP_EQ", "value": 5})
    found = program(profile("SCMP_ACT_ALLOW", twice))  # on one argument: alternatives
    assert [found.call(X86_64, "lseek", value) for value in (1, 5, 2)] == [0x30000, 0x30000, ALLOW]


def steps(found: Program, arch: str) -> dict[str, int]:
    counted = {}
    for name, number in ALL_TABLES[arch].items():
        if found.run(arch, number) == ALLOW:
            counted[name] = found.steps
    return counted


@pytest.mark.parametrize("arch", [X86_64, ARM64])
def test_a_call_costs_few_instructions(arch: str) -> None:
    """A list, as libseccomp makes it unless told otherwise, costs up to 350."""
    counted = steps(program(default_rules(arch, DEFAULT_CAPS), arch), arch)
    by_arguments = {name: counted.pop(name) for name, _, _ in BY_ARGUMENT}
    assert max(counted.values()) <= 12, counted
    assert sum(counted.values()) / len(counted) <= 10.5
    assert max(by_arguments.values()) <= 20


def test_three_architectures_cost_hardly_more() -> None:
    oci = {**default_rules(X86_64, DEFAULT_CAPS), "architectures": [I386, X32]}
    counted = steps(program(oci), X86_64)
    assert max(count for name, count in counted.items() if name not in ("clone", "socket", "personality")) <= 14


def test_too_many_instructions() -> None:
    args = [{"index": 1, "op": "SCMP_CMP_EQ", "value": value} for value in range(2000)]
    with pytest.raises(InvalidArgument, match="the kernel takes 4096"):
        program(profile("SCMP_ACT_ERRNO", {"names": ["lseek"], "action": "SCMP_ACT_ALLOW", "args": args}))
    # Beyond what a conditional jump reaches, but not beyond that.
    found = program(profile("SCMP_ACT_ERRNO", {"names": ["lseek"], "action": "SCMP_ACT_ALLOW", "args": args[:900]}))
    assert [found.call(X86_64, "lseek", 0, value) for value in (0, 450, 899, 900)] == [ALLOW, ALLOW, ALLOW, EPERM]


def test_the_format_before_docker_1_13() -> None:
    old = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": [X86_64],
        "syscalls": [{"name": "read", "action": "SCMP_ACT_ALLOW"}],
    }
    found = program(seccomp.resolve(old, caps=[], arch=X86_64))
    assert (found.call(X86_64, "read"), found.call(X86_64, "write")) == (ALLOW, ENOSYS)


def test_x32_numbers() -> None:
    """Some have numbers of their own, the others x86_64's; all carry a bit."""
    table = ALL_TABLES[X32]
    assert table["read"] == X32_BIT
    assert table["execve"] == X32_BIT | 520
    assert set(table.values()) & set(TABLES[X86_64].values()) == set()
