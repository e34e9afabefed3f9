"""The processes of a container beside its first one, where no pid namespace of its own holds them together."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import cast

from core import cgroups
from core.errors import WharfError
from core.kernel import process
from core.runtime.defaults import Json

_PATIENCE = 5.0  # seconds that processes may take to go after SIGKILL


def _pid_namespace(config: Json) -> Json | None:
    linux = cast(Json, config.get("linux", {}))
    return next((one for one in cast("list[Json]", linux.get("namespaces", [])) if one["type"] == "pid"), None)


def adopt_orphans(config: Json) -> None:
    """Become the parent of what loses its own below us; but not where the container is in the host's pid namespace: its
    orphans would be ours then, and no one would reap them here. The launcher does. (In a pid namespace they go to its
    first process.)"""
    process.set_subreaper(_pid_namespace(config) is not None)


def end_rest(config: Json, cgroup: str, cid: str) -> None:
    """The first process has ended. The kernel ends all others of its pid namespace with it; those of a container that
    shares one run on, unless they are killed by their cgroup (runc, ``kill --all``)."""
    own = _pid_namespace(config)
    if own is None or own.get("path"):
        with contextlib.suppress(WharfError):  # whoever does not go is reported when the cgroup is removed
            cgroups.kill(cgroup)
        end_strays(cid)


def end_strays(cid: str) -> None:
    """Kill what runs on of a container without a cgroup; nothing where there are cgroups. It is known by its root: the
    mount table of its processes names the container's folder."""
    if cgroups.usable():
        return
    deadline = time.monotonic() + _PATIENCE
    while (found := _strays(cid)) and time.monotonic() < deadline:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def _strays(cid: str) -> list[int]:
    found = []
    ours, mark = os.readlink("/proc/self/ns/mnt"), f"/{cid}/upper".encode()
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):  # gone, or of somebody else
            if name.isdecimal() and os.readlink(f"/proc/{name}/ns/mnt") != ours:
                with open(f"/proc/{name}/mountinfo", "rb") as file:
                    if mark in file.read():
                        found.append(int(name))
    return found
