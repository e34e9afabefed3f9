"""A container's ``config.json`` as any OCI runtime understands it.

Ours leaves some things to init, which finds them out inside: the root it mounts itself, names of users, the home
folder. Others want them written down (runtime-spec config.md). Fields that a runtime does not know are passed over by
it, as the specification demands ("Extensibility").
"""

from __future__ import annotations

import resource
from collections.abc import Mapping
from typing import cast

from core.kernel import userns
from core.runtime import defaults
from core.runtime.defaults import Json
from core.runtime.user import User

_TTY = 5  # the group that terminals have
_VERSION = "1.0.2"  # some refuse one that is newer than they are; the fields that came later are optional


def config(ours: Json, *, root: str, user: User, cgroup: str, joined: Mapping[str, str], soft_files: int) -> Json:
    """:param root: path of the mounted root file system
    :param cgroup: from the top of the hierarchies; "" where there is none to be had
    :param joined: namespace type → path; it wins over the one written
    :param soft_files: see :func:`process`
    """
    linux = dict(cast(Json, ours.get("linux") or {}))
    linux["namespaces"] = [
        {**entry, "path": joined[str(entry["type"])]} if entry["type"] in joined else entry
        for entry in cast("list[Json]", linux.get("namespaces") or [])
    ]
    linux.pop("cgroupsPath", None)
    if cgroup:
        linux["cgroupsPath"] = cgroup
    resources = dict(cast(Json, linux.get("resources") or {}))
    # runc cannot take a single device out of a wildcard on cgroup v1. What that leaves to be done is mknod alone.
    rules = cast("list[Json]", resources.get("devices") or [])
    resources["devices"] = [rule for rule in rules if rule != defaults.NO_FUSE]
    linux["resources"] = resources
    if ours.get("domainname"):
        # Runtimes learnt the field with version 1.1.0 of the specification; this setting is the same and older.
        sysctl = cast("dict[str, str]", linux.get("sysctl") or {})
        linux["sysctl"] = {**sysctl, "kernel.domainname": str(ours["domainname"])}
    mounts = cast("list[Json]", ours.get("mounts") or [])
    if not userns.mapped(userns.read_map("gid"), _TTY):
        mounts = [_without_group(mount) if mount.get("type") == "devpts" else mount for mount in mounts]
    return {
        **ours,
        "mounts": mounts,
        "ociVersion": _VERSION,
        "root": {**cast(Json, ours.get("root") or {}), "path": root},
        "process": process(cast(Json, ours["process"]), user, soft_files),
        "linux": linux,
    }


def _without_group(mount: Json) -> Json:
    """Terminals are their users' then: the group is nobody's in this user namespace."""
    return {**mount, "options": [word for word in cast("list[str]", mount["options"]) if word != f"gid={_TTY}"]}


def process(own: Json, user: User, soft_files: int) -> Json:
    """An OCI ``process`` of which nothing has to be looked up any more.

    :param soft_files: soft limit of open files where ``own`` says nothing. It is written down: a runtime may have
        raised its own (Go programs do), and would hand that on
    """
    words: Json = {"uid": user.uid, "gid": user.gid}
    if user.groups:
        words["additionalGids"] = list(user.groups)
    given = cast(Json, own.get("user") or {})
    if given.get("umask") is not None:
        words["umask"] = given["umask"]
    env = list(cast("list[str]", own.get("env") or []))
    if not any(entry.startswith("HOME=") for entry in env):
        env.append(f"HOME={user.home}")
    rlimits = list(cast("list[Json]", own.get("rlimits") or []))
    if not any(limit["type"] == "RLIMIT_NOFILE" for limit in rlimits):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        rlimits.append({"type": "RLIMIT_NOFILE", "soft": min(soft_files, hard), "hard": hard})
    kept = {key: value for key, value in own.items() if key != "annotations"}
    return {**kept, "user": words, "env": env, "rlimits": rlimits}
