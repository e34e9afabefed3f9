"""Changing the limits of a group that is at work."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from core.cgroups import devices, exists, files, v2
from core.cgroups.layout import check_path, detect
from core.cgroups.making import steps, why_not_usable
from core.errors import Conflict, NoPrivilege, NotFound, WharfError


def update(path: str, resources: Mapping[str, Any]) -> None:
    """Set the limits given and leave the others as they are; on any error all are as they were.

    ``devices``, where it is given, is the whole list of rules. On v2 the program that holds it is replaced at once; on
    v1 it is changed rule by rule, and nothing that the old list and the new one both allow is ever forbidden.

    :param resources: the OCI runtime specification's ``linux.resources``; -1 takes a limit away
    :raises NotFound: no such group
    :raises InvalidArgument: a value that makes no sense or that the kernel refuses; the error names it
    :raises Conflict: more than that is in use, or the group has just gone
    :raises Unsupported: the kernel lacks a controller that a limit needs
    :raises NoPrivilege: the group may not be written
    """
    check_path(path)
    layout = detect()
    if not layout.mounts:
        raise NoPrivilege("cannot change the container's limits", *why_not_usable())
    if not exists(path):
        raise NotFound(f"no cgroup {path}", "its container does not run", "Start the container")
    if layout.version == "v2":
        resources = v2.completed(layout.unified, path, resources)
    changed: list[files.Step] = []
    try:
        for folder, group in steps(layout, path, resources):
            changed.append((folder, files.remember(folder, group)))
            files.apply_group(folder, group)
        devices.apply(layout, path, resources.get("devices") or ())  # the last: it undoes itself
    except (OSError, WharfError) as exc:
        for folder, old in reversed(changed):
            with contextlib.suppress(OSError, WharfError):
                files.apply_group(folder, old)
        if isinstance(exc, OSError):
            raise Conflict(f"cannot change cgroup {path}", str(exc), "Look whether its container still runs") from exc
        raise
