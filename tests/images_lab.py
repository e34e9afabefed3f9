"""An image store of its own for one test, and ways to look at what it holds."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from core.images.store import ImageStore
from core.model import Image, PullProgress
from core.store.db import Store
from core.store.paths import Instance

Node = tuple[object, ...]


@contextlib.asynccontextmanager
async def open_store(folder: Path) -> AsyncIterator[ImageStore]:
    """The store of the instance in ``folder``, recovered as every engine does at its start."""
    inst = Instance(folder / "root", folder / "run")
    store = Store.open(inst)
    images = ImageStore(inst, store)
    await images.recover()
    try:
        yield images
    finally:
        await images.close()
        store.close()


async def finish(steps: AsyncIterator[PullProgress]) -> Image:
    """Run a pull or load to its end; its last image."""
    image = None
    async for step in steps:
        image = step.image or image
    assert image is not None
    return image


def describe(path: Path | str | bytes) -> Node:
    """Everything that a layer can say about one file."""
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    content: object = None
    if stat.S_ISREG(kind):
        with open(path, "rb") as file:
            content = file.read()
    elif stat.S_ISLNK(kind):
        content = os.readlink(path)
    elif stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
        content = status.st_rdev
    xattrs = {key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)}
    when = 0 if kind == stat.S_IFCHR and not status.st_rdev else status.st_mtime_ns  # of a whiteout nobody asks
    return (kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, when, content, xattrs)


def snapshot(root: Path) -> dict[bytes, Node]:
    """:func:`describe` of everything below ``root`` by relative path; hard links as the sorted set of their names."""
    base = os.fsencode(root)
    found: dict[bytes, Node] = {}
    inodes: dict[int, list[bytes]] = {}
    for folder, folders, files in os.walk(base):
        for name in folders + files:
            path = os.path.join(folder, name)
            relative = path[len(base) + 1 :]
            found[relative] = describe(path)
            status = os.lstat(path)
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                inodes.setdefault(status.st_ino, []).append(relative)
    for names in inodes.values():
        for name in names:
            found[name] += (tuple(sorted(names)),)
    return found


def leftovers(images: ImageStore) -> list[str]:
    """What a failed or killed pull must not leave: staging folders, layers without a row, trash."""
    known = {row["id"].removeprefix("sha256:") for row in images.store.disk.read("SELECT id FROM layer")}
    there = {path.name for path in images.layers.root.iterdir()}
    return sorted(there ^ known) + sorted(path.name for path in images.inst.trash.iterdir())


@contextlib.contextmanager
def deep_tree(root: Path) -> Iterator[None]:
    """A tree deeper than a path can be long; the body is done at its bottom."""
    here = os.getcwd()
    root.mkdir()
    os.chdir(root)
    try:
        for _ in range(1500):
            os.mkdir("deeper")
            os.chdir("deeper")
        yield
    finally:
        os.chdir(here)
