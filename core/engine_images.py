"""The part of the engine's protocol that is about images; :mod:`core.engine` has the whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from core.model import FileChange, FoundFile, HistoryEntry, Image, LayerFacts, PullProgress, TreeEntry, Watcher


class ImageLayers(Protocol):
    """An image's layers, read once: nothing of it waits. A ``position`` counts layers from 1, the lowest."""

    @property
    def image(self) -> Image: ...

    @property
    def layers(self) -> tuple[LayerFacts, ...]:
        """Lowest first."""
        ...

    @property
    def wasted(self) -> int:
        """Bytes of files that a later layer replaces or removes."""
        ...

    def children(self, folder: str, position: int) -> list[TreeEntry]:
        """What is in ``folder`` ("" is the root) with the layers up to ``position``, and what that layer has removed
        from it; folders first, by name."""
        ...

    def entry(self, path: str, position: int) -> TreeEntry | None:
        """One path with the layers up to ``position``, also where that layer has removed it."""
        ...

    def walk(self, position: int, folder: str = "") -> Iterator[TreeEntry]:
        """All below ``folder``, each folder before what is in it."""
        ...

    def find(self, pattern: str) -> list[FoundFile]:
        """As :meth:`ImageEngine.search_layers`, in this image."""
        ...


class ImageEngine(Protocol):
    """What a face may ask for about images. A ``ref`` names one by reference, full id or unambiguous id prefix."""

    async def images(self, filters: Mapping[str, Sequence[str]] | None = None) -> list[Image]:
        """Newest first.

        :param filters: Docker's: dangling, label, before, since, until, reference
        :raises InvalidArgument: an unknown one, or a value that it does not take
        """
        ...

    async def image(self, ref: str) -> Image: ...

    def pull(self, reference: str, *, insecure: bool = False, platform: str = "") -> AsyncIterator[PullProgress]:
        """Progress per layer; closing the iterator cancels and keeps verified parts only.

        :param platform: ``linux/arm64`` …; empty: this machine's
        """
        ...

    def load(self, source: Path | int) -> AsyncIterator[PullProgress]:
        """Load a ``docker save`` or OCI archive (plain or compressed tar) or an OCI layout folder.

        A step with ``image`` comes for each name that the archive gives.

        :param source: a path, or a descriptor that is read to its end
        """
        ...

    async def remove_image(self, ref: str, *, force: bool = False) -> list[str]:
        """Untag, and delete with the last tag. Returns what was done: ``Untagged: …``, ``Deleted: …``.

        :param force: take the names of an image that containers use, too; it stays, and ``Kept: …`` says for whom
        """
        ...

    async def image_layers(self, ref: str) -> ImageLayers:
        """What each layer adds, changes, removes and wastes, and the tree that they make."""
        ...

    async def search_layers(self, pattern: str, refs: Sequence[str] = ()) -> list[FoundFile]:
        """Where a path is, in all layers of the named (default: all) images, also where a later layer hides it.

        :param pattern: ``/etc/passwd``: that path; with ``*``, ``?`` or ``[…]`` a glob, of the whole path where it has
            a slash (``**`` goes over slashes), else of the name; anything else is a part of the path
        :raises InvalidArgument: a pattern that cannot be read
        """
        ...

    # -- made here, and on their way out ------------------------------------------------------------------------
    async def commit(
        self,
        ref: str,
        name: str = "",
        *,
        author: str = "",
        message: str = "",
        changes: Sequence[str] = (),
        pause: bool = True,
        watch: Watcher | None = None,
    ) -> Image:
        """An image of the container ``ref`` as it is now, called ``name`` ("": nameless).

        :param changes: instructions as in a Dockerfile: CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL
            USER VOLUME WORKDIR
        :param pause: freeze a running container meanwhile, where groups can be frozen at all (an ordinary user's: only
            on cgroup v2)
        :param watch: is told in between how far it is. (All that take one: cancelling leaves nothing behind)
        """
        ...

    async def changes(self, ref: str) -> list[FileChange]:
        """The files in which the container ``ref`` is not like its image (``docker diff``)."""
        ...

    async def export(self, ref: str, target: int | Path, *, watch: Watcher | None = None) -> None:
        """Write the files of the container ``ref`` as a tar; mounts are left out.

        :param target: a descriptor, or a file, which has its name once it is whole
        """
        ...

    async def import_image(
        self,
        source: int | Path,
        name: str = "",
        *,
        message: str = "",
        changes: Sequence[str] = (),
        platform: str = "",
        watch: Watcher | None = None,
    ) -> Image:
        """An image of one layer from a tar of a file system, plain or compressed.

        :param source: a file, or a descriptor that is read to its end
        :param changes: as those of :meth:`commit`
        :param platform: ``os/architecture[/variant]``; "": this machine's
        """
        ...

    async def tag(self, ref: str, name: str) -> Image:
        """Give an image one more name; another image that had it loses it."""
        ...

    async def untag(self, ref: str, names: Sequence[str] = (), *, every: bool = False) -> list[str]:
        """Take names from an image, which stays. Returns those that are gone.

        :param names: none: ``ref`` alone where that is a name, all where it is an id
        :param every: all names, whatever ``ref`` is
        :raises NotFound: one of ``names`` is not the image's
        :raises InvalidArgument: a digest (``REPOSITORY@sha256:…``), which is no tag
        """
        ...

    async def history(self, ref: str) -> list[HistoryEntry]:
        """The steps of an image's making, the last first."""
        ...

    async def save(
        self,
        refs: Sequence[str],
        target: int | Path,
        *,
        form: str = "docker-archive",
        compression: str = "none",
        watch: Watcher | None = None,
    ) -> None:
        """Write images into an archive. A name without a tag means every tag of the repository, as with docker.

        :param target: a file, which has its name once it is whole; for ``oci-dir`` a folder; or a descriptor
        :param form: ``docker-archive`` (which OCI tools read too), ``oci-archive``, ``oci-dir``
        :param compression: of layers: ``none``, ``gzip``, ``zstd``
        """
        ...
