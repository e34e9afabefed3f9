"""Words about what layers hold, and how they came about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerFacts:
    """One layer of an image; ``position`` 1 is the lowest. Counts are of paths that are no directories."""

    position: int
    diffid: str
    created: float  # seconds since the epoch; 0 unknown
    created_by: str  # the command of the build step; "" unknown
    size: int  # bytes of its files
    files: int
    added: int
    changed: int  # there below already: the whole file is in this layer again
    removed: int  # there below, and no longer seen
    wasted: int  # bytes of its files that a later layer replaces or removes: they are pulled and stored for nothing
    wasted_files: int


@dataclass(frozen=True)
class TreeEntry:
    """One name in a folder of an image, as it is with the layers up to the one that is looked at."""

    path: str  # without a leading slash; bytes that are no UTF-8 as surrogate escapes
    kind: str  # file, link (hard), symlink, char, block, folder, fifo
    mode: int  # permission bits
    uid: int
    gid: int
    size: int  # bytes; a folder's: of all files below
    mtime: int  # nanoseconds since the epoch
    target: str  # of a symbolic or hard link
    position: int  # the layer that it is from
    change: str  # by the layer looked at: "", added, changed, removed
    inside: str = ""  # a folder's: changes below, some of "+~-"

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class FoundFile:
    """A path that a search found in one layer of one image.

    ``fate``: ``kept`` (the image has it), ``replaced`` or ``removed`` (by the layer ``ended``), ``whiteout`` (this
    layer removes it).
    """

    image: str  # id
    name: str  # the image's first name; its short id where it has none
    position: int
    diffid: str
    path: str
    kind: str  # as TreeEntry's; of a whiteout ""
    size: int  # bytes
    fate: str
    ended: int = 0  # position; 0: kept


@dataclass(frozen=True)
class FileChange:
    """One line of ``diff``: ``kind`` is A (added), C (changed) or D (deleted)."""

    kind: str
    path: str  # absolute; bytes that are not UTF-8 as surrogate escapes


@dataclass(frozen=True)
class HistoryEntry:
    """One step of an image's making. ``size``: bytes of its layer's files; 0 for a step that made none."""

    image: str  # the image's id at its last step, "" below: nobody keeps those
    created: float  # seconds since the epoch; 0.0 unknown
    created_by: str
    size: int
    comment: str
    author: str = ""
    layer: str = ""  # diffID; "" where the step made none
    tags: tuple[str, ...] = ()
