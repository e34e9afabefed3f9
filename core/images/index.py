"""What a layer holds, in columns: read whole in milliseconds, where a walk over the files takes a hundred times that.

``layers/<id>/index.zst`` is written while the layer is unpacked (:class:`Writer`) and describes what its archive says,
in the archive's order: owners before they are mapped, devices that could not be made. What a later entry of the same
archive replaced is left out, so that every path is there once.
"""

# No dataclasses and no typing: the unpack server loads this.

from __future__ import annotations

import os
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator

from core.errors import Corrupt, NotFound
from core.images import columns, tar
from core.images.places import ASIDE, DIFF, INDEX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

WHITEOUT, OPAQUE = b"w", b"o"  # kinds beside those of tar: a path that is deleted, a directory that hides lower ones
HAS_XATTRS = 1
_LONGEST_NAMES = 256 * 1024**2  # bytes of all paths and link targets of a layer: they are held in memory
_NUMBERS = {"mode": "H", "uid": "I", "gid": "I", "size": "Q", "mtime": "q", "flags": "B", "crc": "I"}
_DIFF = os.fsencode(DIFF) + b"/"
_ROW, _CRC, _WORD = struct.Struct(f"{len(_NUMBERS)}q").pack, struct.Struct("q").pack, 8  # bytes of a number
_NONE = bytes(_WORD * len(_NUMBERS))


class Row:
    """One path. ``size`` is the file's length in bytes, ``mtime`` in nanoseconds since the epoch, ``crc`` the CRC-32 of
    what the archive holds of a file (of a sparse one without its holes), ``link`` a symbolic link's target or the path
    that a hard link is one with, ``device`` (major, minor)."""

    # fmt: off
    __slots__ = ("crc", "device", "gid", "has_xattrs", "kind", "link", "mode", "mtime", "path", "size", "uid")
    # fmt: on
    path: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    crc: int
    has_xattrs: bool
    link: bytes
    device: tuple[int, int]


class Index:
    """The columns; element ``n`` of each belongs to path ``n``. ``links`` and ``devices`` have those that exist."""

    def __init__(self, parts: dict[str, bytes]) -> None:
        self.paths = parts["path"].split(b"\0") if parts["kind"] else []
        self.kinds = parts["kind"]  # one byte each: tar.FILE, LINK, SYMLINK, …, WHITEOUT, OPAQUE
        self.modes, self.uids, self.gids = (_column(parts, name) for name in ("mode", "uid", "gid"))
        self.sizes, self.mtimes, self.crcs = (_column(parts, name) for name in ("size", "mtime", "crc"))
        self.flags = _column(parts, "flags")
        rows, targets = _column(parts, "link_row", "I"), parts["link"].split(b"\0")
        self.links = dict(zip(rows, targets, strict=True)) if rows else {}
        numbers = _column(parts, "device", "I")
        self.devices = {row: pair for row, *pair in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)}
        self.implied = [path for path in parts["implied"].split(b"\0") if path]  # used without being in the archive
        self._rows: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self.kinds)

    def kind(self, number: int) -> bytes:
        return self.kinds[number : number + 1]

    def row(self, number: int) -> Row:
        row = Row()
        row.path, row.kind = self.paths[number], self.kind(number)
        row.mode, row.uid, row.gid = self.modes[number], self.uids[number], self.gids[number]
        row.size, row.mtime, row.crc = self.sizes[number], self.mtimes[number], self.crcs[number]
        row.has_xattrs = bool(self.flags[number] & HAS_XATTRS)
        row.link = self.links.get(number, b"")
        major, minor = self.devices.get(number, (0, 0))
        row.device = (major, minor)
        return row

    def __iter__(self) -> Iterator[Row]:
        return map(self.row, range(len(self)))

    def find(self, path: bytes) -> int | None:
        """The number of ``path``, without a leading slash; a directory's own row, not the mark that it is opaque."""
        if not self._rows:
            self._rows = {name: row for row, name in enumerate(self.paths) if self.kind(row) != OPAQUE}
        return self._rows.get(path)


def _column(parts: dict[str, bytes], name: str, code: str = "") -> array[int]:
    return array(code or _NUMBERS[name], parts[name])


def read(folder: Path) -> Index:
    """The index of the layer in ``folder``.

    :raises NotFound: the layer was unpacked by a version that wrote none
    :raises Corrupt: the disk has damaged it
    """
    try:
        data = (folder / INDEX).read_bytes()
    except FileNotFoundError:
        raise NotFound(
            f"the layer {folder.name[:12]} has no index",
            "an older wharf unpacked it",
            "Make one with: wharf fsck --repair",
        ) from None
    return Index(columns.unpack(data))


