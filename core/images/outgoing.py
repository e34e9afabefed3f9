"""Layers on their way out: the exact tar of a layer, and the blob that a registry or an archive gets.

A layer that is in the store exists as files; its blob was thrown away when it had been unpacked. What its tar had
besides the files' content was kept (:mod:`core.images.split`), and so the tar is made anew to the last byte. Where
nothing was kept, the layer is archived by :mod:`core.images.tarwrite`: right for those that this program has made
itself. Either way the digest is compared with the layer's diffID before anybody gets to see it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from core.errors import Corrupt, WharfError
from core.images import compress, split, tarwrite
from core.images.places import DIFF
from core.images.records import missing
from core.model import Image

if TYPE_CHECKING:
    from core.images.store import ImageStore

T = TypeVar("T")
Watch = Callable[[int], None]


@dataclass(frozen=True)
class OutBlob:
    """A layer's blob, in a file that has no name: it is gone with :meth:`close`, or with this process.

    ``path`` can be opened any number of times until then.
    """

    path: Path
    digest: str
    size: int  # bytes
    media_type: str
    diffid: str
    fd: int

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def plain_tar(folder: Path) -> Generator[bytes, None, None]:
    """The tar of the layer in ``folder``, in pieces; the caller compares its digest.

    :raises WharfError: :raises OSError:
    """
    return split.rebuild(folder) if split.exists(folder) else tarwrite.layer(folder / DIFF)


def expected(folder: Path) -> int:
    """About how many bytes :func:`plain_tar` gives; 0 where only making it would tell."""
    try:
        return split.size(folder) if split.exists(folder) else tarwrite.estimate([folder / DIFF])
    except (WharfError, OSError):
        return 0  # whoever makes it will say what is wrong


async def stoppable(work: Callable[[Watch], T]) -> T:
    """Do ``work`` in a thread, which cannot be cancelled: what it is given raises once the caller has been.

    :raises asyncio.CancelledError: when the thread has ended
    """
    stop = False

    def watch(_: int) -> None:
        if stop:
            raise compress.Stopped("stopped")

    task = asyncio.ensure_future(asyncio.to_thread(work, watch))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop = True
        await asyncio.gather(task, return_exceptions=True)
        raise


@contextlib.contextmanager
def leased(store: ImageStore, images: Iterable[Image]) -> Iterator[dict[str, list[str]]]:
    """Nobody deletes the layers of these images inside the block, not even with the images. Gives the keys of each
    image's layers by its id: who comes later may not find them any more.

    :raises NotFound: one of them has been removed already
    """
    found: dict[str, list[str]] = {}
    with contextlib.ExitStack() as held:
        for image in images:
            found[image.id] = keys = store.keys(image)
            fds = [store.layers.hold(key) for key in keys]
            for fd in fds:
                if fd is not None:
                    held.callback(os.close, fd)
            if len(keys) != len(image.layers) or None in fds:
                raise missing(image.id)
        yield found


async def layer_blob(
    store: ImageStore,
    image: Image,
    position: int,
    *,
    key: str = "",
    compression: str = "gzip",
    progress: Watch | None = None,
) -> OutBlob:
    """The blob of one of an image's layers, complete and checked; the caller closes it.

    :param position: 0 is the lowest
    :param key: the layer's, from :func:`leased`; "": the image is sure to stay
    :param compression: ``gzip``, ``zstd``, ``none``
    :param progress: told, in another thread, how many bytes of the tar have been read
    :raises Corrupt: the files are not what the layer's digest promises
    :raises InvalidArgument: an unknown compression
    :raises OSError: the disk is full
    """
    compress.check_method(compression)
    folder = store.layers.folder(key or store.keys(image)[position])
    diffid = image.layers[position]
    fd = os.open(store.content.parts, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    try:

        def work(watch: Watch) -> compress.Packed:
            def both(done: int) -> None:
                watch(done)
                if progress is not None:
                    progress(done)

            # Closed here: it would hold the layer for as long as somebody keeps the error that broke it off.
            with contextlib.closing(plain_tar(folder)) as pieces:
                return compress.pack(pieces, compression, fd, both)

        packed = await stoppable(work)
        check_digest(image, position, packed.plain_digest)
    except BaseException:
        os.close(fd)
        raise
    path = Path(f"/proc/self/fd/{fd}")
    return OutBlob(path, packed.digest, packed.size, compress.media_type(compression), diffid, fd)


def check_digest(image: Image, position: int, found: str) -> None:
    """:raises Corrupt: the tar is not that of the image's layer"""
    if found == image.layers[position]:
        return
    name = image.tags[0] if image.tags else image.short_id
    raise Corrupt(
        f"layer {position + 1} of {name} cannot be made again as it came",
        f"its tar should be {image.layers[position]} and is {found}: its files have changed, or it was unpacked before "
        "their archive's own form was kept",
        f"Remove the image and pull it again: wharf rmi {image.short_id}",
        object_id=image.id,
    )
