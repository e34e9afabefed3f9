"""Images from files: ``docker save`` archives (of every version), OCI archives, OCI layout folders.

An archive is a tar, plain or compressed; a compressed one is first unpacked into a nameless file, so that every format
below is read by position. Nothing of it is ever extracted by name: members are looked up in an index, and a layer is
unpacked straight from its place in the archive (CVE-2025-11395: archives whose members are links to the host's files).

- ``docker save`` before 25: ``manifest.json`` names a configuration and ``<id>/layer.tar``, perhaps links to others.
- ``docker save`` from 25 on: the same ``manifest.json``, its paths lead into an OCI layout.
- OCI layout (image-spec, image-layout.md): ``index.json``; names in annotations.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import posixpath
import stat
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import Corrupt, NotFound
from core.images import manifest, reference, spool
from core.images.assemble import Assembly, Wanted, wanted_layers
from core.images.layers import Staging, verify
from core.images.manifest import LONGEST, Descriptor, Index
from core.images.progress import Progress, report
from core.images.records import NewImage
from core.images.unpackers import Result, Unpackers
from core.kernel.resolve import BENEATH, NO_SYMLINKS, open_in_root
from core.model import Image, PullProgress

if TYPE_CHECKING:
    from core.images.store import ImageStore

_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_BLOBS = "blobs/sha256/"


def _broken(why: str) -> Corrupt:
    return Corrupt("that is not an archive of images", why, "Make it with `docker save` or skopeo")


@dataclass(frozen=True)
class Place:
    """Where a member's bytes are."""

    fd: int
    offset: int
    size: int


class Archive:
    """Members by name; closes its descriptors with :meth:`close`."""

    def __init__(self, find: Callable[[str], Place | None], fds: list[int]) -> None:
        self._find = find
        self._fds = fds

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def place(self, name: str) -> Place:
        """:raises Corrupt: no such member"""
        found = self._find(name)
        if found is None:
            raise _broken(f"it has no {name!r}")
        return found

    def has(self, name: str) -> bool:
        return self._find(name) is not None

    def read(self, name: str) -> bytes:
        """A small member; one below ``blobs/sha256`` must have the digest that its name says.

        :raises Corrupt:
        """
        place = self.place(name)
        if place.size > LONGEST:
            raise _broken(f"{name!r} has {place.size} bytes")
        data = os.pread(place.fd, place.size, place.offset)
        if name.startswith(_BLOBS):
            verify(f"{name!r} of the archive", name.removeprefix(_BLOBS), hashlib.sha256(data).hexdigest())
        return data

    def blob(self, descriptor: Descriptor) -> bytes:
        return self.read(_blob_name(descriptor.digest))


def _blob_name(digest: str) -> str:
    return _BLOBS + digest.removeprefix("sha256:")


def open_archive(source: Path, folder: Path, stopped: Callable[[], bool]) -> Archive:
    """Open a file or folder; takes as long as decompressing it.

    :param folder: where a compressed archive is unpacked to, without a name
    :raises NotFound: no such file
    :raises Corrupt: neither a tar nor a layout
    """
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"no such file: {source}", "there is nothing to load", "Check the path") from error
    fds = [fd]
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            return Archive(_Folder(fd, fds).find, fds)
        plain = spool.plain_file(fd, folder, stopped)
        if plain != fd:
            fds.append(plain)
        index = spool.index(plain)
        return Archive(lambda name: _member(index, plain, name), fds)
    except BaseException:
        for opened in fds:
            os.close(opened)
        raise


class _Folder:
    """Members of a layout folder: regular files below it, never through a link."""

    def __init__(self, root: int, fds: list[int]) -> None:
        self._root = root
        self._fds = fds
        self._known: dict[str, Place] = {}

    def find(self, name: str) -> Place | None:
        if name not in self._known:
            try:
                flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
                fd = open_in_root(self._root, name, flags, resolve=BENEATH | NO_SYMLINKS)
            except OSError:
                return None
            self._fds.append(fd)
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return None
            self._known[name] = Place(fd, 0, status.st_size)
        return self._known[name]


def _member(index: dict[str, spool.Member], fd: int, name: str) -> Place | None:
    for _ in range(8):  # docker save links layers that are equal
        member = index.get(posixpath.normpath(name))
        if member is None:
            return None
        if not member.link:
            return Place(fd, member.offset, member.size)
        name = member.link
    return None


# -- what is in it ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """One image of an archive: its documents and where its layers lie."""

    config: bytes
    image_id: str
    layers: tuple[tuple[str, str], ...]  # (member's name, its digest or "")
    names: tuple[str, ...]  # full references
    manifest: bytes = b""
    manifest_digest: str = ""
    manifest_type: str = ""


def items(archive: Archive) -> list[Item]:
    """The images for this machine.

    :raises Corrupt: malformed
    :raises NotFound: it only has images for other machines
    """
    if archive.has("manifest.json"):
        return _docker_items(archive)
    if archive.has("index.json"):
        return _oci_items(archive)
    raise _broken("it has neither manifest.json nor index.json")


