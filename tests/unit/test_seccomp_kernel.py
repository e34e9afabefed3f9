"""Seccomp on this kernel: filters that are really installed, in forked children."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from core.kernel import bpf
from core.kernel.process import set_no_new_privs
from core.runtime import seccomp
from core.runtime.syscalls import NATIVE, TABLES
from core.runtime.syscalls_foreign import FOREIGN_TABLES
from tests.seccomp_lab import ALLOW, DEFAULT_CAPS, I386, X86_64, Program, profile

if os.uname().machine not in NATIVE:
    pytest.skip(f"no system call table for {os.uname().machine}", allow_module_level=True)

NATIVE_ARCH = seccomp.native_arch()
TABLE = TABLES[NATIVE_ARCH]
LIBC = ctypes.CDLL(None, use_errno=True)


def call(name: str, *args: int) -> int:
    """The error of a raw call, 0 if it had none."""
    done = LIBC.syscall(ctypes.c_long(TABLE[name]), *(ctypes.c_long(arg) for arg in args))
    return ctypes.get_errno() if done == -1 else 0


def in_child(action: Callable[[], object]) -> Any:
    """What ``action`` returns in a forked child with no_new_privs, by way of JSON; or the signal that killed it."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            set_no_new_privs()
            os.write(send, json.dumps(action()).encode())
        except BaseException as exc:
            os.write(send, json.dumps(repr(exc)).encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        answer = pipe.read()
    status = os.waitpid(pid, 0)[1]
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else json.loads(answer)


def filtered(oci: dict[str, Any], action: Callable[[], object], flags: int = 0) -> Any:
    code = seccomp.compile_filter(oci)

    def run() -> object:
        bpf.install_filter(code, flags)
        return action()

    return in_child(run)


def default_rules() -> dict[str, Any]:
    return seccomp.resolve(seccomp.default_profile(), caps=DEFAULT_CAPS)


def test_default_profile() -> None:
    tried = {
        "socket": (socket.AF_ALG, socket.SOCK_SEQPACKET, 0),
        "clone3": (0, 0),
        "unshare": (0x20000,),
        "mount": (0, 0, 0, 0, 0),
        "keyctl": (0, 0),
        "add_key": (0, 0, 0, 0, 0),
        "clone": (0x10000011, 0, 0, 0, 0),
        "open_tree_attr": (0, 0, 0, 0, 0),
        "rseq_slice_yield": (),
        "getpid": (),
    }

    def errors() -> dict[str, int]:
        answers = {name: call(name, *args) for name, args in tried.items()}
        for family in (socket.AF_ALG, socket.AF_VSOCK):
            for high in (1 << 32, 1 << 63, 0xFFFFFFFF << 32):
                answers[f"{family}+{high:x}"] = call("socket", high | family, socket.SOCK_SEQPACKET, 0)
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).close()
        return answers

    answers = filtered(default_rules(), errors)
    newer = dict.fromkeys(("clone3", "open_tree_attr", "rseq_slice_yield"), errno.ENOSYS)
    assert answers == {**dict.fromkeys(answers, errno.EPERM), **newer, "getpid": 0}
    assert len(answers) == len(tried) + 6


def test_every_refused_call_is_refused_by_the_kernel() -> None:
    """The kernel's verdict is the simulator's, for all calls that the default profile refuses without arguments."""
    simulated = Program(seccomp.compile_filter(default_rules()))
    # Since Linux 6.14 it lets its own two probes pass by every filter; they are no calls that a program could use.
    table = {name: number for name, number in TABLE.items() if name not in ("uprobe", "uretprobe")}
    refused = {name: simulated.run(NATIVE_ARCH, number) for name, number in table.items()}
    refused = {name: answer & 0xFFFF for name, answer in refused.items() if answer != ALLOW}
    assert len(refused) > 60
    assert filtered(default_rules(), lambda: {name: call(name) for name in refused}) == refused


def test_actions() -> None:
    def verdict(action: str, **more: int) -> Any:
        rule = {"names": ["getppid"], "action": action, **more}
        return filtered(profile("SCMP_ACT_ALLOW", rule), lambda: call("getppid"))

    assert verdict("SCMP_ACT_ERRNO", errnoRet=99) == 99
    assert verdict("SCMP_ACT_TRACE") == errno.ENOSYS  # nobody traces
    assert verdict("SCMP_ACT_LOG") == verdict("SCMP_ACT_ALLOW") == 0
    assert verdict("SCMP_ACT_TRAP") == verdict("SCMP_ACT_KILL_PROCESS") == verdict("SCMP_ACT_KILL") == "SIGSYS"
    trapping = profile("SCMP_ACT_ALLOW", {"names": ["getppid"], "action": "SCMP_ACT_TRAP"})

    def handled() -> list[int]:
        seen: list[int] = []
        signal.signal(signal.SIGSYS, lambda signo, frame: seen.append(signo))
        call("getppid")
        return seen

    assert filtered(trapping, handled) == [signal.SIGSYS]


