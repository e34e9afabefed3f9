"""A profile in Docker's format: OCI's, with rules that depend on capabilities, architecture and kernel."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from core.errors import InvalidArgument
from core.runtime.seccomp_policy import (
    ARCHES,
    bad,
    one_of,
    read_action,
    read_arches,
    read_flags,
    read_rule,
    strings,
    typed,
)

DEFAULT = Path(__file__).with_name("profiles") / "default.json"
_DOCKER_ARCH = {"SCMP_ARCH_X86_64": "amd64", "SCMP_ARCH_AARCH64": "arm64"}
_LARGEST = 1 << 22  # bytes; Docker's default profile has 15 thousand
# What the two formats have in common beside rules and architectures.
_SHARED = ("defaultErrnoRet", "flags", "listenerPath", "listenerMetadata")


def load(path: str | Path) -> bytes:
    """The bytes of a profile's file.

    :raises InvalidArgument: it cannot be read, is no regular file, or is too large
    """
    fix = "Name a file with a profile in Docker's format, or unconfined"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # not blocking: it could be a FIFO
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise InvalidArgument(f"cannot read seccomp profile {path}", "it is not a regular file", fix)
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise InvalidArgument(f"cannot read seccomp profile {path}", error.strerror or str(error), fix) from error
    if len(content) > _LARGEST:
        raise InvalidArgument(f"cannot read seccomp profile {path}", "it has more than 4 MiB", fix)
    return content


def parse(content: bytes) -> dict[str, Any]:
    """:raises InvalidArgument: it is no JSON object"""
    try:
        return typed(json.loads(content), dict, "it")
    except (ValueError, RecursionError) as error:
        raise bad(f"it is not JSON: {error}") from error


def resolve(profile: Mapping[str, Any], *, caps: Collection[str], arch: str, kernel: str) -> dict[str, Any]:
    """The OCI ``linux.seccomp`` object that ``profile`` means for one container.

    Every rule is checked, also one that does not apply here: a mistake in it would come up on another host.

    :param caps: the container's bounding set (``CAP_…``)
    :param arch: seccomp's name of the architecture
    :param kernel: release as ``uname -r`` prints it
    :raises InvalidArgument: the profile is malformed
    """
    typed(profile, dict, "it")
    if "defaultAction" not in profile:
        raise bad("defaultAction is missing")
    if profile.get("architectures") and profile.get("archMap"):
        raise bad("it gives both architectures and archMap")
    read_action(profile["defaultAction"], profile.get("defaultErrnoRet"), "default")
    read_flags(profile.get("flags"))
    result: dict[str, Any] = {"defaultAction": profile["defaultAction"]}
    result.update({key: profile[key] for key in _SHARED if profile.get(key) is not None})
    listed = read_arches(profile.get("architectures"), "architectures") or _mapped(profile.get("archMap") or [], arch)
    # As with libseccomp the machine's own architecture is always among them.
    result["architectures"] = listed if arch in listed else [arch, *listed]
    release = _version(kernel, "the kernel's release")
    result["syscalls"] = rules = []
    for index, rule in enumerate(typed(profile.get("syscalls") or [], list, "syscalls")):
        where = f"syscalls[{index}]"
        found = _oci_rule(rule, where)
        if all(_applies(rule, field, where, caps, arch, release) for field in ("includes", "excludes")):
            rules.append(found)
    return result


def _mapped(arch_map: object, arch: str) -> list[str]:
    for index, entry in enumerate(typed(arch_map, list, "archMap")):
        where = f"archMap[{index}]"
        entry = typed(entry, dict, where)
        name = one_of(entry.get("architecture"), ARCHES, f"{where}.architecture")
        others = read_arches(entry.get("subArchitectures"), f"{where}.subArchitectures")
        if name == arch:
            return [arch, *others]
    return [arch]


def _version(release: str, where: str) -> tuple[int, int]:
    parts = release.split("-")[0].split(".")
    try:
        return int(parts[0]), int(parts[1]) if len(parts) > 1 else 0
    except ValueError:
        raise bad(f"{where} is {release!r}; it must be a kernel version, such as 4.8") from None


def _applies(
    rule: Mapping[str, Any], field: str, where: str, caps: Collection[str], arch: str, release: tuple[int, int]
) -> bool:
    """Does the rule stay? ``includes`` need every capability named; one named in ``excludes`` is enough to drop it."""
    where, wanted = f"{where}.{field}", field == "includes"
    filters = typed(rule.get(field) or {}, dict, where)
    arches = strings(filters.get("arches") or [], f"{where}.arches")
    names = strings(filters.get("caps") or [], f"{where}.caps")
    minimum = typed(filters.get("minKernel") or "", str, f"{where}.minKernel")
    if arches and (_DOCKER_ARCH.get(arch, arch) in arches) is not wanted:
        return False
    if names and (all(c in caps for c in names) if wanted else any(c in caps for c in names)) is not wanted:
        return False
    return not minimum or (release >= _version(minimum, f"{where}.minKernel")) is wanted


def _oci_rule(rule: object, where: str) -> dict[str, Any]:
    rule = typed(rule, dict, where)
    if rule.get("name") and rule.get("names"):
        raise bad(f"{where} gives both name ({rule['name']!r}) and names")
    result = {key: rule[key] for key in ("names", "action", "errnoRet", "args") if rule.get(key) is not None}
    if rule.get("name"):
        result["names"] = [rule["name"]]  # the format before Docker 1.13
    read_rule(result, where)
    return {key: value for key, value in result.items() if value != []}
