"""Rules for ``linux`` and for what depends on its namespaces (config-linux.md)."""

from __future__ import annotations

import os
from typing import Any

from core.kernel import userns
from core.runtime import namespaces, sysctl
from core.runtime.check_ids import check_mappings
from core.runtime.schema import Findings, below

_NEWER = ("netDevices", "memoryPolicy")  # of runtime-spec 1.3
_MAJOR_BITS, _MINOR_BITS = 12, 20  # linux/kdev_t.h
_TAKES_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")


def check(config: dict[str, Any], found: Findings) -> None:
    """Add to ``found`` what is wrong."""
    linux = config["linux"]
    kinds = _check_namespaces(linux.get("namespaces", []), found)
    _check_names(config, kinds, found)
    _check_user_namespace(config, kinds, found)
    _check_time(linux, kinds, found)
    _check_sysctls(linux.get("sysctl", {}), kinds, found)
    _check_covers(linux, kinds, found)
    _check_devices(linux.get("devices", []), found)
    _check_resources(linux.get("resources", {}), found)
    if "seccomp" in linux:
        _check_seccomp(linux["seccomp"], found)
    if linux.get("personality", {}).get("flags"):
        flags = linux["personality"]["flags"]
        found.bad("linux.personality.flags", flags, "no flags are defined so far", "Leave them out")
    for name in _NEWER:
        if linux.get(name) is not None:
            found.doubt(f"linux.{name}", linux[name], "it came with version 1.3 of the specification; ignored")


def _check_namespaces(entries: list[dict[str, Any]], found: Findings) -> dict[str, str]:
    """Type → path ("" for a new one)."""
    kinds: dict[str, str] = {}
    for index, entry in enumerate(entries):
        kind = entry["type"]
        if kind in kinds:
            found.bad(f"linux.namespaces[{index}].type", kind, "this type is there twice", "Leave one of them out")
        kinds.setdefault(kind, entry.get("path", ""))
    return kinds


def _needs(kind: str, kinds: dict[str, str], path: str, value: object, found: Findings) -> bool:
    if kind in kinds:
        return True
    rule = f"it needs a {kind} namespace: without one it would be set for the host"
    found.bad(path, value, rule, f'Add {{"type": "{kind}"}} to linux.namespaces, or leave it out')
    return False


def _check_names(config: dict[str, Any], kinds: dict[str, str], found: Findings) -> None:
    for name in ("hostname", "domainname"):
        if name in config:
            _needs("uts", kinds, name, config[name], found)


def _check_user_namespace(config: dict[str, Any], kinds: dict[str, str], found: Findings) -> None:
    linux = config["linux"]
    for name in ("uidMappings", "gidMappings"):
        mappings, path = linux.get(name, []), f"linux.{name}"
        check_mappings(mappings, path, found)
        if mappings and "user" not in kinds:
            _needs("user", kinds, path, mappings, found)
        elif mappings and kinds["user"]:
            found.doubt(path, mappings, "the namespace that is joined has its own mappings; these are ignored")
        elif kinds.get("user") == "":
            _check_new_user_namespace(config, name, mappings, found)


def _check_new_user_namespace(
    config: dict[str, Any], name: str, mappings: list[dict[str, Any]], found: Findings
) -> None:
    if not mappings:
        found.missing(f"linux.{name}", "a new user namespace needs mappings", "Add at least a range that begins with 0")
        return
    ranges = namespaces.ranges(mappings)
    if not userns.mapped(ranges, 0):
        found.doubt(f"linux.{name}", mappings, "id 0 is not mapped, and what is made for the container has no owner")
    if "process" not in config:
        return
    user, field = config["process"]["user"], name[:3]
    wanted = [(f"process.user.{field}", user[field])]
    if field == "gid":
        groups = enumerate(user.get("additionalGids", []))
        wanted += [(f"process.user.additionalGids[{index}]", number) for index, number in groups]
    for path, number in wanted:
        if not userns.mapped(ranges, number):
            found.bad(path, number, f"linux.{name} has no range with it", "Choose a mapped one, or add a range")


def _check_time(linux: dict[str, Any], kinds: dict[str, str], found: Findings) -> None:
    offsets = linux.get("timeOffsets")
    if offsets and _needs("time", kinds, "linux.timeOffsets", offsets, found) and kinds["time"]:
        rule = f"{kinds['time']} is joined, and only a new time namespace can get offsets"
        found.bad("linux.timeOffsets", offsets, rule, "Leave them or the path out")


def _check_sysctls(values: dict[str, str], kinds: dict[str, str], found: Findings) -> None:
    for name, value in values.items():
        path = below("linux.sysctl", name)
        if not sysctl.is_name(name):
            found.bad(path, value, "it is no name of a kernel parameter", "Write it like net.ipv4.ip_forward")
            continue
        kind = sysctl.namespace_of(name)
        if not kind:
            rule = "it belongs to the whole host, not to a namespace"
            found.bad(path, value, rule, "Set it on the host, with sysctl")
        elif not _needs(kind, kinds, path, value, found):
            continue
        elif sysctl.path_of(name) == "kernel/hostname":
            found.bad(path, value, "the field hostname is for that", "Use it instead")
        elif kind == "network" and _is_own_network(kinds[kind]):
            rule = f"{kinds[kind]} is the host's network"
            found.bad(path, value, rule, "Use a network namespace of its own, or leave it out")


def _is_own_network(path: str) -> bool:
    """Is the namespace at ``path`` the one this process is in? False where it cannot be told: joining will tell."""
    try:
        return bool(path) and os.path.samefile(path, "/proc/self/ns/net")
    except OSError:
        return False