def test_wide_arguments_in_both_halves() -> None:
    args = [{"index": 1, "op": "SCMP_CMP_GT", "value": 5 << 32 | 7}]
    rules = profile("SCMP_ACT_ALLOW", {"names": ["lseek"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99, "args": args})
    values = [0, 7, 8, 5 << 32 | 6, 5 << 32 | 7, 5 << 32 | 8, 6 << 32, 1 << 62]
    answers = filtered(rules, lambda: [call("lseek", -1, value, 0) for value in values])
    assert answers == [errno.EBADF] * 5 + [99] * 3


@pytest.mark.parametrize("name", ["SPEC_ALLOW", "LOG", "TSYNC"])
def test_flags_load(name: str) -> None:
    flag = getattr(bpf, f"FILTER_{name}")
    assert bpf.filter_flag_available(flag)
    rules = profile("SCMP_ACT_ALLOW", {"names": ["getppid"], "action": "SCMP_ACT_ERRNO"})
    assert filtered(rules, lambda: call("getppid"), flag) == errno.EPERM


def test_tsync_reaches_other_threads() -> None:
    rules = profile("SCMP_ACT_ALLOW", {"names": ["getppid"], "action": "SCMP_ACT_ERRNO"})
    code = seccomp.compile_filter(rules)

    def other_thread(flags: int) -> int:
        go, answers = threading.Event(), []

        def run() -> None:
            go.wait()
            answers.append(call("getppid"))

        thread = threading.Thread(target=run)
        thread.start()
        bpf.install_filter(code, flags)
        go.set()
        thread.join()
        return int(answers[0])

    assert in_child(lambda: other_thread(0)) == 0
    assert in_child(lambda: other_thread(bpf.FILTER_TSYNC)) == errno.EPERM


def test_tsync_that_cannot_be() -> None:
    """A thread with a filter of its own cannot follow: that is an error, not half a success."""
    code = seccomp.compile_filter(profile("SCMP_ACT_ALLOW"))

    def run() -> str:
        done, go = threading.Event(), threading.Event()

        def own_filter() -> None:
            bpf.install_filter(code)
            done.set()
            go.wait()

        thread = threading.Thread(target=own_filter)
        thread.start()
        done.wait()
        try:
            bpf.install_filter(code, bpf.FILTER_TSYNC)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        finally:
            go.set()
        return "installed"

    assert in_child(run) == "ESRCH"


def test_what_the_kernel_does_not_know() -> None:
    assert not bpf.filter_flag_available(1 << 30)
    assert not bpf.action_available(0x7F000000)
    code = seccomp.compile_filter(profile("SCMP_ACT_ALLOW"))
    with pytest.raises(OSError, match="seccomp") as caught:
        bpf.install_filter(code, 1 << 30)
    assert caught.value.errno == errno.EINVAL


def test_malformed_program_is_an_oserror() -> None:
    with pytest.raises(OSError, match="seccomp") as caught:
        bpf.install_filter(b"\xff" * 16)
    assert caught.value.errno in (errno.EINVAL, errno.EACCES)


class Machine:
    """The few instructions that make a 32-bit call from a 64-bit process: ``int 0x80`` with ebx, ecx, edx."""

    CODE = bytes.fromhex("53 89f8 89f3 89d1 89ca cd80 4898 5b c3")

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self.memory.write(self.CODE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.enter = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_int)(address)

    def call(self, name: str, first: int = 0, second: int = 0) -> int:
        return max(0, -int(self.enter(FOREIGN_TABLES[I386][name], first, second)))


@pytest.fixture(scope="module")
def machine() -> Machine:
    if NATIVE_ARCH != X86_64:
        pytest.skip("32-bit calls by int 0x80 are x86's")
    found = Machine()
    if in_child(lambda: found.call("getpid")) != 0:
        pytest.skip("this kernel runs no 32-bit programs")
    return found


def test_32_bit_calls_are_no_way_out(machine: Machine) -> None:
    """Docker's own default lets AF_ALG be had by ``socketcall``; ours lets no 32-bit call pass."""
    assert filtered(default_rules(), lambda: machine.call("socketcall", 1)) == "SIGSYS"
    assert filtered(default_rules(), lambda: machine.call("getpid")) == "SIGSYS"
    assert filtered(profile("SCMP_ACT_ALLOW"), lambda: machine.call("getpid")) == "SIGSYS"


def test_32_bit_calls_where_the_profile_lists_them(machine: Machine) -> None:
    oci = {**default_rules(), "architectures": [I386]}
    tried = [("getpid", 0), ("socket", socket.AF_ALG), ("socketcall", 1), ("mount", 0), ("listns", 0)]
    answers = filtered(oci, lambda: [machine.call(name, first, socket.SOCK_SEQPACKET) for name, first in tried])
    assert answers == [0, errno.EPERM, errno.EPERM, errno.EPERM, errno.ENOSYS]
