"""Seccomp: our programs, run by a simulator of classic BPF, against libseccomp's; and one really installed."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from core.errors import InvalidArgument, Unsupported
from core.kernel import bpf
from core.kernel.process import set_no_new_privs
from core.runtime import seccomp
from core.runtime.syscalls import AUDIT_ARCH, NATIVE, TABLES

Args = tuple[int, ...]

DEFAULT_CAPS = [
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
        "AUDIT_WRITE"
    ).split()
]
MORE_CAPS = ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_NICE", "CAP_SYSLOG", "CAP_BPF", "CAP_SYS_TIME"]
ALLOW, KILL_PROCESS, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
X86, ARM = "SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"
# What Docker's default profile denies on x86_64 to a container with default capabilities.
DENIED = """
_sysctl acct add_key afs_syscall bpf clock_settime create_module delete_module fanotify_init file_getattr file_setattr
finit_module fsconfig fsmount fsopen fspick get_kernel_syms get_mempolicy getpmsg init_module io_uring_enter
io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl listns lookup_dcookie
lsm_get_self_attr lsm_list_modules lsm_set_self_attr mbind migrate_pages mount mount_setattr move_mount move_pages
nfsservctl open_by_handle_at open_tree open_tree_attr perf_event_open pidfd_getfd pivot_root process_madvise putpmsg
query_module quotactl quotactl_fd reboot request_key rseq_slice_yield security set_mempolicy set_mempolicy_home_node
setdomainname sethostname setns settimeofday swapoff swapon sysfs syslog tuxcall umount2 unshare uprobe uselib
userfaultfd ustat vhangup vserver
""".split()
NEWER_THAN_PROFILE = {"open_tree_attr", "file_getattr", "file_setattr", "listns", "rseq_slice_yield"}


class Program:
    """A classic BPF program, run as the kernel would run it on ``struct seccomp_data``."""

    def __init__(self, code: bytes) -> None:
        self.code = list(struct.iter_unpack("=HBBI", code))

    def run(self, arch: int, number: int, args: Args) -> int:
        values = [value % 2**64 for value in (*args, *[0] * 6)][:6]
        data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, arch, 0, *values)
        acc, at = 0, 0
        while True:
            op, jt, jf, k = self.code[at]
            at += 1
            if op == 0x20:
                acc = struct.unpack_from("=I", data, k)[0]
            elif op == 0x06:
                return int(k)
            elif op == 0x54:
                acc &= k
            elif op == 0x05:
                at += k
            else:
                taken = {0x15: acc == k, 0x25: acc > k, 0x35: acc >= k, 0x45: bool(acc & k)}[op]
                at += jt if taken else jf


class _Compare(ctypes.Structure):
    """``struct scmp_arg_cmp``"""

    _fields_ = [
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    ]


# enum scmp_compare: what each operator is for libseccomp, and what it means.
OPERATORS: dict[str, tuple[int, Callable[[int, int, int], bool]]] = {
    "SCMP_CMP_NE": (1, lambda arg, value, _: arg != value),
    "SCMP_CMP_LT": (2, lambda arg, value, _: arg < value),
    "SCMP_CMP_LE": (3, lambda arg, value, _: arg <= value),
    "SCMP_CMP_EQ": (4, lambda arg, value, _: arg == value),
    "SCMP_CMP_GE": (5, lambda arg, value, _: arg >= value),
    "SCMP_CMP_GT": (6, lambda arg, value, _: arg > value),
    "SCMP_CMP_MASKED_EQ": (7, lambda arg, mask, value: arg & mask == value),
}


class Libseccomp:
    """What is needed of libseccomp to build the same filter a second time."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL("libseccomp.so.2")
        self.lib.seccomp_init.restype = ctypes.c_void_p
        self.lib.seccomp_init.argtypes = [ctypes.c_uint32]
        for name in ("seccomp_arch_add", "seccomp_arch_remove"):
            getattr(self.lib, name).argtypes = [ctypes.c_void_p, ctypes.c_uint32]
        self.lib.seccomp_rule_add_array.argtypes = [
            ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Compare)
        ]  # fmt: skip
        self.lib.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
        self.lib.seccomp_release.argtypes = [ctypes.c_void_p]

    def number(self, arch: str, name: str) -> int:
        """Negative where libseccomp is older than the call, or the architecture lacks it."""
        return int(self.lib.seccomp_syscall_resolve_name_arch(ctypes.c_uint32(AUDIT_ARCH[arch]), name.encode()))

    def compile(self, oci: Mapping[str, Any], arch: str) -> Program:
        """The program for one architecture, built as runc builds it."""
        default = seccomp._action(oci["defaultAction"], oci.get("defaultErrnoRet"))
        context = self.lib.seccomp_init(default)
        if arch != seccomp.native_arch():
            assert self.lib.seccomp_arch_add(context, AUDIT_ARCH[arch]) == 0
            assert self.lib.seccomp_arch_remove(context, AUDIT_ARCH[seccomp.native_arch()]) == 0
        for rule in oci["syscalls"]:
            action = seccomp._action(rule["action"], rule.get("errnoRet"))
            if action == default:
                continue
            for number in (self.native_number(arch, name) for name in rule["names"]):
                if number is not None:
                    self.add(context, action, number, rule.get("args") or [])
        memory = os.memfd_create("filter")
        try:
            assert self.lib.seccomp_export_bpf(context, memory) == 0
            return Program(os.pread(memory, 1 << 20, 0))
        finally:
            os.close(memory)
            self.lib.seccomp_release(context)

    def native_number(self, arch: str, name: str) -> int | None:
        """As rules are given: by the native number, which libseccomp translates for the filter's architecture."""
        if self.number(arch, name) < 0:
            return None
        return int(self.lib.seccomp_syscall_resolve_name(name.encode()))

    def add(self, context: int, action: int, number: int, args: Sequence[Mapping[str, Any]]) -> None:
        conditions = [
            _Compare(a["index"], OPERATORS[a["op"]][0], a["value"] % 2**64, (a.get("valueTwo") or 0) % 2**64)
            for a in args
        ]
        groups = [conditions] if len({c.arg for c in conditions}) == len(conditions) else [[c] for c in conditions]
        for group in groups:
            array = (_Compare * len(group))(*group)
            done = self.lib.seccomp_rule_add_array(context, action, number, len(group), array)
            assert done in (0, -errno.EEXIST), os.strerror(-done)


