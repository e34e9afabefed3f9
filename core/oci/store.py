"""The containers of one ``--root``: a folder each, which exists exactly as long as the container does.

::

    ROOT/ID/          0700; flocked while something is done to the container
        state.json    what :class:`Held` says
        config.json   the configuration as it was at ``create``: later changes in the bundle have no effect
        start.sock    the gate: there until it is started (see :mod:`core.runtime.gate`)
        notify/       mounted in the container, where a service manager listens (see :mod:`core.oci.readiness`)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from core import cgroups
from core.errors import Conflict, InvalidArgument, NotFound
from core.kernel import process
from core.runtime import hooks
from core.runtime.defaults import Json

GATE = "start.sock"
_ID = re.compile(r"[A-Za-z0-9_+.-]+")


@dataclass(frozen=True)
class Held:
    """``state.json``. ``created`` is in seconds since the epoch."""

    id: str
    bundle: str
    cgroup: str
    created: float
    owner: int
    pid: int = 0  # 0: it is just being made
    pid_start: int = 0
    fresh: bool = False  # its cgroup was not there before: whatever is there is ours
    folders: tuple[str, ...] = ()  # of its cgroup, those that we have made
    resctrl: tuple[str, ...] = ()  # the same for Intel RDT
    boot: str = ""
    version: int = 1


class Store:
    """:param root: made at the first ``create``"""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, cid: str) -> Path:
        """:raises InvalidArgument: no container can be called that"""
        if not _ID.fullmatch(cid) or cid in (".", ".."):
            raise InvalidArgument(
                f"invalid container id {cid!r}", "it may have letters, digits and _ + - . only", "Choose another"
            )
        return self.root / cid

    def make(self, held: Held, config: Json) -> int:
        """A new container's folder. :returns: its lock :raises Conflict: there is one of that name"""
        folder, aside = self.folder(held.id), self._aside(held.id)
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._check_root()
        self._sweep()
        aside.mkdir(mode=0o700)
        lock = _lock(aside)
        try:
            (aside / "config.json").write_text(json.dumps(config))
            (aside / "state.json").write_text(json.dumps(vars(held)))
            aside.rename(folder)  # whole, and locked already; over an empty folder, which is nobody's
        except OSError as error:
            os.close(lock)
            shutil.rmtree(aside)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise Conflict(
                f"container {held.id!r} exists already", f"{folder} is there", "Delete it first, or choose another id"
            ) from None
        return lock

    def _aside(self, cid: str) -> Path:
        """A place for what is not yet, or no longer, the container's folder; no id has such a name."""
        return self.root / f"~{cid}~{os.getpid()}"

    def _sweep(self) -> None:
        """What somebody has left aside who was killed."""
        for path in self.root.glob("~*"):
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path)
                finally:
                    os.close(fd)

    def _check_root(self) -> None:
        """What stands in there is believed: which processes are killed, which cgroups removed. Where it was made by
        somebody else (the default of an ordinary user may be below /tmp), it is theirs.

        :raises InvalidArgument:
        """
        try:
            status = self.root.stat()
        except FileNotFoundError:
            return
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise InvalidArgument(
                f"cannot use {self.root}", "others own it or may write there", "Give --root, a folder of your own"
            )

    def _missing(self, cid: str) -> NotFound:
        return NotFound(
            f"container {cid!r} does not exist", f"{self.root} has no such folder", "`list` shows those there are"
        )

    def save(self, held: Held) -> None:
        folder = self.folder(held.id)
        (folder / "state.new").write_text(json.dumps(vars(held)))
        (folder / "state.new").rename(folder / "state.json")

    def load(self, cid: str) -> Held:
        """:raises NotFound: no such container"""
        self._check_root()
        try:
            data = json.loads((self.folder(cid) / "state.json").read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise self._missing(cid) from None
        known = {name: data[name] for name in Held.__dataclass_fields__ if name in data}
        return Held(**{name: tuple(v) if isinstance(v, list) else v for name, v in known.items()})  # type: ignore[arg-type]

    def config(self, cid: str) -> Json:
        """:raises NotFound: it is just being deleted, or was by somebody who was killed"""
        try:
            return cast(Json, json.loads((self.folder(cid) / "config.json").read_text()))
        except (FileNotFoundError, NotADirectoryError):
            raise self._missing(cid) from None

    def save_config(self, cid: str, config: Json) -> None:
        folder = self.folder(cid)
        (folder / "config.new").write_text(json.dumps(config))
        (folder / "config.new").rename(folder / "config.json")

    @contextlib.contextmanager
    def locked(self, cid: str) -> Iterator[Held]:
        """The container, for one that changes it. :raises NotFound:"""
        folder = self.folder(cid)
        while True:
            self.load(cid)
            try:
                lock = _lock(folder)
            except FileNotFoundError:
                raise self._missing(cid) from None
            try:
                # While we waited it may have been deleted, and another of its name be made.
                if _same(lock, folder):
                    yield self.load(cid)
                    return
            finally:
                os.close(lock)

    def remove(self, cid: str) -> None:
        """At once, as far as others see; its lock is held."""
        aside = self._aside(cid)
        with contextlib.suppress(FileNotFoundError):
            self.folder(cid).rename(aside)
            shutil.rmtree(aside)

    def all(self) -> list[Held]:
        """Every container, by id."""
        found = []
        self._check_root()
        for folder in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            with contextlib.suppress(NotFound, InvalidArgument):
                found.append(self.load(folder.name))
        return found

    def gate(self, cid: str) -> Path:
        return self.folder(cid) / GATE


def _lock(folder: Path) -> int:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def _same(fd: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), folder.stat())
    except FileNotFoundError:
        return False


def born(held: Held, pid: int) -> Held:
    return replace(held, pid=pid, pid_start=process.start_time(pid), boot=process.boot_id())


def alive(held: Held) -> bool:
    """Does its first process run? Never mistaken for another with the same pid."""
    return held.pid > 0 and held.boot == process.boot_id() and process.is_running(held.pid, held.pid_start)


def status(store: Store, held: Held) -> str:
    """creating, created, running, paused, stopped (runtime.md, "State"; paused is runc's)."""
    if not held.pid:
        return "creating"
    if not alive(held):
        return "stopped"
    with contextlib.suppress(OSError):
        if cgroups.frozen(held.cgroup):
            return "paused"
    return "created" if store.gate(held.id).exists() else "running"


def state(store: Store, held: Held) -> Json:
    """What ``state`` prints, and hooks get."""
    now = status(store, held)
    pid = held.pid if now != "stopped" else 0
    return hooks.state(store.config(held.id), cid=held.id, status=now, pid=pid, bundle=held.bundle)
