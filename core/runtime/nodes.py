"""Device nodes of a container, and what its device cgroup allows (``--device``, ``--device-cgroup-rule``)."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from typing import cast

from core.errors import InvalidArgument
from core.model.container import ContainerSpec, DeviceMapping
from core.runtime import defaults
from core.runtime.defaults import Json

_RULE = re.compile(r"([acb]) ([0-9]{1,10}|\*):([0-9]{1,10}|\*) ([rwm]{1,3})")
_KINDS = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}
_OURS = ("pts", "shm", "mqueue", "fd")  # made anew in every container's /dev


def nodes(spec: ContainerSpec) -> list[Json]:
    """``linux.devices``: what is made beside the default ones.

    :raises InvalidArgument: a device that is none, or not there
    """
    found = list(_all_of_host()) if spec.privileged else []
    mapped = [node for mapping in spec.devices for node in _mapped(mapping)]
    taken = {node["path"] for node in mapped}
    return [node for node in found if node["path"] not in taken] + mapped


def rules(spec: ContainerSpec) -> list[Json]:
    """``linux.resources.devices``; the later rule counts. :raises InvalidArgument: as :func:`nodes`"""
    own = [_parse_rule(text) for text in spec.device_cgroup_rules]
    if spec.privileged:
        return [{"allow": True, "access": "rwm"}]
    for mapping in spec.devices:
        for node in _mapped(mapping):
            numbers = {key: node[key] for key in ("type", "major", "minor")}
            own.append({"allow": True, **numbers, "access": mapping.access})
    return [*defaults.device_rules(), *own]


def number_of(path: str) -> tuple[int, int]:
    """Major and minor number of a block device. :raises InvalidArgument: it is none"""
    try:
        status = os.stat(path)
    except OSError as error:
        raise InvalidArgument(f"cannot limit device {path}", error.strerror or "", "`lsblk -p` lists them") from error
    if not stat.S_ISBLK(status.st_mode):
        raise InvalidArgument(f"cannot limit device {path}", "it is not a block device", "`lsblk -p` lists them")
    return os.major(status.st_rdev), os.minor(status.st_rdev)


def _parse_rule(text: str) -> Json:
    match = _RULE.fullmatch(text)
    if not match or len(set(match[4])) != len(match[4]):
        raise InvalidArgument(
            f"invalid device rule {text!r}", "it is not TYPE MAJOR:MINOR ACCESS", "Write it like 'c 42:* rmw'"
        )
    if match[1] == "a" and (match[2], match[3]) != ("*", "*"):
        # The kernel ignores the numbers there, and so would allow far more than they say.
        raise InvalidArgument(f"invalid device rule {text!r}", "type a means every device", "Write 'a *:* rwm'")
    rule: Json = {"allow": True, "type": match[1], "access": match[4]}
    for key, number in (("major", match[2]), ("minor", match[3])):
        if number != "*":
            rule[key] = int(number)
    return rule


def _mapped(mapping: DeviceMapping) -> list[Json]:
    """The nodes of one ``--device``: one, or those in a folder and below."""
    source = mapping.host
    target = os.path.normpath(mapping.container or source)
    if not set(mapping.access) <= set("rwm") or not mapping.access:
        raise InvalidArgument(f"invalid device {source}", f"access {mapping.access!r} is not out of r, w, m", "Say rwm")
    if not target.startswith("/") or f"{target}/".startswith(("/proc/", "/sys/")) or target in ("/", "/dev"):
        raise InvalidArgument(f"invalid device {source}", f"{target} is no place for a device", "Say /dev/NAME")
    try:
        status = os.stat(source)  # behind links: /dev/disk/by-id names are such
    except OSError as error:
        raise InvalidArgument(f"no device {source}", error.strerror or "", "Name one of the host's") from error
    if not stat.S_ISDIR(status.st_mode):
        node = _node(status, target)
        if node is None:
            raise InvalidArgument(f"invalid device {source}", "it is not a device node", "To share a file, use -v")
        return [node]
    inside = [
        {**node, "path": os.path.normpath(f"{target}/{os.path.relpath(cast(str, node['path']), source)}")}
        for node in _below(source)
    ]
    if not inside:
        raise InvalidArgument(f"invalid device {source}", "there is no device in that folder", "Name another")
    return inside


def _all_of_host() -> Iterator[Json]:
    """Every device node below the host's /dev but those that each /dev has, for a privileged container."""
    made = {f"/dev/{name}" for name in (*(name for name, _, _ in defaults.DEVICES), "console", "ptmx")}
    return (node for node in _below("/dev", _OURS) if node["path"] not in made)


def _below(top: str, skip: Sequence[str] = ()) -> Iterator[Json]:
    for folder, subfolders, files in os.walk(top):
        if folder == top:
            subfolders[:] = [name for name in subfolders if name not in skip]
        for name in sorted(files):
            path = os.path.join(folder, name)
            try:
                node = _node(os.lstat(path), path)
            except FileNotFoundError:  # unplugged meanwhile
                continue
            if node is not None:
                yield node


def _node(status: os.stat_result, path: str) -> Json | None:
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    return {
        "path": path,
        "type": kind,
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }
