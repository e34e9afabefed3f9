"""``import``: an image of one layer, from a tar of a file system."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from core.errors import Corrupt, InvalidArgument, NotFound
from core.images import instructions, making, reference, spool
from core.images.making import Note
from core.images.outgoing import Watch
from core.images.progress import watched
from core.images.unpackers import Unpackers
from core.model import Image, Watcher
from core.ops.context import Context


async def import_image(
    ctx: Context,
    source: int | Path,
    name: str = "",
    *,
    message: str = "",
    changes: Sequence[str] = (),
    platform: str = "",
    watch: Watcher | None = None,
) -> Image:
    """Make an image of the files in a tar (plain, gzip, zstd, bzip2, xz).

    :param source: a file, or a descriptor that is read to its end
    :param platform: ``os/architecture[/variant]``; "": this machine's
    :param watch: told how far it is
    :raises NotFound: no such file
    :raises Corrupt: no tar, or one that means harm
    :raises InvalidArgument: the name, the platform, or one of the changes
    """
    tag = str(reference.parse_tag(name)) if name else ""
    base = _platform(platform)
    told = "standard input" if isinstance(source, int) else str(source)
    config: dict[str, Any] = {}
    instructions.apply(config, changes)
    note = Note(message=message)
    unpackers = Unpackers(ctx.inst)

    async def make() -> tuple[bytes, list[str]]:
        with _opened(source) as fd:
            layer = await _layer(ctx, unpackers, fd, told, watch)
        return making.extended(base, config, note, layer.diffid, making.now()), [layer.key]

    try:
        image = await making.commit(ctx.images, make, tag)
    except Corrupt as error:
        if told in error.what:
            raise
        # There is no layer yet, and nothing was pulled.
        raise Corrupt(f"{told} cannot be imported", error.why, "Copy it again, or make it anew") from error
    finally:
        await unpackers.close(wait=False)
    ctx.tell("image", "import", image.id, name=tag)
    return image


async def _layer(ctx: Context, unpackers: Unpackers, fd: int, told: str, watch: Watcher | None) -> making.Layer:
    """The layer of the tar that ``fd`` gives; ``told`` is its name."""
    begin, total = 0, 0
    if seekable := stat.S_ISREG(os.fstat(fd).st_mode):
        begin = os.lseek(fd, 0, os.SEEK_CUR)
        total = os.fstat(fd).st_size - begin
    progress = making.Counter(told, "files", "unpacking", total)

    def write(out: int, look: Watch) -> None:
        # Of a file it is known how much has been read; of a pipe only what came out of it.
        position = (lambda: os.lseek(fd, 0, os.SEEK_CUR) - begin) if seekable else None
        pieces = spool.for_layer(fd, lambda: look(0), told)
        making.pour(pieces, out, progress.counting(look, position))

    return await watched(progress, making.add_layer(ctx.images, unpackers, write, partial(_unused, ctx)), watch)


def _unused(ctx: Context, layer: str) -> bool:
    """Whether no container needs it. A damaged one is made anew then: whoever imports has it whole."""
    sql = "SELECT 1 FROM container JOIN image_layer ON image_layer.image = container.image WHERE layer = ? LIMIT 1"
    return not ctx.store.disk.read(sql, (layer,))


def _platform(text: str) -> dict[str, Any]:
    if not text:
        return {}
    parts = text.split("/")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise InvalidArgument(f"invalid platform {text!r}", "it must be OS/ARCHITECTURE", "Write it like linux/arm64")
    return dict(zip(("os", "architecture", "variant"), parts, strict=False))


@contextlib.contextmanager
def _opened(source: int | Path) -> Iterator[int]:
    if isinstance(source, int):
        own = os.dup(source)
    else:
        try:
            own = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFound(f"no such file: {source}", "there is nothing to import", "Check the path") from error
    try:
        if stat.S_ISDIR(os.fstat(own).st_mode):
            raise InvalidArgument(
                f"cannot import {source}", "it is a folder", f"Pack it first: tar -C {source} -c . | wharf import -"
            )
        yield own
    finally:
        os.close(own)
