"""The tree that a stack of layers shows, without mounting it and with a bounded number of descriptors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from core.images.handles import Handles
from core.images.walk import FOLDER, OTHER, REGULAR, Node, check_path, is_opaque, is_whiteout, names_in


class _Merged:
    """One folder as a stack of layers shows it.

    :param layers: those whose folders make it, topmost first
    :param live: somebody may work in the topmost
    """

    def __init__(self, handles: Handles, path: bytes, layers: Sequence[int], live: bool) -> None:
        self.live = live
        self.path = path
        self.prefix = path + b"/" if path else b""
        self.layers = layers
        self.names = self._listed(handles)

    def _listed(self, handles: Handles) -> Iterator[tuple[bytes, int, int]]:
        shown: dict[bytes, tuple[int, int]] = {}
        for index, layer in enumerate(self.layers):
            fd = handles.get(layer, self.path)
            for name, kind in names_in(fd) if fd is not None else ():
                shown.setdefault(name, (index, kind))
        yield from sorted((name, *place) for name, place in shown.items())

    def leave(self, handles: Handles) -> None:
        for layer in self.layers:
            handles.leave(layer, self.path)


def folders_below(handles: Handles, path: bytes, name: bytes, layers: Sequence[int]) -> list[int]:
    """Those of ``layers`` (topmost first) of whose folders ``path/name`` overlayfs makes one. They are entered; the
    caller leaves them."""
    found: list[int] = []
    for layer in layers:
        below = handles.enter(layer, path, name)
        if below is None:
            if _absent(handles, layer, path, name):
                continue  # this layer does not have it
            break  # a file or a whiteout: what lies below it does not show
        found.append(layer)
        if is_opaque(below):
            break
    return found


def _absent(handles: Handles, layer: int, path: bytes, name: bytes) -> bool:
    parent = handles.get(layer, path)
    if parent is None:
        return True
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return True
    return False


def merged(tops: Iterable[int], *, live: bool = False) -> Iterator[Node]:
    """Like :func:`core.images.walk.one`, of what overlayfs shows of these layers (topmost first).

    :param live: somebody may work in the topmost: nothing of it passes for a regular file, which could be a device by
        the time that it is opened
    """
    tops = list(tops)
    for index, fd in enumerate(tops):
        if is_opaque(fd):
            tops = tops[: index + 1]
            break
    yield b"", tops[0], b".", False
    handles = Handles(tops)
    try:
        yield from _walk(handles, _Merged(handles, b"", range(len(tops)), live))
    finally:
        handles.close()


def _walk(handles: Handles, root: _Merged) -> Iterator[Node]:
    opened = [root]
    while opened:
        folder = opened[-1]
        name, first, kind = next(folder.names, (b"", 0, OTHER))
        if not name:
            opened.pop().leave(handles)
            continue
        fd = handles.get(folder.layers[first], folder.path)
        if fd is None or (kind == OTHER and _hidden(name, fd)):
            continue
        top_live = folder.live and first == 0
        yield folder.prefix + name, fd, name, kind == REGULAR and not top_live
        if kind == FOLDER:
            check_path(folder.prefix + name)
            if layers := folders_below(handles, folder.path, name, folder.layers[first:]):
                opened.append(_Merged(handles, folder.prefix + name, layers, top_live))


def _hidden(name: bytes, fd: int) -> bool:
    try:
        return is_whiteout(os.stat(name, dir_fd=fd, follow_symlinks=False))
    except FileNotFoundError:
        return True
