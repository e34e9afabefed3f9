"""The layers of one image laid on one another, from their indexes alone: what each adds, changes, removes and wastes.

All rows of all layers have one numbering, lowest layer first. A row is seen from its own layer up to the one that ends
it. Only flat columns are kept, so that 29,000 paths take some tens of milliseconds and 5 MB. Rules: image-spec,
layer.md ("Whiteouts", "Opaque Whiteout": both hide only what is below their layer, wherever they stand in it) and the
kernel's overlayfs.rst.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass

from core.images import tar
from core.images.index import OPAQUE, WHITEOUT, Index

NOTHING, ADDED, CHANGED, SAME, DELETES = range(5)  # what a row does; SAME: a directory that is there below
_DIRECTORY, _WHITEOUT, _OPAQUE = tar.DIRECTORY[0], WHITEOUT[0], OPAQUE[0]
_FEW = 16  # directories up to which a comparison of beginnings is faster than looking up each parent


@dataclass
class Tally:
    """What one layer does; see :class:`core.model.LayerFacts`."""

    size: int = 0
    files: int = 0
    added: int = 0
    changed: int = 0
    removed: int = 0
    wasted: int = 0
    wasted_files: int = 0


class Stack:
    """Lays one index after another with :meth:`lay`; then :meth:`finish`."""

    def __init__(self) -> None:
        self.paths: list[bytes] = []
        self.kinds = bytearray()
        self.sizes = array("Q")
        self.does = bytearray()
        self.ends = array("H")  # per row: the position (from 1) of the layer that ends it; 0: the image has it
        self.gone = bytearray()  # per row: 1 where it was removed and not replaced
        self.starts: list[int] = []  # first row of each layer
        self.indexes: list[Index] = []
        self.tallies: list[Tally] = []
        self._seen: dict[bytes, int] = {}  # path → row, of what is seen with the layers so far

    def position(self, row: int) -> int:
        """The layer of a row, from 1."""
        return bisect_right(self.starts, row)

    def seen(self, row: int, position: int) -> bool:
        """Whether a row is seen with the layers up to that position."""
        return self.position(row) <= position and not 0 < self.ends[row] <= position

    def lay(self, index: Index) -> None:
        """The next layer above."""
        start, count = len(self.paths), len(index.implied)
        self.starts.append(start)
        self.indexes.append(index)
        self.tallies.append(Tally())
        self.paths += index.paths
        self.paths += index.implied
        self.kinds += index.kinds
        self.kinds += bytes([_DIRECTORY]) * count
        self.sizes.extend(index.sizes)
        self.sizes.extend([0] * count)
        added = len(index) + count
        self.does += bytes(added)
        self.gone += bytes(added)
        self.ends.extend([0] * added)
        new, covered, deleted = self._place(start, start + len(index))
        self._hide(covered, deleted)
        self._seen |= new
        self._count(start)

    def _place(self, start: int, implied: int) -> tuple[dict[bytes, int], set[bytes], list[int]]:
        """Compare each row with what is below.

        :returns: the rows that will be seen, the directories whose lower content is hidden, the rows that whiteouts
            name
        """
        position, kinds, ends, does = len(self.starts), self.kinds, self.ends, self.does
        below = self._seen.get
        new: dict[bytes, int] = {}
        covered: set[bytes] = set()
        deleted: list[int] = []
        for row in range(start, len(self.paths)):
            path, kind = self.paths[row], kinds[row]
            old = below(path)
            if kind in (_WHITEOUT, _OPAQUE):
                does[row], ends[row] = DELETES, position
                if kind == _OPAQUE:
                    covered.add(path)
                elif old is not None:
                    deleted.append(old)
                    if kinds[old] == _DIRECTORY:
                        covered.add(path)
                continue
            if old is None:
                does[row] = ADDED
            elif kind == _DIRECTORY and kinds[old] == _DIRECTORY:
                if row >= implied:  # it has no word of its own about a directory that is there
                    ends[row] = position
                    continue
                does[row], ends[old] = SAME, position
            else:
                does[row], ends[old] = CHANGED, position
                if kinds[old] == _DIRECTORY:
                    covered.add(path)
                elif kind == _DIRECTORY:
                    self.tallies[-1].removed += 1
            new[path] = row
        return new, covered, deleted

    def _hide(self, covered: set[bytes], deleted: list[int]) -> None:
        """End what whiteouts, opaque directories and files in the place of directories hide."""
        position, ends, gone, seen = len(self.starts), self.ends, self.gone, self._seen
        hidden = [row for row in deleted if not ends[row]]
        for row in hidden:
            ends[row], gone[row] = position, 1
        if covered:
            for row in self._below(covered):
                if not ends[row]:
                    ends[row], gone[row] = position, 1
                    hidden.append(row)
        for row in hidden:
            del seen[self.paths[row]]
        kinds, tally = self.kinds, self.tallies[-1]
        tally.removed += sum(kinds[row] != _DIRECTORY for row in hidden)

    def _below(self, folders: set[bytes]) -> list[int]:
        """The rows seen so far below any of these directories."""
        if len(folders) <= _FEW:
            starts = tuple(path + b"/" if path else b"" for path in folders)
            return [row for path, row in self._seen.items() if path and path.startswith(starts)]
        return [row for path, row in self._seen.items() if path and any(up in folders for up in parents(path))]

    def _count(self, start: int) -> None:
        kinds, does, tally = self.kinds, self.does, self.tallies[-1]
        for row in range(start, len(self.paths)):
            if kinds[row] != _DIRECTORY:
                if does[row] == ADDED:
                    tally.added += 1
                elif does[row] == CHANGED:
                    tally.changed += 1
        tally.files = tally.added + tally.changed
        tally.size = sum(self.sizes[start:])

    def finish(self) -> None:
        """All layers lie: work out what each of them has in vain."""
        self._seen = {}
        bounds = [*self.starts, len(self.paths)]
        for number, tally in enumerate(self.tallies):
            start, end = bounds[number], bounds[number + 1]
            dead = [
                row
                for row in range(start, end)
                if self.ends[row] > number + 1 and self.kinds[row] not in (_DIRECTORY, _WHITEOUT, _OPAQUE)
            ]
            tally.wasted_files = len(dead)
            kept = self._kept_by_links(number, start) if dead else set()
            tally.wasted = sum(self.sizes[row] for row in dead if row not in kept)

    def _kept_by_links(self, number: int, start: int) -> set[int]:
        """Rows whose content another name of the same layer still has."""
        index, kept = self.indexes[number], set()
        for row, target in index.links.items():
            if index.kinds[row] == tar.LINK[0] and not self.ends[start + row]:
                first = index.find(target)
                if first is not None:
                    kept.add(start + first)
        return kept


def parents(path: bytes) -> list[bytes]:
    """The directories that a path lies in, nearest first, the root (empty) last."""
    found = []
    while path:
        path = path.rpartition(b"/")[0]
        found.append(path)
    return found