def _check_covers(linux: dict[str, Any], kinds: dict[str, str], found: Findings) -> None:
    for name in ("maskedPaths", "readonlyPaths"):
        if linux.get(name):
            _needs("mount", kinds, f"linux.{name}", linux[name], found)


def _check_devices(devices: list[dict[str, Any]], found: Findings) -> None:
    seen: dict[str, dict[str, Any]] = {}
    for index, device in enumerate(devices):
        path = f"linux.devices[{index}]"
        if device["type"] != "p":
            for name, bits in (("major", _MAJOR_BITS), ("minor", _MINOR_BITS)):
                if name not in device:
                    rule = f"a device of type {device['type']} needs one"
                    found.missing(f"{path}.{name}", rule, "Add it; `ls -l` of the host's device shows it")
                elif device[name] >> bits:
                    most = (1 << bits) - 1
                    found.bad(f"{path}.{name}", device[name], f"it is not between 0 and {most}", "Correct it")
        place = os.path.normpath(device["path"])
        other = seen.setdefault(place, device)
        if any(other.get(name) != device.get(name) for name in ("type", "major", "minor")):
            found.bad(f"{path}.path", device["path"], "another device is already there", "Give them different paths")
        if "fileMode" in device:
            device["fileMode"] &= 0o7777


def _check_resources(resources: dict[str, Any], found: Findings) -> None:
    _check_memory(resources.get("memory", {}), found)
    _check_cpu(resources.get("cpu", {}), found)
    for index, entry in enumerate(resources.get("blockIO", {}).get("weightDevice", [])):
        if "weight" not in entry and "leafWeight" not in entry:
            path = f"linux.resources.blockIO.weightDevice[{index}].weight"
            found.missing(path, "an entry has weight or leafWeight, or both", "Add one")
    for name, entry in resources.get("rdma", {}).items():
        if "hcaHandles" not in entry and "hcaObjects" not in entry:
            path = below("linux.resources.rdma", name)
            found.missing(f"{path}.hcaHandles", "an entry has hcaHandles or hcaObjects, or both", "Add one")


def _check_memory(memory: dict[str, Any], found: Findings) -> None:
    path = "linux.resources.memory"
    limit, swap = memory.get("limit", 0), memory.get("swap", 0)
    if swap > 0 and limit <= 0:
        found.bad(f"{path}.swap", swap, "it holds the memory too, which has no limit", f"Add {path}.limit")
    elif 0 < swap < limit:
        found.bad(f"{path}.swap", swap, f"it holds the memory too, whose limit of {limit} is larger", "Raise it")
    if memory.get("kernel", -1) > 0:
        found.doubt(f"{path}.kernel", memory["kernel"], "the specification advises against it, and kernels ignore it")


def _check_cpu(cpu: dict[str, Any], found: Findings) -> None:
    """Bounds of the kernel's kernel/sched/core.c; 0 leaves what is there, as in runc."""
    path = "linux.resources.cpu"
    quota = cpu.get("quota", 0)
    for name, least in (("shares", 2), ("quota", 1000), ("period", 1000)):
        if 0 < cpu.get(name, 0) < least:
            found.bad(f"{path}.{name}", cpu[name], f"the kernel takes {least} and more", "Raise it")
    if 0 < quota < cpu.get("burst", 0):
        found.bad(f"{path}.burst", cpu["burst"], f"it exceeds the quota, which is {quota}", "Lower it")
    runtime, period = cpu.get("realtimeRuntime", 0), cpu.get("realtimePeriod", 0)
    if 0 < period < runtime:
        rule = f"it exceeds the realtimePeriod, which is {period}"
        found.bad(f"{path}.realtimeRuntime", runtime, rule, "Lower it")


def _check_seccomp(seccomp: dict[str, Any], found: Findings) -> None:
    path = "linux.seccomp"
    if seccomp["defaultAction"] == "SCMP_ACT_NOTIFY":
        # The filter's own descriptor could not be sent: that takes system calls as well.
        found.bad(f"{path}.defaultAction", "SCMP_ACT_NOTIFY", "it cannot be the default", "Use it in a rule")
    if "defaultErrnoRet" in seccomp and seccomp["defaultAction"] not in _TAKES_ERRNO:
        rule = f"{seccomp['defaultAction']} returns no errno"
        found.bad(f"{path}.defaultErrnoRet", seccomp["defaultErrnoRet"], rule, "Leave it out")
    for index, call in enumerate(seccomp.get("syscalls", [])):
        action, where = call["action"], f"{path}.syscalls[{index}]"
        if "errnoRet" in call and action not in _TAKES_ERRNO:
            found.bad(f"{where}.errnoRet", call["errnoRet"], f"{action} returns no errno", "Leave it out")
        if action == "SCMP_ACT_NOTIFY" and "listenerPath" not in seccomp:
            rule = f"nobody would answer for {where}, whose action is SCMP_ACT_NOTIFY"
            found.missing(f"{path}.listenerPath", rule, "Name the socket of the agent that does")
        if action == "SCMP_ACT_NOTIFY" and "write" in call["names"]:
            at = call["names"].index("write")
            rule = "the container's init writes before the agent has the listener, and would wait for ever"
            found.bad(f"{where}.names[{at}]", "write", rule, "Leave it out")
    if "listenerMetadata" in seccomp and "listenerPath" not in seccomp:
        rule = "there is no listenerPath that it would be sent to"
        found.bad(f"{path}.listenerMetadata", seccomp["listenerMetadata"], rule, "Leave it out, or add the path")
