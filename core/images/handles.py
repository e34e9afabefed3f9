"""Folders of a stack of layers by layer and path, a bounded number of them open at a time.

A tree may be 200 folders deep, and an image has up to 500 layers: a walk that kept all of them open would need more
descriptors than a process has (1024, by default). What was closed is opened again by its path, below the layer's top
and through no link; it counts as gone where another folder has that path by now, as it may in a living container.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence

from core.images.walk import FOLDER_FLAGS, GONE, open_dir
from core.kernel.resolve import BENEATH, NO_SYMLINKS, open_in_root

MOST = 128  # open at a time: more than a usual image needs
Key = tuple[int, bytes]  # layer (0 is the topmost), path of the folder in it


class Handles:
    """Close it in the end. A descriptor that it gives is valid until the next call of a method.

    :param tops: descriptors of the layers' folders; they stay the caller's
    """

    def __init__(self, tops: Sequence[int], most: int = MOST) -> None:
        self._tops = tops
        self._most = most
        self._open: OrderedDict[Key, int] = OrderedDict()  # the one that was used last at the end
        self._known: dict[Key, tuple[int, int]] = {}  # device and inode of each that is in use, open or not

    def get(self, layer: int, path: bytes) -> int | None:
        """A folder that :meth:`enter` has found; None where it is gone. :raises OSError:"""
        if not path:
            return self._tops[layer]
        key = (layer, path)
        fd = self._open.get(key)
        if fd is not None:
            self._open.move_to_end(key)
            return fd
        known = self._known.get(key)
        if known is None:
            return None
        self._make_room()
        try:
            fd = open_in_root(self._tops[layer], os.fsdecode(path), FOLDER_FLAGS, resolve=BENEATH | NO_SYMLINKS)
        except OSError as error:
            if error.errno not in GONE:
                raise
            return None
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) != known:
            os.close(fd)
            return None
        self._open[key] = fd
        return fd

    def enter(self, layer: int, path: bytes, name: bytes) -> int | None:
        """The folder ``name`` in the folder ``path``, to be left again; None where there is none. :raises OSError:"""
        parent = self.get(layer, path)
        fd = None if parent is None else open_dir(name, parent)
        if fd is None:
            return None
        status = os.fstat(fd)
        key = (layer, path + b"/" + name if path else name)
        self._known[key] = (status.st_dev, status.st_ino)
        self._make_room()
        self._open[key] = fd
        return fd

    def leave(self, layer: int, path: bytes) -> None:
        """Nobody needs that one any more."""
        self._known.pop((layer, path), None)
        fd = self._open.pop((layer, path), None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def _make_room(self) -> None:
        while len(self._open) >= self._most:
            os.close(self._open.popitem(last=False)[1])
