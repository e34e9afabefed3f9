"""``ImageStore``: every image of one instance. Several processes may use it at once.

Names point to images (rows ``tag``, ``repo_digest``), images to layers and to the blobs that are kept; what exists and
what refers to it is always asked of the database, never counted. See :mod:`core.images.layers` for the folders.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import errno
import functools
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from core.errors import NoSpace, Unavailable
from core.images import reference, remove, tags
from core.images.content import Content
from core.images.deletion import deleting
from core.images.layers import Layers, mark_durable
from core.images.owners import opaque_name
from core.images.records import NewImage, Records, save
from core.kernel.userns import contained

if TYPE_CHECKING:
    from core.images.keyring import Keyring
    from core.model import Image, PullProgress, PushProgress
    from core.store.db import Store
    from core.store.paths import Instance

T = TypeVar("T")


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

    @functools.cached_property
    def keyring(self) -> Keyring:
        """The credentials of this process's user."""
        from core.images.keyring import Keyring  # late: most verbs ask no registry

        return Keyring()

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

    def is_id(self, ref: str) -> bool:
        """Whether ``ref`` names an image by its id or the beginning of it. :raises WharfError: as :meth:`get`"""
        return self._now.resolve(ref)[1]

    def keys(self, image: Image) -> builtins.list[str]:
        """The keys of the image's layers, lowest first (see :mod:`core.images.layers`)."""
        return self._now.keys(image.id)

    def config_of(self, image_id: str) -> bytes:
        """The image's configuration, as it came. :raises NotFound:"""
        return self._now.document(image_id)

    def descriptor_of(self, image_id: str) -> dict[str, object] | None:
        """Media type, digest and size in bytes of an image's manifest; None where it came without."""
        return self._now.descriptor(image_id)

    def layer_sizes(self, image_id: str) -> builtins.list[int]:
        """Bytes of the files of each layer of an image, lowest first."""
        return self._now.layer_sizes(image_id)

    def tags_of(self, repository: str) -> builtins.list[str]:
        """Every tag of a repository (``docker.io/library/busybox``), as full references."""
        return self._now.tags_of(repository)

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
    async def pull(self, ref: str, insecure: bool = False, platform: str = "") -> AsyncIterator[PullProgress]:
        """Fetch an image; at most 20 reports a second, the last with the image. Closing cancels.

        :param insecure: allow plain HTTP and untrusted certificates (registries on loopback may have them always)
        :param platform: ``linux/arm64`` …; empty: this machine's
        :raises NotFound: the registry has no such image, or none for this machine
        :raises Unavailable: the registry does not answer; ``what`` names host and port
        :raises Unauthorized: it wants (other) credentials
        :raises RateLimited: it answers no more for a while
        :raises Corrupt: it sent something else than the digest promised, or a harmful archive
        """
        # Late: aiohttp takes longer to import than everything else together.
        from core.images.progress import Progress, report
        from core.images.pull import pull

        name = reference.parse(ref)
        progress = Progress(str(name), f"Asking {name.host}")
        work = pull(self, name, progress, insecure=insecure, platform=platform)
        async with contextlib.aclosing(_translated(report(progress, work))) as steps:
            async for step in steps:
                yield step

    async def push(self, ref: str, insecure: bool = False, compression: str = "") -> AsyncIterator[PushProgress]:
        """Send an image to its registry; the last report has the digest it got there. Closing cancels.

        :param compression: ``gzip``, ``zstd``, ``none``; empty: layers that are there as they are, others gzip
        :raises NotFound: no image has that tag
        :raises Unauthorized: the registry wants (other) credentials
        """
        from core.images.progress import PushState, report
        from core.images.push import push

        name = reference.parse(ref)
        state = PushState(str(name))
        work = push(self, name, state, insecure=insecure, compression=compression)
        async with contextlib.aclosing(_translated(report(state, work))) as steps:
            async for step in steps:
                yield step

    async def load(self, source: Path | int) -> AsyncIterator[PullProgress]:
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

    # -- names --------------------------------------------------------------------------------------------------
    async def tag(self, ref: str, name: str) -> Image:
        """Give an image one more name. :raises NotFound: :raises InvalidArgument: not a name"""
        full = str(reference.parse_tag(name))

        def work() -> Image:
            image_id = self._records.resolve(ref)[0]
            with self.store.disk.write() as con:
                tags.give(con, image_id, full)
            return self._records.one(image_id)

        return await self.store.disk.run(work)

    async def untag(self, ref: str, names: Sequence[str], *, every: bool = False) -> tuple[Image, builtins.list[str]]:
        """Take names from an image; returns it, and those that are gone. :raises NotFound:

        :param names: none: ``ref``, where that is a name; all, where it is an id or with ``every``
        """

        def work() -> tuple[Image, builtins.list[str]]:
            image_id, by_id = self._records.resolve(ref)
            wanted = names or (() if every or by_id else (ref,))
            with self.store.disk.write() as con:
                gone = tags.take(con, image_id, wanted)
            return self._records.one(image_id), gone

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
            with deleting(self) as deletion:
                name = ref if not by_id else ""
                remove.remove(deletion.con, image_id, name, force, used_by, deletion.free, deletion.done)
            return deletion.done.lines, deletion.away

        lines, away = await self.store.disk.run(work)
        self.delete_later(away)
        return lines

    def delete_later(self, away: Sequence[Path]) -> None:
        """Delete moved-away folders in the background; :meth:`close` waits for it, :meth:`recover` makes up for it."""
        for path in away:
            self._behind(asyncio.to_thread(self.layers.delete, path))

    def _behind(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._deleting.add(task)
        task.add_done_callback(self._deleting.discard)

    # -- life ---------------------------------------------------------------------------------------------------
    async def recover(self) -> None:
        """Throw away what dead processes and lost power have left half-made."""

        def work() -> Sequence[Path]:
            away = self.layers.sweep()
            with self.store.disk.write() as con:
                self.content.sweep({row["digest"] for row in con.execute("SELECT digest FROM blob").fetchall()})
            return [*away, *self.inst.trash.glob("layer-*")]

        self.delete_later(sorted(set(await self.store.disk.run(work))))
        # Who unpacked them syncs them; this is for those whose process was killed before.
        self._behind(asyncio.to_thread(self._settle))

    def _settle(self) -> None:
        with contextlib.suppress(OSError):  # the disk fails: they stay what they are, not durable
            mark_durable(self.inst, self.store.disk)

    async def close(self) -> None:
        """Wait for what is done behind: deletions, the sync of new layers."""
        await asyncio.gather(*self._deleting, return_exceptions=True)


async def _translated(steps: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
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
