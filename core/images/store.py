"""``ImageStore``: every image of one instance. Several processes may use it at once.

Names point to images (rows ``tag``, ``repo_digest``), images to layers and to the blobs that are kept; what exists and
what refers to it is always asked of the database, never counted. See :mod:`core.images.layers` for the folders.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import errno
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path

from core.errors import NoSpace, Unavailable
from core.images import reference, remove
from core.images.content import Content
from core.images.layers import Layers
from core.images.owners import opaque_name
from core.images.progress import Progress, report
from core.images.records import NewImage, Records, save
from core.kernel.userns import contained
from core.model import Image, PullProgress
from core.store.db import Store
from core.store.paths import Instance


class ImageStore:
    """Pull, load, list, find and remove images; all methods raise the errors of :mod:`core.errors` only."""

    def __init__(self, inst: Instance, db: Store) -> None:
        self.inst = inst
        self.store = db
        self.layers = Layers(inst, db)
        self.content = Content(inst)
        self._records = Records(db.disk.read)
        self._now = Records(db.disk.peek)  # for the thread of the event loop: a few quick queries
        self._deleting: set[asyncio.Task[None]] = set()
        self.layers.prepare()
        self.content.prepare()

    # -- reading ------------------------------------------------------------------------------------------------
    async def list(self) -> builtins.list[Image]:
        """Every image, newest first."""
        return await self.store.disk.run(self._records.every)

    async def get(self, ref: str) -> Image:
        """The image named by a reference (``busybox`` means ``docker.io/library/busybox:latest``), its id, or the
        beginning of its id.

        :raises NotFound: no such image
        :raises InvalidArgument: the beginning of several ids
        """
        return self._now.one(self._now.resolve(ref)[0])

    def layer_dirs(self, image: Image) -> builtins.list[Path]:
        """The image's folders for overlayfs, top first.

        A layer that makes the root itself opaque hides all below it; overlayfs ignores the mark there, so they are
        left out.
        """
        dirs, opaque = [], opaque_name(contained())
        for key in reversed(self._now.keys(image.id)):
            dirs.append(self.layers.diff(key))
            try:
                if os.getxattr(dirs[-1], opaque) == b"y":
                    break
            except OSError as error:
                # Where no attribute can be (tmpfs before Linux 6.6 has no user.*), none has been set.
                if error.errno not in (errno.ENODATA, errno.ENOENT, errno.ENOTSUP):
                    raise
        return dirs

    # -- adding -------------------------------------------------------------------------------------------------
    async def pull(self, ref: str, insecure: bool = False) -> AsyncIterator[PullProgress]:
        """Fetch an image; at most 20 reports a second, the last with the image. Closing cancels.

        :param insecure: allow plain HTTP and untrusted certificates (registries on loopback may have them always)
        :raises NotFound: the registry has no such image, or none for this machine
        :raises Unavailable: the registry does not answer; ``what`` names host and port
        :raises Unauthorized: it wants (other) credentials
        :raises Corrupt: it sent something else than the digest promised, or a harmful archive
        """
        name = reference.parse(ref)
        progress = Progress(str(name), f"Asking {name.host}")
        # Late: aiohttp takes longer to import than everything else together.
        from core.images.pull import pull

        async with contextlib.aclosing(_translated(report(progress, pull(self, name, insecure, progress)))) as steps:
            async for step in steps:
                yield step

    async def load(self, source: Path) -> AsyncIterator[PullProgress]:
        """Load every image of an archive (``docker save``, OCI; plain or compressed) or of an OCI layout folder.

        Each image ends with a report that has it; closing cancels.

        :raises NotFound: no such file, or no image for this machine in it
        :raises Corrupt: it is not an archive of images, or does not match its own digests
        """
        from core.images.archive import load

        async with contextlib.aclosing(_translated(load(self, source))) as steps:
            async for step in steps:
                yield step

    async def commit(self, new: NewImage) -> Image | None:
        """Write an image's rows; None where one of its layers has been removed meanwhile: make them again."""

        def work() -> Image | None:
            with self.store.disk.write() as con:
                if not save(con, new):
                    return None
                # Again, under the write lock: a removal may have taken them since they were first kept.
                self.content.put(new.id, new.config)
                if new.manifest:
                    self.content.put(new.manifest_digest, new.manifest)
            return self._records.one(new.id)

        return await self.store.disk.run(work)

    # -- removing -----------------------------------------------------------------------------------------------
    async def remove(self, ref: str, force: bool, used_by: Callable[[str], Sequence[str]]) -> builtins.list[str]:
        """Untag; delete with the last name. See :mod:`core.images.remove`.

        :param used_by: names of the containers made from the image with that id
        :returns: ``Untagged: …`` and ``Deleted: …`` lines, as ``docker rmi`` prints them
        :raises NotFound: no such image
        :raises InUse: containers use it (``why`` names them), or it has several names and was given by id
        """

        def work() -> tuple[builtins.list[str], builtins.list[Path]]:
            image_id, by_id = self._records.resolve(ref)
            with self.store.disk.write() as con:
                done = remove.remove(con, image_id, ref if not by_id else "", force, used_by)
                # Under the write lock: after it, the folder of the same name may be one that somebody has just pulled.
                for digest in done.blobs:
                    self.content.drop(digest)
                folders = [self.layers.folder(key) for key in done.layers]
                return done.lines, [self.layers.move_away(path) for path in folders if path.exists()]

        lines, away = await self.store.disk.run(work)
        self._delete_later(away)
        return lines

    def _delete_later(self, away: Sequence[Path]) -> None:
        """Delete moved-away folders in the background; :meth:`close` waits for it, :meth:`recover` makes up for it."""
        for path in away:
            task = asyncio.create_task(asyncio.to_thread(self.layers.delete, path))
            self._deleting.add(task)
            task.add_done_callback(self._deleting.discard)

    # -- life ---------------------------------------------------------------------------------------------------
    async def recover(self) -> None:
        """Throw away what dead processes and lost power have left half-made."""

        def work() -> Sequence[Path]:
            away = self.layers.sweep()
            known = {row["digest"] for row in self.store.disk.read("SELECT digest FROM blob")}
            self.content.sweep(known)
            return [*away, *self.inst.trash.glob("layer-*")]

        self._delete_later(sorted(set(await self.store.disk.run(work))))

    async def close(self) -> None:
        """Wait for deletions under way."""
        await asyncio.gather(*self._deleting, return_exceptions=True)


async def _translated(steps: AsyncGenerator[PullProgress, None]) -> AsyncGenerator[PullProgress, None]:
    """Errors of the operating system in the engine's words.

    Each generator closes the one below it itself: left to the garbage collector, a cancelled pull would run on.
    """
    try:
        async with contextlib.aclosing(steps):
            async for step in steps:
                yield step
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace("the disk is full", str(error), "Remove images or containers, and try again") from error
        raise Unavailable("the image store cannot be used", str(error), "Check the disk and its permissions") from error
