"""Seccomp: from a profile in Docker's format to the program that the kernel runs at every system call.

Three steps, of which the engine takes the first two by :func:`rules_for` and the last by :func:`compiled`::

    default_profile()  Docker's JSON: rules that depend on capabilities, architecture and kernel
    resolve(…)         OCI ``linux.seccomp``: the rules that hold for one container
    compile_filter(…)  classic BPF: an array of ``struct sock_filter`` for seccomp(2)

The verdicts are libseccomp's (compared with it in the tests), with these deliberate differences:

- System calls newer than everything the profile names answer ENOSYS instead of the default action, so that a newer C
  library falls back to what the profile knows (runc does the same by patching libseccomp's output).
- No architecture passes that the profile does not name: a 32-bit call kills the process, an x32 call answers ENOSYS.
  The default profile names none: with the 32-bit ``socketcall`` a container evades every filter on socket's arguments.
- Where a profile does name i386, a rule with arguments for what ``socketcall`` or ``ipc`` carry errs on the strict
  side there: no filter sees these arguments.
- An argument that the kernel takes as an ``int`` is compared in its lower 32 bits only. Compared as 64 bits,
  ``socket(1 << 32 | AF_ALG, …)`` is "above 40" for the filter and AF_ALG for the kernel (CVE-2019-7303's pattern).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from core.errors import Unsupported
from core.kernel import bpf
from core.runtime import seccomp_policy, seccomp_profile
from core.runtime.notify import pack
from core.runtime.seccomp_policy import ACTIONS, FLAGS, OPERATORS, Policy
from core.runtime.syscalls import NATIVE

_SINCE = {"SCMP_ACT_KILL_PROCESS": "4.14", "SCMP_ACT_LOG": "4.14", "SCMP_ACT_NOTIFY": "5.0"}
_MOST_CACHED = 256  # files
_MOST_RECENT = 7


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


@functools.cache
def default_profile() -> dict[str, Any]:
    """The engine's default profile, equal in effect to Docker's. Callers must not change it."""
    return seccomp_profile.parse(seccomp_profile.load(seccomp_profile.DEFAULT))


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
    return seccomp_profile.resolve(profile, caps=caps, arch=arch or native_arch(), kernel=kernel or os.uname().release)


def rules_for(path: str, caps: Collection[str], cache: Path | None = None) -> dict[str, Any]:
    """The OCI ``linux.seccomp`` object of a container, by the profile in a file.

    :param path: of the profile; "" for the default profile
    :param caps: the container's bounding set
    :param cache: a folder that only we can write, to keep the result in; made at its first use
    :raises InvalidArgument: the profile cannot be read, or is malformed
    """
    ordered = tuple(sorted(caps))
    if not path:
        return dict(_default_rules(ordered, cache))
    content = seccomp_profile.load(path)
    return seccomp_profile.parse(_kept(cache, ("file", ordered), content, lambda: _resolved(content, ordered)))


@functools.lru_cache(maxsize=32)
def _default_rules(caps: tuple[str, ...], cache: Path | None) -> dict[str, Any]:
    def make() -> bytes:
        return json.dumps(resolve(default_profile(), caps=caps)).encode()

    rules: dict[str, Any] = json.loads(_kept(cache, ("default", caps), b"", make))
    return rules


def _resolved(content: bytes, caps: tuple[str, ...]) -> bytes:
    return json.dumps(resolve(seccomp_profile.parse(content), caps=caps)).encode()


def compile_filter(seccomp: Mapping[str, Any], arch: str | None = None) -> bytes:
    """The BPF program (array of ``struct sock_filter``, native byte order) of an OCI ``linux.seccomp`` object.

    Rules are compiled for ``arch`` (default: this machine's) and those of ``architectures`` that the same machine can
    execute; calls of any other kill the process. Names the architecture does not have are passed over, as libseccomp
    does. Of the rules for one call, one without arguments outweighs all others; else the first that matches decides.
    Several conditions on the same argument within a rule are alternatives (runc's reading of the OCI specification).

    :raises InvalidArgument: something malformed, or a filter beyond the kernel's 4096 instructions
    """
    return _assembled(seccomp_policy.read(seccomp, arch or native_arch()))


def _assembled(policy: Policy) -> bytes:
    from core.runtime.seccomp_program import assemble  # late: where the cache holds the result it is not needed

    return assemble(policy)


def compiled(seccomp: Mapping[str, Any], cache: Path | None = None) -> bytes:
    """What :func:`core.runtime.notify.install` takes: the program of an OCI ``linux.seccomp`` object with its flags.

    :param cache: a folder that only we can write, to keep the result in; made at its first use
    :raises InvalidArgument: as :func:`compile_filter`
    :raises Unsupported: an action or a flag that this kernel does not have
    """
    global _RECENT
    found = _compiled(json.dumps(seccomp, sort_keys=True).encode(), cache)
    if recent(seccomp, cache) is None:
        _RECENT = ((cache, seccomp, found), *_RECENT[:_MOST_RECENT])
    return found


def recent(seccomp: Mapping[str, Any], cache: Path | None = None) -> bytes | None:
    """What :func:`compiled` has given lately, at the price of a comparison: mostly the rules are the very same list."""
    return next((made for place, rules, made in _RECENT if place == cache and rules == seccomp), None)


_RECENT: tuple[tuple[Path | None, Mapping[str, Any], bytes], ...] = ()


@functools.lru_cache(maxsize=32)
def _compiled(text: bytes, cache: Path | None) -> bytes:
    return _kept(cache, ("filter",), text, lambda: _made(json.loads(text)))


def _made(seccomp: Mapping[str, Any]) -> bytes:
    policy = seccomp_policy.read(seccomp, native_arch())
    used = {seccomp["defaultAction"], *(rule["action"] for rule in seccomp.get("syscalls") or [])}
    for action in sorted(used):
        if not bpf.action_available(ACTIONS[action]):
            raise _lacking(f"the seccomp action {action}", f"it came with Linux {_SINCE.get(action, '3.5')}")
    for name, flag in FLAGS.items():
        if policy.flags & flag and not bpf.filter_flag_available(flag):
            raise _lacking(f"the seccomp flag {name}", "seccomp(2) tells since when kernels know it")
    return pack(_assembled(policy), policy.flags)


def _lacking(what: str, why: str) -> Unsupported:
    return Unsupported(f"this kernel lacks {what}", why, "Leave it out of the profile, or use a newer kernel")


def features() -> dict[str, Any]:
    """``linux.seccomp`` of the features structure (runtime-spec, features-linux.md)."""
    arch = NATIVE.get(os.uname().machine)
    return {
        "enabled": arch is not None and bpf.action_available(ACTIONS["SCMP_ACT_ALLOW"]),
        "actions": [name for name, action in ACTIONS.items() if bpf.action_available(action)],
        "operators": list(OPERATORS),
        "archs": [arch, *seccomp_policy.BESIDE[arch]] if arch else [],
        "knownFlags": list(FLAGS),
        "supportedFlags": [name for name, flag in FLAGS.items() if bpf.filter_flag_available(flag)],
    }


def _kept(cache: Path | None, kind: tuple[object, ...], content: bytes, make: Callable[[], bytes]) -> bytes:
    """What ``make`` gives for ``content``, made once per kernel and version of this program.

    A file begins with the digest of the rest: a torn one (power cut) must not be taken for a filter that allows more.
    """
    if cache is None:
        return make()
    key = hashlib.sha256(repr((kind, _surroundings())).encode() + b"\0" + content).hexdigest()
    path = cache / key
    try:
        held = path.read_bytes()
    except OSError:
        held = b""
    if len(held) > 32 and hashlib.sha256(held[32:]).digest() == held[:32]:
        return held[32:]
    result = make()
    _keep(path, hashlib.sha256(result).digest() + result)
    return result


@functools.cache
def _surroundings() -> tuple[object, ...]:
    """What a result depends on beside its input: kernel, machine, and the files it is made with."""
    here = os.path.dirname(__file__)
    names = ("seccomp", "seccomp_policy", "seccomp_profile", "seccomp_program", "syscalls", "syscalls_foreign")
    files = [os.stat(f"{here}/{name}.py") for name in (*names, "syscalls_ints")] + [os.stat(seccomp_profile.DEFAULT)]
    uname = os.uname()
    return uname.release, uname.version, uname.machine, *((file.st_mtime_ns, file.st_size) for file in files)


def _keep(path: Path, content: bytes) -> None:
    """Write the file whole or not at all; a cache that cannot be written is none, and no error."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        others = os.listdir(path.parent)
        if len(others) >= _MOST_CACHED:
            for name in others:
                path.with_name(name).unlink(missing_ok=True)
        temporary.write_bytes(content)
        temporary.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