class Writer:
    """Takes the entries of one archive as they are unpacked, and remembers where their content ends up."""

    def __init__(self) -> None:
        self.count = 0
        self._paths: list[bytes] = []
        self._kinds = bytearray()
        self._numbers = bytearray()  # row by row, in the order of _NUMBERS: one call for each, where columns take seven
        self._links: dict[int, bytes] = {}
        self._devices: dict[int, tuple[int, int]] = {}
        self._left = _LONGEST_NAMES
        self._gone: dict[bytes, list[int]] = {}  # path → rows that took its place, where nothing was kept
        self._moved: dict[bytes, tuple[list[int], list[int]]] = {}  # the same, with the numbers of the folders aside

    def add(self, entry: tar.Entry) -> None:
        """One entry, before it is made.

        :raises Corrupt: more names than anybody can want
        """
        row, kind, name = self.count, entry.kind, entry.name
        self.count = row + 1
        self._left -= len(name) + 1
        self._paths.append(name)
        self._kinds += kind
        flags = HAS_XATTRS if entry.xattrs else 0
        self._numbers += _ROW(entry.mode, entry.uid, entry.gid, entry.length, entry.mtime, flags, 0)
        if self._left < 0:
            raise self._too_long()
        if kind == tar.FILE:
            return
        if kind in (tar.LINK, tar.SYMLINK):
            self._links[row] = tar.clean(entry.link) if kind == tar.LINK else entry.link
            self._take(entry.link)
        elif kind in (tar.CHAR, tar.BLOCK_DEVICE):
            self._devices[row] = (entry.major & 0xFFFFFFFF, entry.minor & 0xFFFFFFFF)

    def mark(self, kind: bytes, path: bytes) -> None:
        """A whiteout of ``path``, or that the directory ``path`` is opaque."""
        self.count += 1
        self._take(path)
        self._paths.append(path)
        self._kinds += kind
        self._numbers += _NONE

    def _take(self, name: bytes) -> None:
        self._left -= len(name) + 1
        if self._left < 0:
            raise self._too_long()

    @staticmethod
    def _too_long() -> Corrupt:
        return tar.broken(f"its paths and links have more than {_LONGEST_NAMES} bytes")

    def checked(self, crc: int) -> None:
        """The content of the last row has been written."""
        self._numbers[-_WORD:] = _CRC(crc)

    def replaced(self, path: bytes, aside: int = 0) -> None:
        """The last row takes the place of what an earlier one made at ``path``.

        :param aside: number of the folder that has the earlier file, or the earlier directory with all below; else 0
        """
        if not aside:
            self._gone.setdefault(path, []).append(self.count - 1)
            return
        rows, numbers = self._moved.setdefault(path, ([], []))
        rows.append(self.count - 1)
        numbers.append(aside)

    def _fate(self, row: int) -> tuple[bytes, int] | None:
        """What first happened to the path of ``row`` later on: the path that was replaced, and its number aside."""
        path = whole = self._paths[row]
        best, found = self.count, None
        gone = self._gone.get(path, ())
        # A directory that comes twice stays as opaque as it was.
        if (at := bisect_right(gone, row)) < len(gone) and self._kinds[row] != OPAQUE[0]:
            best, found = gone[at], (whole, 0)
        while self._moved:
            if path in self._moved:
                rows, numbers = self._moved[path]
                if (at := bisect_right(rows, row)) < len(rows) and rows[at] < best:
                    best, found = rows[at], (path, numbers[at])
            if not path:
                break
            path = path.rpartition(b"/")[0]
        return found

    def places(self, rows: Iterable[int]) -> list[bytes]:
        """Where the content of the files of these rows lies now, relative to the layer's folder."""
        paths = self._paths
        return [self._place(row) for row in rows] if self._moved else [_DIFF + paths[row] for row in rows]

    def _place(self, row: int) -> bytes:
        path, fate = self._paths[row], self._fate(row)
        if fate is None or not fate[1]:
            return _DIFF + path
        return b"%s/%d%s" % (os.fsencode(ASIDE), fate[1], path[len(fate[0]) :])

    def pack(self, implied: list[bytes]) -> bytes:
        """The index file; with it the numbers of rows change.

        :param implied: directories that the archive uses without holding them
        """
        if self._gone or self._moved:
            self._keep([row for row in range(self.count) if self._fate(row) is None])
        numbers = memoryview(self._numbers).cast("q")
        devices = array("I")
        for row, pair in self._devices.items():
            devices.extend((row, *pair))
        return columns.pack(
            {
                "path": b"\0".join(self._paths),
                "kind": bytes(self._kinds),
                **{
                    name: array(code, numbers[place :: len(_NUMBERS)]).tobytes()
                    for place, (name, code) in enumerate(_NUMBERS.items())
                },
                "link_row": array("I", self._links).tobytes(),
                "link": b"\0".join(self._links.values()),
                "device": devices.tobytes(),
                "implied": b"\0".join(implied),
            }
        )

    def _keep(self, rows: list[int]) -> None:
        self._paths = [self._paths[row] for row in rows]
        self._kinds = bytearray(self._kinds[row] for row in rows)
        old, width = self._numbers, len(_NONE)
        self._numbers = bytearray().join(old[row * width : (row + 1) * width] for row in rows)
        self._links = {new: self._links[old] for new, old in enumerate(rows) if old in self._links}
        self._devices = {new: self._devices[old] for new, old in enumerate(rows) if old in self._devices}
