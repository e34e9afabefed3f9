"""Which of the host's ids a container's user namespace gets (``--userns auto|remap``).

A range stands in its container's row (:class:`core.ops.records.Config`) and is chosen in the transaction that adds the
row: whatever engines create at the same time, no two containers get the same ids, and with the row the range is gone
(CVE-2021-21284 is what overlaps lead to). Files on the disk do not know of it: they are seen through mapped mounts.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Sequence

from core.errors import Conflict, Unsupported
from core.kernel import userns
from core.model import ContainerSpec
from core.runtime import spaces
from core.store.paths import Instance

# Whose ids in /etc/subuid and /etc/subgid are ours to give: not those of `containers` or `dockremap`, from which podman
# and dockerd choose without asking us.
OWNER = "wharf"
# Where they have none: what systemd sets aside for containers (UIDS-GIDS.md), less what the host has given to others.
FIRST, END = 524_288, 1_879_048_192
_FILES = (("/etc/passwd", "/etc/subuid"), ("/etc/group", "/etc/subgid"))

Span = tuple[int, int]  # first, and the one behind the last


def check(spec: ContainerSpec) -> None:
    """:raises Unsupported: this engine is in a user namespace itself, where no file system's ids can be mapped"""
    if spaces.ids(spec)[1] and userns.contained():
        raise Unsupported(
            f"cannot use --userns {spec.userns}",
            "this engine runs in a user namespace itself, where the kernel maps no ids of the host's file systems",
            "Leave it out: the containers of an ordinary user's engine have no other rights than its user",
        )


def free_on_host() -> tuple[Span, ...]:
    """The ids that containers may get, as far as the host knows: ours by /etc/subuid and /etc/subgid, else those of the
    usual place that are nobody's; less those that user namespaces have now, of whichever engine.

    Reads files and looks at every process: not for the event loop's thread.
    """
    return _less(_given() or _usual(), userns.in_use())


def _given() -> list[Span]:
    """Ids that are ours as uids and as gids."""
    uids, gids = (_spans(userns.subordinate(path, (OWNER,))) for _, path in _FILES)
    common = [(max(a, c), min(b, d)) for a, b in uids for c, d in gids]
    return sorted(span for span in common if span[0] < span[1])


def _usual() -> list[Span]:
    taken: list[tuple[int, int]] = []
    for names, subordinate in _FILES:
        taken += userns.subordinate(subordinate, None)
        try:
            with open(names, encoding="utf-8", errors="surrogateescape") as file:
                fields = [line.split(":") for line in file]
        except OSError:
            continue
        taken += [(int(field[2]), 1) for field in fields if len(field) > 2 and field[2].isdecimal()]
    return list(_less([(FIRST, END)], taken))


def _spans(ranges: Iterable[tuple[int, int]]) -> list[Span]:
    return [(first, first + count) for first, count in ranges]


def _less(spans: Sequence[Span], taken: Iterable[tuple[int, int]]) -> tuple[Span, ...]:
    """What is left of ``spans``, in order."""
    holes = sorted(_spans(taken))
    found: list[Span] = []
    for begin, end in sorted(spans):
        for first, behind in holes:
            if first >= end or begin >= end:
                break
            if behind > begin:
                if first > begin:
                    found.append((begin, first))
                begin = behind
        if begin < end:
            found.append((begin, end))
    return tuple(found)


def choose(con: sqlite3.Connection, inst: Instance, spec: ContainerSpec, free: Sequence[Span]) -> tuple[int, int]:
    """First id and number for a container that is being added by this write transaction.

    :param free: as :func:`free_on_host` gives it
    :raises Conflict: there are not so many
    """
    word, size = spaces.ids(spec)
    taken, shared = _held(con)
    if word == "remap" and shared is not None:
        return shared
    left = _less(free, taken)
    # Another data root on this host knows nothing of our rows: its containers begin elsewhere.
    start = FIRST + zlib.crc32(inst.tag.encode()) % ((END - FIRST) // size) * size if inst.tag else 0
    for least in (start, 0):
        for begin, end in left:
            if max(begin, least) + size <= end:
                return max(begin, least), size
    raise Conflict(
        f"there is no range of {size} ids for the container",
        f"{sum(end - begin for begin, end in left)} are free, in {len(left)} pieces",
        f"Remove a container, ask for fewer (--userns auto:size=N), or give {OWNER} more in /etc/subuid and "
        "/etc/subgid",
    )


def _held(con: sqlite3.Connection) -> tuple[list[tuple[int, int]], tuple[int, int] | None]:
    """The ranges of all containers, and the one that those with ``remap`` share."""
    taken, shared = [], None
    for row in con.execute("SELECT spec, config FROM container WHERE config LIKE '%\"ids\":%'"):
        ids = json.loads(row["config"]).get("ids")  # the words may stand elsewhere: in a label of the image
        if not ids:
            continue
        taken.append((ids[0], ids[1]))
        if json.loads(row["spec"]).get("userns") == "remap":
            shared = (ids[0], ids[1])
    return taken, shared
