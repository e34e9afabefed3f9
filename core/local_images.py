"""The part of :class:`core.local.LocalEngine` that is about images."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.border import verb

if TYPE_CHECKING:
    from core.engine_images import ImageLayers
    from core.model import FileChange, FoundFile, HistoryEntry, Image, PullProgress, Watcher
    from core.ops.context import Context


class ImageVerbs:
    """Implements :class:`core.engine_images.ImageEngine`. Each method is one verb of ``ops/``."""

    _ctx: Context

    @verb("list the images")
    async def images(self, filters: Mapping[str, Sequence[str]] | None = None) -> list[Image]:
        from core.ops.image_filters import list_images

        return await list_images(self._ctx, filters or {})

    @verb("look at the image")
    async def image(self, ref: str) -> Image:
        return await self._ctx.images.get(ref)

    def pull(self, reference: str, *, insecure: bool = False, platform: str = "") -> AsyncIterator[PullProgress]:
        from core.ops.fetch import pull

        return pull(self._ctx, reference, insecure, platform)

    def load(self, source: Path | int) -> AsyncIterator[PullProgress]:
        from core.ops.fetch import load

        return load(self._ctx, source)

    @verb("remove the image")
    async def remove_image(self, ref: str, *, force: bool = False) -> list[str]:
        from core.ops.rm_image import remove_image

        return await remove_image(self._ctx, ref, force=force)

    @verb("look into the image")
    async def image_layers(self, ref: str) -> ImageLayers:
        from core.ops.layers import open_layers

        return await open_layers(self._ctx, ref)

    @verb("search the layers")
    async def search_layers(self, pattern: str, refs: Sequence[str] = ()) -> list[FoundFile]:
        from core.ops.layers import search_layers

        return await search_layers(self._ctx, pattern, refs)

    # -- made here, and on their way out ------------------------------------------------------------------------
    @verb("commit the container")
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
        from core.ops.commit import commit

        return await commit(
            self._ctx, ref, name, author=author, message=message, changes=changes, pause=pause, watch=watch
        )

    @verb("compare the container with its image")
    async def changes(self, ref: str) -> list[FileChange]:
        from core.ops.changes import changes

        return await changes(self._ctx, ref)

    @verb("export the container")
    async def export(self, ref: str, target: int | Path, *, watch: Watcher | None = None) -> None:
        from core.ops.changes import export

        await export(self._ctx, ref, target, watch)

    @verb("import the image")
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
        from core.ops.import_image import import_image

        return await import_image(
            self._ctx, source, name, message=message, changes=changes, platform=platform, watch=watch
        )

    @verb("tag the image")
    async def tag(self, ref: str, name: str) -> Image:
        from core.ops.tag import tag

        return await tag(self._ctx, ref, name)

    @verb("untag the image")
    async def untag(self, ref: str, names: Sequence[str] = (), *, every: bool = False) -> list[str]:
        from core.ops.tag import untag

        return await untag(self._ctx, ref, names, every=every)

    @verb("tell the image's history")
    async def history(self, ref: str) -> list[HistoryEntry]:
        from core.ops.history import history

        return await history(self._ctx, ref)

    @verb("save the images")
    async def save(
        self,
        refs: Sequence[str],
        target: int | Path,
        *,
        form: str = "docker-archive",
        compression: str = "none",
        watch: Watcher | None = None,
    ) -> None:
        from core.ops.save import save

        await save(self._ctx, refs, target, form=form, compression=compression, watch=watch)
