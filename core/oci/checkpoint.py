"""``checkpoint``: a container's processes into a folder, by CRIU; then the container is no more, or goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import Conflict, Unsupported
from core.oci.delete import delete
from core.oci.store import Held, Store, status
from core.runtime import namespaces
from core.supervise import criu, dumping, outside
from core.supervise.restoring import Saved

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Place:
    """Where the images are, and CRIU's log; which CRIU."""

    images: Path
    work: Path
    program: str = ""
    options: criu.Options = field(default_factory=criu.Options)


@contextmanager
def opened(place: Place, *, make: bool) -> Iterator[tuple[int, int]]:
    """Descriptors of both folders. :raises OSError:"""
    fds: list[int] = []
    try:
        for path in (place.images, place.work):
            if make:
                path.mkdir(mode=0o700, exist_ok=True)
            fds.append(os.open(path, _FOLDER))
        yield fds[0], fds[1]
    finally:
        for fd in fds:
            os.close(fd)


def checkpoint(store: Store, cid: str, place: Place, *, leave_running: bool) -> None:
    """:raises Conflict: it does not run :raises WharfError: CRIU cannot save it; it goes on"""
    program = criu.find(place.program)
    release = dumping.version(program)
    with store.locked(cid) as held:
        now = status(store, held)
        if now != "running":
            raise Conflict(f"cannot checkpoint container {cid!r}", f"it is {now}", "It must be running")
        with opened(place, make=True) as folders:
            _dump(store, held, (program, release), folders, place.options, leave_running=leave_running)
    if not leave_running:
        delete(store, cid, force=True)


def _dump(
    store: Store,
    held: Held,
    program: tuple[str, str],
    folders: tuple[int, int],
    options: criu.Options,
    *,
    leave_running: bool,
) -> None:
    config = store.config(held.id)
    # A network namespace that it has joined is there before and after; one of its own is CRIU's to make again.
    joined = bool(namespaces.listed(config).get("network"))
    found = outside.look(held.pid, config, held.cgroup, _streams(held.pid), network=joined)
    saved = Saved(options, found, hold=options.tcp_established and criu.by_iptables())

    def dumped() -> None:
        meta = {"version": 1, "created": time.time(), "machine": os.uname().machine, "criu": program[1]}
        dumping.write_meta(folders[0], saved, meta)

    dumping.dump(*program, held.pid, held.cgroup, folders, saved, dumped, leave_running=leave_running)


def _streams(pid: int) -> dict[tuple[int, int], int]:
    """(device, inode) of what the first process has as 0, 1 and 2."""
    found: dict[tuple[int, int], int] = {}
    for number in (2, 1, 0):
        with suppress(OSError):
            status = os.stat(f"/proc/{pid}/fd/{number}")
            found[status.st_dev, status.st_ino] = number
    return found


def refuse(flags: dict[str, object]) -> None:
    """What runc can and this runtime cannot. :raises Unsupported: one of ``flags`` is set"""
    for name, value in flags.items():
        if value:
            raise Unsupported(f"cannot use {name}", "checkpoints are made in one piece, and restored on the spot", "")
