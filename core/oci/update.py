"""``update``: other limits for a container that runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from core import cgroups
from core.cgroups import resctrl
from core.errors import Conflict, InvalidArgument
from core.oci.store import Store, status
from core.runtime.check import check_resources
from core.runtime.defaults import Json

# Option → part of linux.resources and key in it.
NUMBERS: dict[str, tuple[str, str]] = {
    "blkio-weight": ("blockIO", "weight"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-share": ("cpu", "shares"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-idle": ("cpu", "idle"),
    "kernel-memory": ("memory", "kernel"),
    "kernel-memory-tcp": ("memory", "kernelTCP"),
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "pids-limit": ("pids", "limit"),
}
TEXTS: dict[str, tuple[str, str]] = {"cpuset-cpus": ("cpu", "cpus"), "cpuset-mems": ("cpu", "mems")}


def read(path: str) -> Json:
    """``--resources``: a file, or ``-`` for standard input. :raises InvalidArgument:"""
    try:
        found = json.loads(sys.stdin.read() if path == "-" else Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"cannot read --resources {path}", str(error), "It must be JSON") from error
    return check_resources(found)


def from_options(values: Mapping[str, Any]) -> Json:
    """linux.resources of the options given.

    :param values: option → value, None where it was not given
    """
    found: dict[str, dict[str, object]] = {}
    for option, (part, key) in {**NUMBERS, **TEXTS}.items():
        if values.get(option) is not None:
            found.setdefault(part, {})[key] = values[option]
    return check_resources(found)


def update(store: Store, cid: str, resources: Json, rdt: Json) -> None:
    """Change limits, and note them down as the container's.

    :param rdt: parts of linux.intelRdt :raises Conflict: it does not run
    """
    with store.locked(cid) as held:
        now = status(store, held)
        if now in ("stopped", "creating"):
            raise Conflict(f"cannot update container {cid!r}", f"it is {now}", "")
        config = store.config(cid)
        linux = cast("dict[str, Any]", config.setdefault("linux", {}))
        if resources:
            cgroups.update(held.cgroup, cast(Mapping[str, Any], resources))
        if rdt:
            wanted = {**(linux.get("intelRdt") or {}), **rdt}
            resctrl.update(wanted, cid)
            linux["intelRdt"] = wanted
        kept = cast("dict[str, Any]", linux.setdefault("resources", {}))
        for part, values in resources.items():
            together = isinstance(values, dict) and isinstance(kept.get(part), dict)
            kept[part] = {**kept[part], **cast(Json, values)} if together else values
        store.save_config(cid, config)
