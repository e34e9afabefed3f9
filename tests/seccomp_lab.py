"""What the seccomp tests share: a simulator of classic BPF, libseccomp to compare with, and a listener."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from core.runtime import seccomp, seccomp_policy
from core.runtime.syscalls import AUDIT_ARCH, TABLES
from core.runtime.syscalls_foreign import FOREIGN_TABLES
from core.supervise import sockets

Args = tuple[int, ...]

DEFAULT_CAPS = [
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
        "AUDIT_WRITE"
    ).split()
]
ALLOW, KILL_PROCESS, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
X86_64, ARM64 = "SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"
I386, X32, ARM = "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_ARM"
ALL_TABLES = {**TABLES, **FOREIGN_TABLES}


class Program:
    """A classic BPF program, run as the kernel would run it on ``struct seccomp_data``."""

    def __init__(self, code: bytes) -> None:
        self.code = list(struct.iter_unpack("=HBBI", code))
        self.steps = 0  # instructions that the last run took

    def run(self, arch: str | int, number: int, args: Args = ()) -> int:
        """The verdict. :param arch: seccomp's name, or AUDIT_ARCH_*"""
        values = [value % 2**64 for value in (*args, *[0] * 6)][:6]
        data = struct.pack(
            "=IIQ6Q", number & 0xFFFFFFFF, AUDIT_ARCH[arch] if isinstance(arch, str) else arch, 0, *values
        )
        acc, at, self.steps = 0, 0, 0
        while True:
            op, jt, jf, k = self.code[at]
            at += 1
            self.steps += 1
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

    def call(self, arch: str, name: str, *args: int) -> int:
        """The verdict on a call by its name."""
        return self.run(arch, ALL_TABLES[arch][name], args)


def program(oci: Mapping[str, Any], arch: str = X86_64) -> Program:
    return Program(seccomp.compile_filter(oci, arch))


def profile(default: str, *rules: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """An OCI ``linux.seccomp`` object."""
    return {"defaultAction": default, "syscalls": list(rules), **more}


def default_rules(arch: str, caps: Sequence[str], kernel: str = "6.1.0") -> dict[str, Any]:
    return seccomp.resolve(seccomp.default_profile(), caps=caps, arch=arch, kernel=kernel)


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
    """What is needed of libseccomp to build the same filter a second time.

    :raises OSError: it is not installed
    """

    # Its own tokens: x32 has the architecture of x86_64 for the kernel, and a mark of its own here.
    TOKENS: ClassVar = {**AUDIT_ARCH, X32: 0x4000003E}

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
        """-1 where libseccomp is older than the call; another negative one where it is part of a multiplexed one, or
        the architecture lacks it."""
        return int(self.lib.seccomp_syscall_resolve_name_arch(ctypes.c_uint32(self.TOKENS[arch]), name.encode()))

    def compile(self, oci: Mapping[str, Any], *arches: str) -> Program:
        """The program for the architectures, built as runc builds it."""
        default = seccomp_policy.read_action(oci["defaultAction"], oci.get("defaultErrnoRet"), "default")
        context = self.lib.seccomp_init(default)
        native = seccomp.native_arch()
        for arch in arches:
            assert self.lib.seccomp_arch_add(context, self.TOKENS[arch]) in (0, -errno.EEXIST)
        if native not in arches:
            assert self.lib.seccomp_arch_remove(context, self.TOKENS[native]) == 0
        for rule in oci["syscalls"]:
            action = seccomp_policy.read_action(rule["action"], rule.get("errnoRet"), "rule")
            if action == default:
                continue
            for name in rule["names"]:
                if any(self.known(arch, name) for arch in arches):
                    # By the native number, which libseccomp translates for each architecture.
                    number = int(self.lib.seccomp_syscall_resolve_name(name.encode()))
                    self._add(context, action, number, rule.get("args") or [])
        memory = os.memfd_create("filter")
        try:
            assert self.lib.seccomp_export_bpf(context, memory) == 0
            return Program(os.pread(memory, 1 << 20, 0))
        finally:
            os.close(memory)
            self.lib.seccomp_release(context)

    def known(self, arch: str, name: str) -> bool:
        """Does the architecture have the call, by its own number or in a multiplexed one (-101 to -224)?"""
        number = self.number(arch, name)
        return number >= 0 or -300 < number < -100

    def _add(self, context: int, action: int, number: int, args: Sequence[Mapping[str, Any]]) -> None:
        conditions = [_Compare(a["index"], OPERATORS[a["op"]][0], a["value"], a.get("valueTwo") or 0) for a in args]
        groups = [conditions] if len({c.arg for c in conditions}) == len(conditions) else [[c] for c in conditions]
        for group in groups:
            array = (_Compare * len(group))(*group)
            done = self.lib.seccomp_rule_add_array(context, action, number, len(group), array)
            assert done in (0, -errno.EEXIST), os.strerror(-done)


NOTIF_RECV, NOTIF_SEND, CONTINUE = 0xC0502100, 0xC0182101, 1  # linux/seccomp.h


def answer(listener: int, *, value: int = 0, error: int = 0, flags: int = 0) -> tuple[int, int]:
    """Wait for a call that a listener is asked about, and answer it. :returns: its number and the pid"""
    request = bytearray(80)
    fcntl.ioctl(listener, NOTIF_RECV, request)
    cookie, pid, _, number = struct.unpack_from("=QIIi", request)
    fcntl.ioctl(listener, NOTIF_SEND, struct.pack("=QqiI", cookie, value, -error, flags))
    return number, pid


class Agent:
    """Who answers: opened by the path of its socket, as any other would be."""

    def __init__(self, path: str) -> None:
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        if path.startswith("@"):
            self.server.bind("\0" + path[1:])
        else:
            sockets.bind(self.server, path)  # whose path may be longer than 107 bytes, below pytest's folder
        self.server.listen()
        self.listener = -1

    def take(self) -> dict[str, Any]:
        """The one message of a start."""
        connection, _ = self.server.accept()
        with connection:
            data, fds, _, _ = socket.recv_fds(connection, 1 << 16, 4)
            while more := connection.recv(1 << 16):
                data += more
        (self.listener,) = fds
        message: dict[str, Any] = json.loads(data)
        return message

    def answer(self, *, value: int = 0, error: int = 0, flags: int = 0) -> tuple[int, int]:
        """Answer the next call. :returns: its number and the pid"""
        return answer(self.listener, value=value, error=error, flags=flags)

    def close(self) -> None:
        self.server.close()
        if self.listener >= 0:
            os.close(self.listener)
