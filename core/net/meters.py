"""Counters of containers' interfaces, as the containers see them.

A veth pair is read at its host end, all of them in one dump (0.3 ms for a hundred); macvlan and ipvlan have none and
are read in /proc/PID/net/dev.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from core.kernel import rtnetlink as rt
from core.net.host import Host


class Wire(NamedTuple):
    """An interface: ``host`` its end on the host, or "" and the container's ``pid`` and its ``name`` there."""

    host: str
    pid: int
    name: str


def read(host: Host, wires: Iterable[Wire]) -> dict[Wire, rt.Counters]:
    """Those that are gone are left out."""
    wanted = list(wires)
    found: dict[Wire, rt.Counters] = {}
    if any(wire.host for wire in wanted):
        by_index = rt.full_counters(host.rtnl)
        indices = host.indices([wire.host for wire in wanted if wire.host])
        for wire in wanted:
            counted = by_index.get(indices.get(wire.host, -1)) if wire.host else None
            if counted is not None:
                found[wire] = counted.swapped()
    for pid in {wire.pid for wire in wanted if not wire.host}:
        there = _from_proc(pid)
        found.update((w, there[w.name]) for w in wanted if not w.host and w.pid == pid and w.name in there)
    return found


def totals(host: Host, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """(received, sent) bytes by interface name, as the *container* sees them; those that are gone are left out.

    The host's end counts the other way round: what it received, the container sent.
    """
    wanted = list(names)
    found = rt.counters(host.rtnl)
    indices = host.indices(wanted)
    known = ((name, found.get(indices.get(name, -1))) for name in wanted)
    return {name: (pair[1], pair[0]) for name, pair in known if pair is not None}


def _from_proc(pid: int) -> dict[str, rt.Counters]:
    """proc_pid_net(5): name: bytes packets errs drop fifo frame compressed multicast, then eight of what was sent."""
    try:
        lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    except OSError:
        return {}  # it ended
    found = {}
    for line in lines:
        name, _, rest = line.partition(":")
        n = [int(word) for word in rest.split()]
        found[name.strip()] = rt.Counters(n[1], n[9], n[0], n[8], n[2], n[10], n[3], n[11])
    return found