def _docker_items(archive: Archive) -> list[Item]:
    documents = manifest.read_json(b'{"images":' + archive.read("manifest.json") + b"}")["images"]
    if not isinstance(documents, list) or not documents:
        raise _broken("its manifest.json lists no image")
    return [_docker_item(archive, document) for document in documents]


def _docker_item(archive: Archive, document: Any) -> Item:
    config_name = document.get("Config") if isinstance(document, dict) else None
    layers = document.get("Layers") or [] if isinstance(document, dict) else None
    if not isinstance(config_name, str) or not isinstance(layers, list) or not all(isinstance(x, str) for x in layers):
        raise _broken("its manifest.json is malformed")
    config = archive.read(config_name)
    image_id = f"sha256:{hashlib.sha256(config).hexdigest()}"
    stated = f"sha256:{posixpath.basename(config_name).removesuffix('.json')}"
    if reference.is_digest(stated):
        verify("the image's configuration", stated, image_id)
    pairs = []
    for name in layers:
        digest = f"sha256:{name.removeprefix(_BLOBS)}"
        pairs.append((name, digest if name.startswith(_BLOBS) and reference.is_digest(digest) else ""))
    tags = document.get("RepoTags") or []
    return Item(config, image_id, tuple(pairs), _references(tags if isinstance(tags, list) else []))


def _references(names: Sequence[Any]) -> tuple[str, ...]:
    found = []
    for name in names:
        parsed = reference.parse(str(name))
        if not parsed.digest:
            found.append(str(parsed))
    return tuple(dict.fromkeys(found))


def _oci_items(archive: Archive) -> list[Item]:
    index = manifest.parse(archive.read("index.json"))
    if not isinstance(index, Index):
        raise _broken("its index.json is not an index")
    here = manifest.host_platform()
    found = []
    for (descriptor, platform), notes in zip(index.manifests, index.annotations, strict=True):
        if platform and (platform.os, platform.architecture) != (here.os, here.architecture):
            continue
        item = _oci_item(archive, descriptor)
        name = next((notes[key] for key in _NAMES if key in notes), "")
        # A bare word is only a tag (image-layout.md); which repository it belongs to nobody says.
        names = _references([name]) if ":" in name or "/" in name else ()
        found.append(replace(item, names=names))
    if not found:
        manifest.choose(index, here)  # says what there is
        raise _broken("its index is empty")
    return found


def _oci_item(archive: Archive, descriptor: Descriptor) -> Item:
    for _ in range(3):
        data = archive.blob(descriptor)
        document = manifest.parse(data, descriptor.media_type)
        if not isinstance(document, Index):
            config = archive.blob(document.config)
            layers = tuple((_blob_name(layer.digest), layer.digest) for layer in document.layers)
            kind = descriptor.media_type
            return Item(config, document.config.digest, layers, (), data, descriptor.digest, kind)
        descriptor = manifest.choose(document, manifest.host_platform())
    raise _broken("its indexes lead to each other")


# -- the way into the store -------------------------------------------------------------------------------------


async def load(store: ImageStore, source: Path) -> AsyncGenerator[PullProgress, None]:
    """See :meth:`ImageStore.load`."""
    yield PullProgress(str(source), message="Reading the archive")
    archive = await _opened(store, source)
    unpackers = Unpackers(store.inst)
    try:
        for item in await asyncio.to_thread(items, archive):
            progress = Progress(item.names[0] if item.names else item.image_id, "")
            work = _load_one(store, archive, item, unpackers, progress)
            async with contextlib.aclosing(report(progress, work)) as steps:
                async for step in steps:
                    yield step
    finally:
        await unpackers.close(wait=False)
        archive.close()


async def _opened(store: ImageStore, source: Path) -> Archive:
    stop = False
    work = asyncio.create_task(asyncio.to_thread(open_archive, source, store.content.parts, lambda: stop))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop = True  # a thread cannot be cancelled, only asked
        await asyncio.gather(work, return_exceptions=True)
        raise


async def _load_one(store: ImageStore, archive: Archive, item: Item, unpackers: Unpackers, progress: Progress) -> Image:
    config = manifest.parse_config(item.config)
    if len(config.diffids) != len(item.layers):
        raise _broken(f"it has {len(item.layers)} layers for an image of {len(config.diffids)}")
    places = [archive.place(name) for name, _ in item.layers]
    sizes = [(digest, place.size) for (_, digest), place in zip(item.layers, places, strict=True)]

    async def obtain(wanted: Wanted, staging: Staging) -> Result:
        place = places[wanted.position]

        def done(count: int) -> None:
            progress.set(wanted.position, "unpacking", count)

        done(0)
        result = await unpackers.unpack(place.fd, place.offset, place.size, staging.fd, None, done)
        if wanted.blob:
            verify(f"layer {wanted.position + 1}", wanted.blob, result.blob)
        return result

    while True:
        keys = await Assembly(store, unpackers, progress).run(wanted_layers(config.diffids, sizes), obtain)
        new = NewImage(
            id=item.image_id,
            config=item.config,
            manifest=item.manifest,
            manifest_digest=item.manifest_digest,
            manifest_type=item.manifest_type,
            layers=keys,
            tags=item.names,
            digests=(),
        )
        if image := await store.commit(new):
            return image