@pytest.fixture(scope="module")
def library() -> Libseccomp:
    try:
        return Libseccomp()
    except OSError:
        pytest.skip("needs libseccomp2 from Debian, to compare with")


def default_filter(arch: str, caps: Sequence[str], kernel: str = "6.1.0") -> dict[str, Any]:
    return seccomp.resolve(seccomp.default_profile(), caps=caps, arch=arch, kernel=kernel)


INTERESTING = [0, 1, 8, 16, 37, 38, 39, 40, 41, 0x80, 0x20000, 0x20008, 0x02000000, 0x7E020000, 0x10000011, 0xFFFFFFFF]
WIDE = [1 << 32, (1 << 32) | 38, (1 << 63), 2**64 - 1]


def cases(arch: str, library: Libseccomp) -> Iterator[tuple[int, Args]]:
    """Every number up to beyond the table that both know or that nobody knows, with several arguments."""
    names = {number: name for name, number in TABLES[arch].items()}
    for number in range(700):
        if number in names and library.number(arch, names[number]) != number:
            continue  # libseccomp is older than that call
        for value in INTERESTING:
            yield number, (value, 1, 2, 3, 4, 5)
        for value in WIDE:
            if names.get(number) not in seccomp._INT_ARGS:
                yield number, (value, value, 0, 0, 0, 0)


@pytest.mark.parametrize("arch", [X86, ARM])
@pytest.mark.parametrize("extra", [[], ["CAP_SYS_ADMIN"], MORE_CAPS], ids=["default", "admin", "many"])
def test_default_profile_decides_as_libseccomp(arch: str, extra: list[str], library: Libseccomp) -> None:
    oci = default_filter(arch, DEFAULT_CAPS + extra)
    ours, theirs = Program(seccomp.compile_filter(oci)), library.compile(oci, arch)
    newest = max(TABLES[arch][n] for rule in oci["syscalls"] for n in rule["names"] if n in TABLES[arch])
    for number, args in cases(arch, library):
        wanted = theirs.run(AUDIT_ARCH[arch], number, args) if number <= newest else ENOSYS
        assert ours.run(AUDIT_ARCH[arch], number, args) == wanted, (number, args)


