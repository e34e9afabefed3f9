"""What a container has changed: its writable layer compared with the layers below, as ``docker diff`` tells it.

Only names are compared, and the attributes of folders: overlayfs copies a file up when it is opened for writing, so
whatever lies in the writable layer counts as changed. Measured: 8,000 files in 25 to 40 ms: no file is looked at that
stands in a new folder, and a folder with many changes is compared with one list of the names below.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.images import walk
from core.images.handles import Handles
from core.images.merged import folders_below
from core.model import FileChange

ADDED, CHANGED, DELETED = "A", "C", "D"
_MANY = 16  # names from which on listing a folder below is faster than asking for each
_UPPER = 0  # the container's own layer; those below count from 1
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

Kind = str  # what stands below under a name: one of these
_FILE, _FOLDER = "file", "folder"


@dataclass
class Found:
    """:param root: the attributes of ``/`` itself have changed"""

    changes: list[FileChange] = field(default_factory=list)
    root: bool = False

    @property
    def empty(self) -> bool:
        return not self.changes and not self.root


def compare(upper: Path, lower: Sequence[Path], *, first: bool = False) -> Found:
    """:param lower: the layers below, topmost first
    :param first: for whoever wants to know whether there is any change: go no further than the first ones

    :raises Conflict: folders that lie too deep
    :raises OSError:
    """
    fds: list[int] = []
    try:
        for path in (upper, *lower):
            fds.append(os.open(path, _DIR))
        with contextlib.closing(Handles(fds)) as handles:
            comparison = _Comparison(handles, first=first)
            comparison.folder(b"", range(1, len(fds)))
        found = comparison.found
        found.root = bool(lower) and _differ(os.fstat(fds[0]), os.fstat(fds[1]), times=False)
        return found
    finally:
        for fd in fds:
            os.close(fd)


class _Comparison:
    def __init__(self, handles: Handles, *, first: bool) -> None:
        self.found = Found()
        self._first = first
        self._handles = handles

    def folder(self, path: bytes, lower: Sequence[int]) -> bool:
        """Compare one folder; ``lower``: the layers below of which overlayfs makes it. True where names came or
        went."""
        changes, moved = self.found.changes, False
        names = sorted(_entries(self._handles.get(_UPPER, path)))
        below = _Below(self._handles, path, lower, listed=len(names) > _MANY)
        prefix = os.fsdecode(path) + "/" if path else ""
        for name, kind in names:
            if self._first and changes:
                return moved
            whole = prefix + name
            old = below.kind(name) if lower else None
            if kind is None:
                if old is not None:
                    changes.append(FileChange(DELETED, "/" + whole))
                    moved = True
            elif kind is _FOLDER:
                moved |= self._subfolder(path, name, lower, old)
            else:
                changes.append(FileChange(CHANGED if old else ADDED, "/" + whole))
                moved |= old is None
        upper = self._handles.get(_UPPER, path)
        if lower and upper is not None and walk.is_opaque(upper):
            own = {name for name, _ in names}
            gone = sorted(name for name in below.names() if name not in own)
            changes += [FileChange(DELETED, f"/{prefix}{name}") for name in gone]
            moved |= bool(gone)
        return moved

    def _subfolder(self, parent: bytes, leaf: str, lower: Sequence[int], old: Kind | None) -> bool:
        """A folder in a folder. True where it came."""
        handles, name = self._handles, os.fsencode(leaf)
        path = parent + b"/" + name if parent else name
        walk.check_path(path)
        if handles.enter(_UPPER, parent, name) is None:
            return False
        stacked = folders_below(handles, parent, name, lower) if old is _FOLDER else []
        place = len(self.found.changes)
        moved = self.folder(path, stacked)
        changed = old is not None and (moved or old is not _FOLDER or self._differ(path, stacked[0]))
        if old is None or changed:
            self.found.changes.insert(place, FileChange(CHANGED if changed else ADDED, "/" + os.fsdecode(path)))
        for layer in (_UPPER, *stacked):
            handles.leave(layer, path)
        return old is None

    def _differ(self, path: bytes, lower: int) -> bool:
        fds = [self._handles.get(layer, path) for layer in (_UPPER, lower)]
        statuses = [os.fstat(fd) for fd in fds if fd is not None]
        return len(statuses) == 2 and _differ(*statuses, times=True)


class _Below:
    """What overlayfs shows under a name in the folder ``path`` of ``layers``, topmost first."""

    def __init__(self, handles: Handles, path: bytes, layers: Sequence[int], *, listed: bool) -> None:
        self._handles = handles
        self._path = path
        self._layers = layers
        self._known = self._list() if listed and layers else None

    def _list(self) -> dict[str, Kind | None]:
        known: dict[str, Kind | None] = {}
        for layer in self._layers:
            for name, kind in _entries(self._handles.get(layer, self._path)):
                known.setdefault(name, kind)
        return known

    def kind(self, name: str) -> Kind | None:
        if self._known is not None:
            return self._known.get(name)
        for layer in self._layers:
            fd = self._handles.get(layer, self._path)
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False) if fd is not None else None
            except FileNotFoundError:
                continue
            if status is None:
                continue
            if stat.S_ISDIR(status.st_mode):
                return _FOLDER
            return None if walk.is_whiteout(status) else _FILE
        return None

    def names(self) -> list[str]:
        return [name for name, kind in (self._known or self._list()).items() if kind is not None]


def _entries(fd: int | None) -> list[tuple[str, Kind | None]]:
    """(name, kind) of everything in a folder of a layer, if it is still there; None for a whiteout."""
    found: list[tuple[str, Kind | None]] = []
    if fd is None:
        return found
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False) or entry.is_symlink():
                found.append((entry.name, _FILE))
            elif entry.is_dir(follow_symlinks=False):
                found.append((entry.name, _FOLDER))
            else:
                status = entry.stat(follow_symlinks=False)
                found.append((entry.name, None if walk.is_whiteout(status) else _FILE))
    return found


def _differ(a: os.stat_result, b: os.stat_result, *, times: bool) -> bool:
    if (a.st_mode, a.st_uid, a.st_gid) != (b.st_mode, b.st_uid, b.st_gid):
        return True
    return times and a.st_mtime_ns != b.st_mtime_ns
