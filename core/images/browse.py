"""The layer browser's data: an image's layers one by one, its tree as each of them leaves it, and where a path is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence

from core.images import index, stack, tar
from core.images.history import steps_of
from core.images.manifest import moment
from core.images.patterns import matcher
from core.images.stack import Stack
from core.model import FoundFile, Image, LayerFacts, TreeEntry

_KINDS = {
    tar.FILE[0]: "file",
    tar.LINK[0]: "link",
    tar.SYMLINK[0]: "symlink",
    tar.CHAR[0]: "char",
    tar.BLOCK_DEVICE[0]: "block",
    tar.DIRECTORY[0]: "folder",
    tar.FIFO[0]: "fifo",
}
_FOLDER, _SYMLINK = tar.DIRECTORY[0], tar.SYMLINK[0]
_CHANGES = {stack.ADDED: "added", stack.CHANGED: "changed"}
_SIGNS = {stack.ADDED: 1, stack.CHANGED: 2}
_REMOVED = 4


class Browser:
    """One image, read; nothing here touches the disk any more. Implements :class:`core.engine_images.ImageLayers`."""

    def __init__(self, image: Image, steps: Sequence[tuple[float, str]], indexes: Sequence[index.Index]) -> None:
        """``steps``: (time, command) of each layer's build step, lowest layer first."""
        self.image = image
        self._stack = Stack()
        for each in indexes:
            self._stack.lay(each)
        self._stack.finish()
        self.layers = tuple(
            LayerFacts(number + 1, image.layers[number], *steps[number], **vars(tally))
            for number, tally in enumerate(self._stack.tallies)
        )
        self._folders: dict[bytes, list[int]] = {}  # folder → rows of what is directly in it, in any layer
        self._sums: tuple[int, dict[bytes, tuple[int, int]]] = (0, {})  # of one position: folder → (bytes, changes)

    @property
    def wasted(self) -> int:
        """Bytes that the image holds in vain."""
        return sum(layer.wasted for layer in self.layers)

    # -- the tree -------------------------------------------------------------------------------------------------
    def children(self, folder: str, position: int) -> list[TreeEntry]:
        """What is in ``folder`` ("" is the root) with the layers up to ``position``, and what that layer has removed
        from it; folders first, by name. Empty where there is no such folder."""
        sums = self._sums_at(position)
        found = [
            self._entry(row, change, position, sums)
            for row, change in self._at(os.fsencode(folder.strip("/")), position)
        ]
        return sorted(found, key=lambda entry: (entry.kind != "folder", entry.path))

    def entry(self, path: str, position: int) -> TreeEntry | None:
        """The one at ``path`` with the layers up to ``position``, also if that layer has removed it."""
        wanted = os.fsencode(path.strip("/"))
        for row, change in self._at(wanted.rpartition(b"/")[0], position):
            if self._stack.paths[row] == wanted:
                return self._entry(row, change, position, self._sums_at(position))
        return None

    def walk(self, position: int, folder: str = "") -> Iterator[TreeEntry]:
        """All below ``folder``, depth first, each folder before what is in it."""
        for entry in self.children(folder, position):
            yield entry
            if entry.kind == "folder":
                yield from self.walk(position, entry.path)

    def _at(self, folder: bytes, position: int) -> Iterator[tuple[int, str]]:
        """Rows directly in a folder that are seen at a position, or that it removes; with the change it makes."""
        stacked = self._stack
        start = stacked.starts[position - 1] if stacked.starts else 0
        end = stacked.starts[position] if position < len(stacked.starts) else len(stacked.paths)
        ends, gone = stacked.ends, stacked.gone
        for row in self._rows().get(folder, ()):
            if row >= end:
                break
            if not ends[row] or ends[row] > position:
                yield row, _CHANGES.get(stacked.does[row], "") if row >= start else ""
            elif ends[row] == position and gone[row] and row < start:
                yield row, "removed"

    def _rows(self) -> dict[bytes, list[int]]:
        if not self._folders and self._stack.paths:
            folders = self._folders
            for row, path in enumerate(self._stack.paths):
                if path and self._stack.does[row] != stack.DELETES:
                    folder = path.rpartition(b"/")[0]
                    try:
                        folders[folder].append(row)
                    except KeyError:
                        folders[folder] = [row]
        return self._folders

    def _sums_at(self, position: int) -> dict[bytes, tuple[int, int]]:
        """Per folder: the bytes of all files below, and which changes there are below."""
        if self._sums[0] == position:
            return self._sums[1]
        kinds, sizes, does = self._stack.kinds, self._stack.sizes, self._stack.does
        sums: dict[bytes, tuple[int, int]] = {}
        # Longest first: what is below a folder is complete when it is its turn.
        for folder in sorted(self._with_parents(), key=len, reverse=True):
            size, changes = sums.get(folder, (0, 0))
            for row, change in self._at(folder, position):
                if change == "removed":
                    changes |= _REMOVED
                    continue
                if kinds[row] != _FOLDER:
                    size += sizes[row]
                if change:
                    changes |= _SIGNS[does[row]]
            sums[folder] = size, changes
            if folder:
                up = folder.rpartition(b"/")[0]
                above, marks = sums.get(up, (0, 0))
                sums[up] = above + size, marks | changes
        self._sums = position, sums
        return sums

    def _with_parents(self) -> set[bytes]:
        folders = set(self._rows())
        for folder in self._rows():
            for up in stack.parents(folder):
                if up in folders:
                    break
                folders.add(up)
        return folders

    def _entry(self, row: int, change: str, position: int, sums: dict[bytes, tuple[int, int]]) -> TreeEntry:
        stacked = self._stack
        where, path, kind = stacked.position(row), stacked.paths[row], stacked.kinds[row]
        columns, number = stacked.indexes[where - 1], row - stacked.starts[where - 1]
        real = number < len(columns)  # else a folder that its layer's archive only uses
        size, changes = (sums.get(path, (0, 0)) if change != "removed" else (0, 0)) if kind == _FOLDER else (0, 0)
        return TreeEntry(
            path=os.fsdecode(path),
            kind=_KINDS.get(kind, "file"),
            mode=0o777 if kind == _SYMLINK else columns.modes[number] if real else 0o755,  # as Linux makes all of them
            uid=columns.uids[number] if real else 0,
            gid=columns.gids[number] if real else 0,
            size=size if kind == _FOLDER else stacked.sizes[row],
            mtime=columns.mtimes[number] if real else 0,
            target=os.fsdecode(columns.links.get(number, b"")) if real else "",
            position=where,
            change=change,
            inside="".join(sign for bit, sign in ((1, "+"), (2, "~"), (_REMOVED, "-")) if changes & bit),
        )

    # -- search ---------------------------------------------------------------------------------------------------
    def find(self, pattern: str) -> list[FoundFile]:
        """Where a path is, in all layers, lowest first; patterns: :func:`core.images.patterns.matcher`.

        :raises InvalidArgument: a pattern that cannot be read
        """
        return self.find_by(matcher(pattern))

    def find_by(self, match: Callable[[bytes], object]) -> list[FoundFile]:
        """:meth:`find` by a test that was made before."""
        return [self._found(row) for row, path in enumerate(self._stack.paths) if match(path) and self._tells(row)]

    def _tells(self, row: int) -> bool:
        """False for folders that come again, and for marks that one is opaque: their paths are told anyway."""
        does, kind = self._stack.does[row], self._stack.kinds[row]
        return does in (stack.ADDED, stack.CHANGED) or (does == stack.DELETES and kind != index.OPAQUE[0])

    def _last(self, row: int) -> int:
        """A folder that later layers have again is still that folder: its row in the last of them."""
        stacked = self._stack
        while stacked.kinds[row] == _FOLDER and stacked.ends[row] and not stacked.gone[row]:
            number = stacked.ends[row] - 1
            again = stacked.indexes[number].find(stacked.paths[row])
            if again is None or stacked.does[stacked.starts[number] + again] != stack.SAME:
                break
            row = stacked.starts[number] + again
        return row

    def _found(self, row: int) -> FoundFile:
        stacked = self._stack
        last = self._last(row)
        position, end = stacked.position(row), stacked.ends[last]
        whiteout = stacked.does[row] == stack.DELETES
        if whiteout:
            fate, end = "whiteout", 0
        else:
            fate = "removed" if stacked.gone[last] else "replaced" if end else "kept"
        return FoundFile(
            image=self.image.id,
            name=self.image.tags[0] if self.image.tags else self.image.short_id,
            position=position,
            diffid=self.image.layers[position - 1],
            path=os.fsdecode(stacked.paths[row]),
            kind="" if whiteout else _KINDS.get(stacked.kinds[row], "file"),
            size=stacked.sizes[row],
            fate=fate,
            ended=end,
        )


def build_steps(config: bytes, layers: int) -> list[tuple[float, str]]:
    """(time, command) of the steps that made the layers, lowest first, from an image configuration's ``history``.

    A history that does not fit (image-spec, config.md: it is optional, and a stranger's) tells nothing of any layer.
    """
    made = [
        (moment(step.get("created")), str(step.get("created_by") or step.get("comment") or ""))
        for step in steps_of(json.loads(config))
        if step.get("empty_layer") is not True
    ]
    return made if len(made) == layers else [(0.0, "")] * layers
