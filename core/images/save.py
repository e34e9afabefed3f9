"""Images written as an archive that every engine can read, layers to the byte as they came.

``docker-archive`` is what ``docker save`` writes since Docker 25: an OCI layout (image-spec, image-layout.md) that has
Docker's ``manifest.json`` too, so that older ones, podman and skopeo read it as well. Layers are plain by default, as
Docker's are: then their names are their diffIDs, and the image has the same id after a load.

Each layer is made and checked before the first byte of it goes out (:mod:`core.images.outgoing`), while the one before
is on its way. A file has its name only once it is whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from core.errors import Conflict, InvalidArgument
from core.images import compress, reference, target
from core.images.manifest import MANIFESTS
from core.images.outgoing import OutBlob, Watch, expected, layer_blob, leased, stoppable
from core.images.progress import Progress, watched
from core.images.tar import BLOCK
from core.images.tarwrite import END, file_header
from core.model import Image, Watcher

if TYPE_CHECKING:
    from core.images.store import ImageStore

DOCKER, OCI, FOLDER = "docker-archive", "oci-archive", "oci-dir"
FORMS = (DOCKER, OCI, FOLDER)
_CONFIG = "application/vnd.oci.image.config.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass
class Chosen:
    """An image to be saved, with the names that it is to have in the archive (full references)."""

    image: Image
    names: list[str] = field(default_factory=list)


async def choose(store: ImageStore, refs: Sequence[str]) -> list[Chosen]:
    """The images that ``refs`` mean: a bare repository means all its tags, an id no name.

    :raises NotFound: one of them does not exist
    """
    found: dict[str, Chosen] = {}
    for ref in refs:
        wanted = [ref]
        with contextlib.suppress(InvalidArgument):  # an id
            if reference.is_bare(ref):
                wanted = store.tags_of(reference.parse(ref).name) or [ref]
        for one in wanted:
            image = await store.get(one)
            chosen = found.setdefault(image.id, Chosen(image))
            with contextlib.suppress(InvalidArgument):
                name = str(reference.parse(one))
                if name in image.tags and name not in chosen.names:
                    chosen.names.append(name)
    return list(found.values())


async def save(
    store: ImageStore,
    refs: Sequence[str],
    place: int | Path,
    form: str = DOCKER,
    compression: str = compress.PLAIN,
    watch: Watcher | None = None,
) -> list[Image]:
    """See :meth:`core.engine_images.ImageEngine.save`.

    :raises NotFound: no such image
    :raises Corrupt: a layer whose files have changed
    :raises InvalidArgument: :raises Conflict: the target
    :raises OSError: the disk is full, or nobody reads any more
    """
    compress.check_method(compression)
    if form not in FORMS:
        raise InvalidArgument(f"unknown format {form!r}", f"it is one of {', '.join(FORMS)}", "Name one")
    chosen = await choose(store, refs)
    images = [item.image for item in chosen]
    with leased(store, images) as keys:
        configs = {image.id: store.config_of(image.id) for image in images}
        progress = Progress(reference.parse(name).familiar if (name := _told(chosen)) else images[0].short_id, "")
        async with _opened(place, form) as out:
            saving = _Saving(store, out, compression, keys, progress if watch else None)
            await watched(progress, saving.run(chosen, configs, docker=form == DOCKER), watch)
    return images


def _told(chosen: Sequence[Chosen]) -> str:
    """A name for the whole: that of the first that has one."""
    return next((name for item in chosen for name in item.names), "")


class Out(Protocol):
    """Where members go."""

    def file(self, name: str, size: int, watch: Watch) -> contextlib.AbstractContextManager[int]:
        """A descriptor for exactly ``size`` bytes."""
        ...

    def end(self, watch: Watch) -> None:
        """All are written."""


class _Saving:
    def __init__(
        self,
        store: ImageStore,
        out: Out,
        compression: str,
        keys: Mapping[str, Sequence[str]],
        progress: Progress | None,
    ) -> None:
        self._progress = progress
        self._store = store
        self._keys = keys
        self._out = out
        self._compression = compression
        self._written: set[str] = set()  # digests

    async def run(self, chosen: Sequence[Chosen], configs: Mapping[str, bytes], *, docker: bool) -> None:
        blobs = await self._layers(chosen)
        index, entries = [], []
        for item in chosen:
            layers = [blobs[diffid] for diffid in item.image.layers]
            descriptor = await self._blob(configs[item.image.id], _CONFIG)
            manifest = {"schemaVersion": 2, "mediaType": MANIFESTS[0], "config": descriptor, "layers": layers}
            described = await self._blob(_json(manifest), MANIFESTS[0])
            index += [{**described, "annotations": _annotations(name)} for name in item.names] or [described]
            entries.append(
                {
                    "Config": _path(descriptor["digest"]),
                    "RepoTags": [reference.parse(name).familiar for name in item.names] or None,
                    "Layers": [_path(layer["digest"]) for layer in layers],
                }
            )
        await self._plain("oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        await self._plain("index.json", _json({"schemaVersion": 2, "mediaType": _INDEX, "manifests": index}))
        if docker:
            await self._plain("manifest.json", _json(entries))
        await stoppable(self._out.end)

    async def _layers(self, chosen: Sequence[Chosen]) -> dict[str, dict[str, Any]]:
        """Write every layer once; returns their descriptors by diffID."""
        wanted: dict[str, tuple[Image, int]] = {}
        for item in chosen:
            for position, diffid in enumerate(item.image.layers):
                wanted.setdefault(diffid, (item.image, position))
        found: dict[str, dict[str, Any]] = {}
        if self._progress is not None:
            folders = [self._store.layers.folder(self._keys[image.id][at]) for image, at in wanted.values()]
            sizes = await asyncio.to_thread(lambda: [expected(folder) for folder in folders])
            self._progress.begin(list(zip(wanted, sizes, strict=True)))
        async with contextlib.aclosing(self._ahead(list(wanted.values()))) as blobs:
            async for blob in blobs:
                number = len(found)
                self._mark(number, "writing")
                found[blob.diffid] = {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}
                await stoppable(lambda watch, blob=blob: self._copy(blob, watch))  # type: ignore[misc]
                self._mark(number, "done")
        return found

    def _mark(self, number: int, phase: str) -> None:
        if self._progress is not None:
            self._progress.phase(number, phase)

    async def _ahead(self, wanted: Sequence[tuple[Image, int]]) -> AsyncGenerator[OutBlob, None]:
        """The blobs in order; the next is made while one is in use."""

        def begin(number: int) -> asyncio.Task[OutBlob]:
            image, position = wanted[number]
            key = self._keys[image.id][position]

            def read(done: int) -> None:
                if self._progress is not None:
                    self._progress.set(number, "preparing", done)

            work = layer_blob(self._store, image, position, key=key, compression=self._compression, progress=read)
            return asyncio.create_task(work)

        task = begin(0) if wanted else None
        number = 0
        try:
            while task is not None:
                blob = await task
                number += 1
                task = begin(number) if number < len(wanted) else None
                with blob:
                    yield blob
        finally:
            if task is not None:
                task.cancel()
                done = await asyncio.gather(task, return_exceptions=True)
                if isinstance(done[0], OutBlob):
                    done[0].close()

    def _copy(self, blob: OutBlob, watch: Watch) -> None:
        if blob.digest in self._written:
            return
        self._written.add(blob.digest)
        with self._out.file(_path(blob.digest), blob.size, watch) as fd:
            target.copy(fd, blob.fd, blob.size, watch)

    async def _blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if digest not in self._written:
            self._written.add(digest)
            await self._plain(_path(digest), data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    async def _plain(self, name: str, data: bytes) -> None:
        def work(watch: Watch) -> None:
            with self._out.file(name, len(data), watch) as fd:
                target.write(fd, data, watch)

        await stoppable(work)


def _annotations(name: str) -> dict[str, str]:
    """As containerd and Docker name the images of a layout."""
    tag = reference.parse(name).tag
    return {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag}


def _path(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


# -- where to ---------------------------------------------------------------------------------------------------


class _Tar:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    @contextlib.contextmanager
    def file(self, name: str, size: int, watch: Watch) -> Iterator[int]:
        target.write(self._fd, file_header(name, size), watch)
        yield self._fd
        target.write(self._fd, bytes(-size % BLOCK), watch)

    def end(self, watch: Watch) -> None:
        target.write(self._fd, END, watch)


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def file(self, name: str, size: int, watch: Watch) -> Iterator[int]:
        place = self._path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            yield fd
        finally:
            os.close(fd)

    def end(self, watch: Watch) -> None:
        """The folder has it all."""


@contextlib.asynccontextmanager
async def _opened(place: int | Path, form: str) -> AsyncIterator[Out]:
    if form != FOLDER:
        async with target.opened(place) as fd:
            yield _Tar(fd)
        return
    if isinstance(place, int):
        raise InvalidArgument("a layout folder cannot go into a stream", "it has many files", "Name one with -o")
    with _new_folder(place.absolute()) as out:
        yield out


@contextlib.contextmanager
def _new_folder(place: Path) -> Iterator[Out]:
    target.check_folder(place)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise Conflict(f"cannot write {place}", "it exists, and is not an empty folder", "Name a new one")
    beside = target.name_beside(place)
    beside.mkdir(mode=0o755)
    try:
        yield _Folder(beside)
        os.rename(beside, place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
