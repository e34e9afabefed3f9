"""Rules for id mappings (user_namespaces(7), "Defining user and group ID mappings")."""

from __future__ import annotations

from typing import Any

from core.runtime.schema import Findings

_LINES_MOST = 340  # UID_GID_MAP_MAX_EXTENTS, since Linux 4.15


def check_mappings(mappings: list[dict[str, Any]], path: str, found: Findings) -> None:
    """Ranges that wrap or overlap, on either side: the kernel refuses the whole map for one of them."""
    if len(mappings) > _LINES_MOST:
        found.bad(path, mappings, f"the kernel takes at most {_LINES_MOST} ranges", "Join some")
    for side in ("containerID", "hostID"):
        highest, holder = -1, -1
        for first, index in sorted((mapping[side], index) for index, mapping in enumerate(mappings)):
            last = first + mappings[index]["size"] - 1
            where = f"{path}[{index}].{side}"
            if last > (1 << 32) - 2:
                found.bad(where, first, f"with size {mappings[index]['size']} it leaves the 32 bits of ids", "Lower it")
            if first <= highest:
                found.bad(where, first, f"it overlaps with {path}[{holder}], which ends at {highest}", "Move one")
            if last > highest:
                highest, holder = last, index
