"""``mounts`` of a configuration: the file systems that every container gets, what the user mounts, and the three files
about names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import cast

from core.errors import InvalidArgument
from core.model.container import ContainerSpec, Mount
from core.runtime import defaults, spaces
from core.runtime.defaults import Json

PROPAGATION = tuple("private rprivate slave rslave shared rshared".split())
_RESERVED = ("/proc", "/sys", "/dev", "/dev/pts", "/dev/console")
_SAFE = ("nosuid", "nodev", "noexec")
_OPPOSITE = {"suid": "nosuid", "dev": "nodev", "exec": "noexec", "rw": "ro", "atime": "noatime"}


def clean_path(path: str) -> str:
    """``path`` without ``.``, ``..`` and doubled slashes; ``normpath`` keeps two at the front, as POSIX allows."""
    return "/" + os.path.normpath(path).lstrip("/") if path.startswith("/") else os.path.normpath(path)


def mounts(
    spec: ContainerSpec,
    etc_files: Mapping[str, str],
    volumes: Mapping[str, str],
    joined: Mapping[str, str],
    writable_cgroups: bool,
) -> list[Json]:
    """In the order in which they are stacked.

    :param etc_files: container path → host path
    :param volumes: volume name → host folder
    :param joined: kind → path of another container's namespace
    :raises InvalidArgument: a mount that no container can have
    """
    # What is ours, and root's on the disk, is the root's of the container's user namespace inside.
    mapped = bool(spaces.ids(spec)[1])
    found = _of_every_container(spec, joined, writable_cgroups)
    named = {clean_path(mount.target) for mount in spec.mounts}
    found = [mount for mount in found if mount["destination"] not in named]
    # Fewest components first: /data before /data/cache, whatever order the user gave.
    for wanted in sorted(spec.mounts, key=lambda mount: clean_path(mount.target).count("/")):
        found.append(_mount(wanted, volumes, mapped=mapped))
    options = ["bind", "rprivate", *(["ro"] if spec.read_only else []), *(["idmap"] if mapped else [])]
    for target, source in etc_files.items():
        if target not in named:
            found.append({"destination": target, "type": "bind", "source": source, "options": options})
    return found


def _of_every_container(spec: ContainerSpec, joined: Mapping[str, str], writable_cgroups: bool) -> list[Json]:
    found = []
    for mount in defaults.mounts(spec.shm_size):
        place = mount["destination"]
        if (place == "/sys" and spec.privileged) or (place == "/sys/fs/cgroup" and writable_cgroups):
            mount["options"] = [option for option in cast("list[str]", mount["options"]) if option != "ro"]
        found += _shared_memory(mount, spec, joined) if place == "/dev/shm" else [mount]
    return found


def _shared_memory(own: Json, spec: ContainerSpec, joined: Mapping[str, str]) -> list[Json]:
    """/dev/shm goes with the IPC namespace: POSIX shared memory lies there (shm_overview(7))."""
    word, _ = spaces.mode(spec, "ipc")
    options = ["rbind", "rprivate", *_SAFE]
    if word == "host":
        return [{"destination": "/dev/shm", "type": "bind", "source": "/dev/shm", "options": options}]
    if word == "container":
        # As /proc/PID/root/dev/shm; init cannot bind that by its path, see `rootfs`.
        source = joined["ipc"].removesuffix("ns/ipc") + "root/dev/shm"
        return [{"destination": "/dev/shm", "type": "bind", "source": source, "options": options}]
    return [] if word == "none" else [own]


def _mount(mount: Mount, volumes: Mapping[str, str], *, mapped: bool) -> Json:
    target = clean_path(mount.target)
    if target in _RESERVED or target.startswith("/proc/") or not target.startswith("/") or target == "/":
        # Something else on /proc would receive what init writes there (CVE-2019-16884, CVE-2023-27561).
        raise InvalidArgument(
            f"cannot mount on {mount.target}", "init needs that place itself", "Choose another target"
        )
    if mount.kind == "tmpfs":
        options = merged([*_SAFE, *mount.options, *(["ro"] if mount.read_only else [])])
        return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": options}
    source = volumes.get(mount.source, "") if mount.kind == "volume" else mount.source
    if not source.startswith("/"):
        raise InvalidArgument(f"cannot mount {mount.source!r}", "it is neither a volume nor an absolute path", "")
    # Everything below as well: a read-only volume must not have a writable corner.
    read_only = ["ro", "rro"] if mount.read_only else []
    given = mount.options if set(mount.options) & set(PROPAGATION) else ("rprivate", *mount.options)
    wanted = {"idmap", "ridmap"} & set(given)
    if wanted and not mapped:
        raise InvalidArgument(
            f"cannot map the ids of mount {target}", "the container uses the host's ids", "Add --userns auto"
        )
    ids = ["idmap"] if mapped and mount.kind == "volume" and not wanted else []
    return {"destination": target, "type": "bind", "source": source, "options": ["rbind", *given, *ids, *read_only]}


def merged(options: list[str]) -> list[str]:
    """Options of a file system, of which a later one takes the place of an earlier (mount(8)): ``exec`` that of
    ``noexec``, ``size=2m`` that of ``size=1m``."""
    found: dict[str, str] = {}
    for option in options:
        key = option.partition("=")[0]
        found.pop(key, None)
        if key in _OPPOSITE:
            found.pop(_OPPOSITE[key], None)
        else:
            found[key] = option
    return list(found.values())


def root_propagation(wanted: Sequence[Mount]) -> str:
    """Of the root: a volume that hears of new mounts, or tells of them, would be cut off by a private one."""
    words = {option for mount in wanted for option in mount.options}
    if words & {"shared", "rshared"}:
        return "shared"
    return "rslave" if words & {"slave", "rslave"} else "rprivate"
