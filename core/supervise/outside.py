"""What a running container has of the outside, for CRIU: it saves what is inside, and must be told of all else.

Read from ``/proc`` (proc_pid_mountinfo(5), proc_pid_fdinfo(5)), of a container that goes on meanwhile. Nothing there is
believed further than it has to be: which of the configuration's mounts a mount is, is decided by the mount's id.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from core import cgroups
from core.errors import Conflict, Unsupported
from core.kernel import resolve
from core.runtime import mountopts, namespaces, reaper, sources
from core.runtime.defaults import Json
from core.supervise import criu

NULL = -1  # in :attr:`Outside.files`: the null device
_CGROUPS = ("cgroup", "cgroup2")
_TERMINALS = range(136, 144)  # majors of /dev/pts/*
_FLAGS = {1: "ro", 2: "nosuid", 4: "nodev", 8: "noexec"}  # ATTR_* → as mountinfo says it


class Mount(NamedTuple):
    """A line of mountinfo. Paths are as the process sees them."""

    id: int
    parent: int
    point: str
    options: tuple[str, ...]
    kind: str


class Given(NamedTuple):
    """A mount that the restore is given: what is at ``rest`` below the source of the mount on ``destination``.

    :param point: where it was, as the container saw it
    :param destination: as config.json names the mount; for a device its path
    :param rest: "" for the source itself; the name of a hierarchy for a view of cgroups
    """

    point: str
    destination: str
    rest: str


@dataclass
class Outside:
    """What one container has of the outside.

    :param files: CRIU's name of an open file → which of the standard streams it is, or :data:`NULL`
    :param network: inode of its network namespace, where that is not the host's
    """

    mounts: list[Given] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    network: int = 0

    def names(self) -> list[str]:
        """For a dump."""
        found = [criu.outside_mount(given.point, f"m{number}") for number, given in enumerate(self.mounts)]
        found += [name for name in self.files if name.startswith(("file[", "tty["))]
        if self.network:
            found.append(criu.outside_namespace("net", self.network, criu.NETWORK))
        return found


def look(
    pid: int, config: Json, cgroup: str, streams: Mapping[tuple[int, int], int], *, network: bool = True
) -> Outside:
    """:param streams: (device, inode) of a file that was given as a standard stream → number of that
    :param network: its network namespace is made by somebody else, at the restore too

    :raises Conflict: a process was brought in from outside, or has something of the outside that cannot be given again
    :raises Unsupported: what no restore could make again
    """
    _check(pid, config)
    inside = _processes(pid, cgroup)
    table = mounts_of(pid)
    found = Outside(_given(pid, config, table), {}, _own_network(pid) if network else 0)
    for process in inside:
        found.files.update(_files(process, {entry.id for entry in table}, streams))
    return found


def _check(pid: int, config: Json) -> None:
    what = "cannot checkpoint the container"
    if reaper.wanted(config):
        raise Unsupported(what, "its first process is the engine's own init", "Run it without --init")
    for kind, path in namespaces.listed(config).items():
        if path and kind != "network":
            raise Unsupported(what, f"it shares its {kind} namespace with others", f"Give it one of its own (--{kind})")
    if _namespace(pid, "pid") == _namespace(os.getpid(), "pid"):
        why = "its processes have numbers of the host's, which may be taken at the restore"
        raise Unsupported(what, why, "Run it without --pid host")
    if _namespace(pid, "user") != _namespace(os.getpid(), "user"):
        raise Unsupported(
            what, "it has a user namespace, for which criu cannot make the mounts again", "Run it without --userns"
        )


def _namespace(pid: int, kind: str) -> int:
    return os.stat(f"/proc/{pid}/ns/{kind}").st_ino


def _own_network(pid: int) -> int:
    inode = _namespace(pid, "net")
    return 0 if inode == _namespace(os.getpid(), "net") else inode


# -- processes
def _processes(first: int, cgroup: str) -> list[int]:
    """Those of the tree below ``first``: all in the cgroup.

    :raises Conflict: one is the child of somebody outside: CRIU would leave it, and with it half of what it does
    """
    pids = cgroups.pids(cgroup)
    parents = {pid: parent for pid in pids if (parent := _parent(pid))}
    for pid, parent in parents.items():
        if pid != first and parent not in parents and _parent(pid) == parent:
            raise Conflict(
                "cannot checkpoint the container",
                f"process {pid} ({_command(pid)}) was brought in from outside, by exec",
                "Let the commands that run in it end first",
            )
    return list(parents)


def _parent(pid: int) -> int:
    """0 where it has gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])
    return 0