def random_rules(dice: random.Random, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """One or two rules for each of many calls, with up to three conditions each."""

    def condition(index: int) -> dict[str, Any]:
        op, value = dice.choice(list(OPERATORS)), dice.choice(INTERESTING + WIDE)
        two = dice.choice(INTERESTING + WIDE) & value if op == "SCMP_CMP_MASKED_EQ" else 0
        return {"index": index, "op": op, "value": value, "valueTwo": two}

    def rule(name: str) -> dict[str, Any]:
        args = [condition(i) for i in dice.sample(range(6), dice.choice([0, 0, 1, 1, 2, 3]))]
        return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": args}

    return {name: [rule(name) for _ in range(dice.choice([1, 1, 1, 2]))] for name in dice.sample(names, 120)}


def holds(rule: Mapping[str, Any], args: Args) -> bool:
    return all(OPERATORS[a["op"]][1](args[a["index"]], a["value"], a["valueTwo"]) for a in rule["args"])


@pytest.mark.parametrize("seed", range(20))
def test_random_profiles_decide_as_written(seed: int, library: Libseccomp) -> None:
    """Against the rules' own meaning; and against libseccomp where a call has one rule (2.5.4 merges several of them
    wrongly: a second rule's wide comparison can be lost)."""
    dice = random.Random(seed)
    names = [n for n in TABLES[X86] if n not in seccomp._INT_ARGS and library.number(X86, n) == TABLES[X86][n]]
    rules = random_rules(dice, names)
    flat = [rule for several in rules.values() for rule in several]
    oci = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": [X86], "syscalls": flat}
    ours, theirs = Program(seccomp.compile_filter(oci)), library.compile(oci, X86)
    for name, several in rules.items():
        for _ in range(60):
            args = tuple(dice.choice(INTERESTING + WIDE) for _ in range(6))
            answer = ours.run(AUDIT_ARCH[X86], TABLES[X86][name], args)
            assert answer == (ALLOW if any(holds(rule, args) for rule in several) else ENOSYS), (several, args)
            if len(several) == 1:
                assert answer == theirs.run(AUDIT_ARCH[X86], TABLES[X86][name], args), (several, args)


@pytest.mark.parametrize("arch", [X86, ARM])
def test_tables_agree_with_libseccomp(arch: str, library: Libseccomp) -> None:
    known = {name: library.number(arch, name) for name in TABLES[arch]}
    assert {n: k for n, k in known.items() if k >= 0 and k != TABLES[arch][n]} == {}
    assert sum(k >= 0 for k in known.values()) > 290


def test_denied_calls_are_dockers() -> None:
    program = Program(seccomp.compile_filter(default_filter(X86, DEFAULT_CAPS)))
    answers = {name: program.run(AUDIT_ARCH[X86], number, (0,) * 6) for name, number in TABLES[X86].items()}
    assert {n for n, a in answers.items() if a == EPERM} == set(DENIED) - NEWER_THAN_PROFILE
    assert {n for n, a in answers.items() if a == ENOSYS} == NEWER_THAN_PROFILE | {"clone3"}
    assert set(answers.values()) == {ALLOW, EPERM, ENOSYS}


def test_foreign_architectures_do_not_pass() -> None:
    program = Program(seccomp.compile_filter(default_filter(X86, DEFAULT_CAPS)))
    i386, x32 = 0x40000003, 0x40000000
    assert program.run(i386, 102, (1,)) == KILL_PROCESS  # socketcall
    assert program.run(AUDIT_ARCH[ARM], 0, ()) == KILL_PROCESS
    assert program.run(AUDIT_ARCH[X86], x32 | TABLES[X86]["read"], ()) == ENOSYS
    assert program.run(AUDIT_ARCH[X86], 0xFFFFFFFF, ()) == ENOSYS
    lenient = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": [X86], "syscalls": []}
    assert Program(seccomp.compile_filter(lenient)).run(AUDIT_ARCH[X86], x32 | 41, ()) == ENOSYS
    assert Program(seccomp.compile_filter(lenient)).run(AUDIT_ARCH[X86], 5000, ()) == ALLOW


def test_int_arguments_are_compared_as_the_kernel_takes_them() -> None:
    """CVE-2019-7303's pattern: bits beyond an int must not carry a value past the filter."""
    program = Program(seccomp.compile_filter(default_filter(X86, DEFAULT_CAPS)))
    number = TABLES[X86]["socket"]
    for family in (socket.AF_ALG, socket.AF_VSOCK):
        for high in (0, 1 << 32, 1 << 63):
            assert program.run(AUDIT_ARCH[X86], number, (high | family, 5, 0)) == EPERM
    assert program.run(AUDIT_ARCH[X86], number, (socket.AF_INET, 1, 0)) == ALLOW
    assert program.run(AUDIT_ARCH[X86], TABLES[X86]["personality"], (2**64 - 1,)) == ALLOW


def test_kernel_and_architecture_conditions() -> None:
    def names(oci: Mapping[str, Any]) -> set[str]:
        return {name for rule in oci["syscalls"] for name in rule["names"]}

    assert "ptrace" in names(default_filter(X86, [], "4.8"))
    assert "ptrace" not in names(default_filter(X86, [], "4.7.10-generic"))
    assert "ptrace" in names(default_filter(X86, ["CAP_SYS_PTRACE"], "4.7"))
    assert "arch_prctl" not in names(default_filter(ARM, []))
    assert default_filter(ARM, [])["architectures"] == [ARM]
    foreign = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": [ARM]}
    assert seccomp.resolve(foreign, caps=[], arch=X86)["architectures"] == [X86, ARM]


@pytest.mark.parametrize(
    "change",
    [
        {"defaultAction": "SCMP_ACT_SOMETIMES"},
        {"syscalls": [{"names": ["read"], "action": "ALLOW"}]},
        {"syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 6, "op": "SCMP_CMP_EQ"}]}]},
        {"syscalls": [{"name": "read", "names": ["write"], "action": "SCMP_ACT_ALLOW"}]},
        {"syscalls": [{"action": "SCMP_ACT_ALLOW"}]},
        {"architectures": [X86], "archMap": [{"architecture": X86}]},
    ],
)
def test_malformed_profiles_are_refused(change: dict[str, Any]) -> None:
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [], **change}
    with pytest.raises(InvalidArgument, match="invalid seccomp profile"):
        seccomp.compile_filter(seccomp.resolve(profile, caps=[], arch=X86))


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(Unsupported, match="notifications"):
        seccomp.compile_filter({"defaultAction": "SCMP_ACT_NOTIFY", "syscalls": []})
    with pytest.raises(InvalidArgument):
        seccomp.resolve({}, caps=[], arch=X86)


def in_filtered_child(action: Callable[[], object], program: bytes) -> Any:
    """What ``action`` returns in a forked child under the filter, by way of JSON."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            set_no_new_privs()
            bpf.install_filter(program)
            os.write(send, json.dumps(action()).encode())
        except BaseException as exc:
            os.write(send, json.dumps(repr(exc)).encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        answer = pipe.read()
    status = os.waitpid(pid, 0)[1]
    assert status == 0, status
    return json.loads(answer)


def test_installed_filter() -> None:
    if os.uname().machine not in NATIVE:
        pytest.skip(f"no system call table for {os.uname().machine}")
    table = TABLES[seccomp.native_arch()]
    libc = ctypes.CDLL(None, use_errno=True)
    tried = {
        "socket": (socket.AF_ALG, socket.SOCK_SEQPACKET, 0),
        "clone3": (0, 0),
        "unshare": (0x20000,),
        "mount": (0, 0, 0, 0, 0),
        "keyctl": (0, 0),
        "clone": (0x10000011, 0, 0, 0, 0),
        "open_tree_attr": (0, 0, 0, 0, 0),
        "getpid": (),
    }

    def errors() -> dict[str, int]:
        answers = {}
        for name, args in tried.items():
            done = libc.syscall(ctypes.c_long(table[name]), *(ctypes.c_long(a) for a in args))
            answers[name] = ctypes.get_errno() if done == -1 else 0
        wide = (ctypes.c_long(1 << 32 | socket.AF_ALG), ctypes.c_long(socket.SOCK_SEQPACKET), ctypes.c_long(0))
        answers["wide socket"] = ctypes.get_errno() if libc.syscall(ctypes.c_long(table["socket"]), *wide) == -1 else 0
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
        return answers

    denied = dict.fromkeys(["socket", "wide socket", "unshare", "mount", "keyctl", "clone"], errno.EPERM)
    program = seccomp.compile_filter(seccomp.resolve(seccomp.default_profile(), caps=DEFAULT_CAPS))
    wanted = {**denied, "clone3": errno.ENOSYS, "open_tree_attr": errno.ENOSYS, "getpid": 0}
    assert in_filtered_child(errors, program) == wanted


def test_malformed_program_is_an_oserror() -> None:
    with pytest.raises(OSError, match="seccomp") as caught:
        bpf.install_filter(b"\xff" * 16)
    assert caught.value.errno in (errno.EINVAL, errno.EACCES)
