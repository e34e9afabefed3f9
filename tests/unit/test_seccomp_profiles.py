"""Seccomp profiles as they come: malformed ones are named, flags and cached results are what they should be."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from core.errors import InvalidArgument, StartFailed, Unsupported
from core.kernel import bpf
from core.runtime import notify, seccomp, seccomp_policy
from core.runtime.syscalls import NATIVE
from core.runtime.task import Filter
from tests.seccomp_lab import DEFAULT_CAPS, I386, X86_64, profile


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"defaultAction": "SCMP_ACT_SOMETIMES"}, "defaultAction is 'SCMP_ACT_SOMETIMES'; allowed are SCMP_ACT_KILL,"),
        ({"defaultAction": None}, "defaultAction is null"),
        (
            {"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1},
            "defaultErrnoRet is set, and SCMP_ACT_ALLOW returns",
        ),
        ({"defaultErrnoRet": 4096}, "defaultErrnoRet is 4096; it must be a whole number from 0 to 4095"),
        ({"defaultErrnoRet": "EPERM"}, "defaultErrnoRet is 'EPERM'"),
        ({"syscalls": {}}, None),
        ({"syscalls": {"names": []}}, "syscalls is an object; it must be an array"),
        ({"syscalls": ["read"]}, r"syscalls\[1\] is 'read'; it must be an object"),
        ({"syscalls": [{"names": "read", "action": "SCMP_ACT_ALLOW"}]}, r"syscalls\[1\].names is 'read'; .* an array"),
        (
            {"syscalls": [{"names": ["read", 5], "action": "SCMP_ACT_ALLOW"}]},
            r"syscalls\[1\].names\[1\] is 5; .* string",
        ),
        ({"syscalls": [{"names": [], "action": "SCMP_ACT_ALLOW"}]}, r"syscalls\[1\].names must name at least one"),
        ({"syscalls": [{"names": ["read"], "action": "ALLOW"}]}, r"syscalls\[1\].action is 'ALLOW'; allowed are"),
        ({"syscalls": [{"names": ["read"]}]}, r"syscalls\[1\].action is missing"),
        ({"syscalls": [{"action": "SCMP_ACT_ALLOW"}]}, r"syscalls\[1\].names is missing"),
        ({"syscalls": [{"name": "read", "names": ["write"], "action": "SCMP_ACT_ALLOW"}]}, "both name .* and names"),
        ({"rule": {"errnoRet": 1}}, r"syscalls\[1\].errnoRet is set, and SCMP_ACT_ALLOW returns none"),
        ({"rule": {"action": "SCMP_ACT_TRACE", "errnoRet": 1 << 16}}, r"syscalls\[1\].errnoRet is 65536"),
        ({"arg": {"index": 6}}, r"syscalls\[1\].args\[0\].index is 6; it must be a whole number from 0 to 5"),
        ({"arg": {"index": True}}, r"args\[0\].index is True"),
        ({"arg": {"op": "SCMP_CMP_LIKE"}}, r"args\[0\].op is 'SCMP_CMP_LIKE'; allowed are SCMP_CMP_NE,"),
        ({"arg": {"value": -1}}, r"args\[0\].value is -1"),
        ({"arg": {"value": 1 << 64}}, r"args\[0\].value is 18446744073709551616"),
        ({"arg": {"value": 1.5}}, r"args\[0\].value is 1.5"),
        ({"arg": {"valueTwo": "7"}}, r"args\[0\].valueTwo is '7'"),
        ({"rule": {"args": [{"index": 0, "op": "SCMP_CMP_EQ"}]}}, r"args\[0\].value is missing"),
        (
            {"rule": {"includes": {"caps": "CAP_KILL"}}},
            r"syscalls\[1\].includes.caps is 'CAP_KILL'; it must be an array",
        ),
        ({"rule": {"excludes": {"minKernel": "new"}}}, r"syscalls\[1\].excludes.minKernel is 'new'; .* such as 4.8"),
        ({"architectures": ["amd64"]}, r"architectures\[0\] is 'amd64'; allowed are SCMP_ARCH_X86,"),
        ({"architectures": [X86_64], "archMap": [{"architecture": X86_64}]}, "both architectures and archMap"),
        ({"archMap": [{"subArchitectures": [I386]}]}, r"archMap\[0\].architecture is null"),
        ({"archMap": [{"architecture": X86_64, "subArchitectures": ["i386"]}]}, r"subArchitectures\[0\] is 'i386'"),
        ({"flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]}, r"flags\[0\] is .*; allowed are SECCOMP_FILTER_FLAG_TSYNC,"),
        ({"flags": "SECCOMP_FILTER_FLAG_LOG"}, "flags is .*; it must be an array"),
        ({"flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}, "WAIT_KILLABLE_RECV needs a rule"),
        ({"listenerMetadata": "x"}, "listenerMetadata is set without listenerPath"),
        ({"rule": {"action": "SCMP_ACT_NOTIFY"}}, "listenerPath must then be the absolute path"),
        (
            {"rule": {"action": "SCMP_ACT_NOTIFY"}, "listenerPath": "agent"},
            "listenerPath must then be the absolute path",
        ),
        ({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/a"}, "SCMP_ACT_NOTIFY cannot be the default action"),
        (
            {"rule": {"names": ["mkdir", "write"], "action": "SCMP_ACT_NOTIFY"}, "listenerPath": "/a"},
            r"syscalls\[1\]: SCMP_ACT_NOTIFY cannot be used for write",
        ),
        (
            {"rule": {"names": ["sendmsg"], "action": "SCMP_ACT_NOTIFY"}, "listenerPath": "/a"},
            r"syscalls\[1\]: SCMP_ACT_NOTIFY cannot be used for sendmsg",
        ),
    ],
)
def test_what_is_malformed_is_named(change: dict[str, Any], wanted: str | None) -> None:
    arg = {"index": 0, "op": "SCMP_CMP_EQ", "value": 1, **change.get("arg", {})}
    rule = {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [arg], **change.get("rule", {})}
    first = {"names": ["getpid"], "action": "SCMP_ACT_ALLOW"}
    given = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [first, rule], **change}
    if isinstance(change.get("syscalls"), list):
        given["syscalls"] = [first, *change["syscalls"]]
    if wanted is None:
        assert seccomp.resolve(given, caps=[], arch=X86_64)["syscalls"] == []
        return
    with pytest.raises(InvalidArgument, match="invalid seccomp profile: .*" + wanted) as caught:
        seccomp.compile_filter(seccomp.resolve(given, caps=[], arch=X86_64), X86_64)
    assert caught.value.fix


def test_a_rule_that_does_not_apply_is_checked_too() -> None:
    rule = {"names": ["read"], "action": "SCMP_ACT_ALOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}}
    with pytest.raises(InvalidArgument, match=r"syscalls\[0\].action"):
        seccomp.resolve(profile("SCMP_ACT_ERRNO", rule), caps=[], arch=X86_64)


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ({"flags": []}, 0),
        ({"flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"]}, bpf.FILTER_LOG | bpf.FILTER_TSYNC),
        ({"flags": ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]}, bpf.FILTER_SPEC_ALLOW),
    ],
)
def test_flags(given: dict[str, Any], flags: int) -> None:
    resolved = seccomp.resolve(profile("SCMP_ACT_ALLOW", **given), caps=[], arch=X86_64)
    assert seccomp_policy.read(resolved, X86_64).flags == flags
    rule = {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}
    listening = profile("SCMP_ACT_ALLOW", rule, listenerPath="@agent", listenerMetadata="x", **given)
    resolved = seccomp.resolve(listening, caps=[], arch=X86_64)
    assert seccomp_policy.read(resolved, X86_64).flags == flags | bpf.FILTER_NEW_LISTENER
    assert (resolved["listenerPath"], resolved["listenerMetadata"]) == ("@agent", "x")


native_only = pytest.mark.skipif(os.uname().machine not in NATIVE, reason="no system call table for this machine")


@native_only
def test_what_the_kernel_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag and an action that no kernel has yet; the kernel itself is asked."""
    monkeypatch.setitem(seccomp_policy.FLAGS, "SECCOMP_FILTER_FLAG_FUTURE", 1 << 30)
    with pytest.raises(Unsupported, match="lacks the seccomp flag SECCOMP_FILTER_FLAG_FUTURE"):
        seccomp.compiled(profile("SCMP_ACT_ALLOW", flags=["SECCOMP_FILTER_FLAG_FUTURE"]))
    assert "SECCOMP_FILTER_FLAG_FUTURE" not in seccomp.features()["supportedFlags"]
    monkeypatch.setitem(seccomp_policy.ACTIONS, "SCMP_ACT_FUTURE", 0x7F000000)
    with pytest.raises(Unsupported, match="lacks the seccomp action SCMP_ACT_FUTURE"):
        seccomp.compiled(profile("SCMP_ACT_ALLOW", {"names": ["read"], "action": "SCMP_ACT_FUTURE"}))