def _command(pid: int) -> str:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", errors="replace") as file:
        return criu.printable(file.read().strip())
    return "?"


# -- mounts
def mounts_of(pid: int) -> list[Mount]:
    """All that the process sees. :raises OSError: it has gone"""
    with open(f"/proc/{pid}/mountinfo", errors="surrogateescape") as file:
        return [_mount(line) for line in file]


def _mount(line: str) -> Mount:
    left, _, right = line.partition(" - ")
    words = left.split(" ")
    point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), words[4])
    return Mount(int(words[0]), int(words[1]), point, tuple(words[5].split(",")), right.split(" ")[0])


def _given(pid: int, config: Json, table: Sequence[Mount]) -> list[Given]:
    owners = _owners(pid, config, {entry.id: entry for entry in table})
    by_id = {entry.id: entry for entry in table}
    found = []
    for entry in table:
        at: Mount | None = entry
        while at is not None and at.id not in owners:
            at = by_id.get(at.parent)
        if at is None:
            continue
        owner = owners[at.id]
        destination = str(owner["destination"])
        views = owner.get("type") in _CGROUPS and entry.kind in _CGROUPS
        if sources.is_bind(owner) or views:
            rest = "" if entry is at else os.path.relpath(entry.point, at.point)
            found.append(Given(entry.point, destination, rest))
    return found


def _owners(pid: int, config: Json, table: Mapping[int, Mount]) -> dict[int, Json]:
    """Id of a mount → the entry of config.json that has made it.

    A container may have moved links and mounts about since then. What is at an entry's place now must be no other
    entry's, and have at least the restrictions that this one asks for: or the container would get a read-only source
    back as a writable one.

    :raises Conflict:
    """
    found: dict[int, Json] = {}
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for entry in cast("list[Json]", config.get("mounts") or []):
            options = mountopts.parse(cast("list[str]", entry.get("options") or []))
            at = table.get(_mount_at(root, str(entry["destination"])))
            if at is None or at.point == "/" or options.remount:
                continue
            lost = [name for bit, name in _FLAGS.items() if options.attributes & bit and name not in at.options]
            if lost and sources.is_bind(entry):
                raise _moved(f"what is mounted on {entry['destination']} is not {' '.join(lost)} any more")
            other = str(found.get(at.id, entry)["destination"])
            if os.path.normpath(other) != os.path.normpath(str(entry["destination"])):
                raise _moved(f"{other} and {entry['destination']} are one place now")
            found[at.id] = entry
    finally:
        os.close(root)
    return found


def _moved(why: str) -> Conflict:
    return Conflict("cannot checkpoint the container", why, "It has changed its mounts, or links that lead to them")


def _mount_at(root: int, destination: str) -> int:
    """The id of the mount that ``destination`` lies on; 0 where it leads nowhere."""
    try:
        place = resolve.open_in_root(root, destination, os.O_PATH)
    except OSError:
        return 0
    try:
        return _mount_id("self", place)
    finally:
        os.close(place)


def _mount_id(pid: int | str, fd: int | str) -> int:
    """Of the mount that an open file lies on. :raises OSError: it is closed"""
    with open(f"/proc/{pid}/fdinfo/{fd}") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))


# -- open files
def _files(pid: int, inside: Iterable[int], streams: Mapping[tuple[int, int], int]) -> Iterator[tuple[str, int]]:
    """(CRIU's name, stream) of what the process has open that no path inside leads to.

    :raises Conflict: it can have come from nowhere that the restore could get it from
    """
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    known = set(inside)
    for number in numbers:
        path = f"/proc/{pid}/fd/{number}"
        try:
            target, status, mount = os.readlink(path), os.stat(path), _mount_id(pid, number)
        except OSError:  # closed meanwhile
            continue
        place = (status.st_dev, status.st_ino)
        if not target.startswith("/"):  # pipe:[…], socket:[…], anon_inode:…
            if place in streams:
                yield target, streams[place]
            continue
        if mount in known or target.startswith("/memfd:"):
            continue
        if place in streams and stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) in _TERMINALS:
            yield f"tty[{status.st_rdev:x}:{status.st_dev:x}]", streams[place]
        elif place in streams:
            yield criu.outside_file(mount, status.st_ino), streams[place]
        elif stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3):
            yield criu.outside_file(mount, status.st_ino), NULL
        else:
            raise Conflict(
                "cannot checkpoint the container",
                f"process {pid} ({_command(pid)}) has {criu.printable(target)} of the host open",
                "Let it close that first",
            )