@native_only
def test_compiled_is_program_and_flags() -> None:
    rules = profile("SCMP_ACT_ALLOW", flags=["SECCOMP_FILTER_FLAG_LOG"])
    assert notify.unpack(seccomp.compiled(rules)) == Filter(seccomp.compile_filter(rules), bpf.FILTER_LOG)
    for damaged in (b"", b"WSF1", seccomp.compiled(rules)[:-3], b"\0" * 64):
        with pytest.raises(StartFailed, match="damaged"):
            notify.unpack(damaged)


@native_only
def test_cache(tmp_path: Path) -> None:
    cache, own = tmp_path / "run" / "cache", tmp_path / "own.json"
    seccomp._default_rules.cache_clear()
    seccomp._compiled.cache_clear()
    rules = seccomp.rules_for("", DEFAULT_CAPS, cache)
    assert rules == seccomp.resolve(seccomp.default_profile(), caps=DEFAULT_CAPS)
    wanted = seccomp.compiled(rules, cache)
    files = {path: path.read_bytes() for path in cache.iterdir()}
    assert len(files) == 2
    assert cache.stat().st_mode & 0o777 == 0o700
    # What is there is used, what is torn or changed is not.
    for content in (lambda old: old[:40], lambda old: b"", lambda old: old[:-1] + b"\0", lambda old: old):
        for path, old in files.items():
            path.write_bytes(content(old))
        seccomp._default_rules.cache_clear()
        seccomp._compiled.cache_clear()
        assert seccomp.rules_for("", DEFAULT_CAPS, cache) == rules
        assert seccomp.compiled(rules, cache) == wanted
        assert {path: path.read_bytes() for path in cache.iterdir()} == files
    # Another set of capabilities, another content of a file: another result.
    assert seccomp.rules_for("", [*DEFAULT_CAPS, "CAP_SYS_ADMIN"], cache) != rules
    for action in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG"):
        own.write_text(json.dumps(profile(action)))
        assert seccomp.rules_for(str(own), DEFAULT_CAPS, cache)["defaultAction"] == action
    for number in range(300):
        seccomp.compiled(profile("SCMP_ACT_ERRNO", defaultErrnoRet=number), cache)
    assert len(list(cache.iterdir())) <= 256
    # A cache that cannot be written is none.
    assert seccomp.compiled(profile("SCMP_ACT_TRAP"), Path("/proc/nowhere")) == seccomp.compiled(
        profile("SCMP_ACT_TRAP")
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        (b"{", "it is not JSON"),
        (b"[1]", "it is an array; it must be an object"),
        (b"\xff\xfe", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"{}", "defaultAction is missing"),
        (b" " * (5 << 20), "more than 4 MiB"),
    ],
)
def test_own_profile_that_is_none(content: bytes | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidArgument, match=why):
        seccomp.rules_for(str(path), [])


def test_own_profile_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(InvalidArgument, match=r"not a regular file|Is a directory"):
            seccomp.rules_for(str(path), [])
