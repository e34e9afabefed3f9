"""Send an image to a registry.

What the registry has is not sent: each layer is looked for under every digest that it was seen to have in some
registry, then asked to be taken over from another repository there, and only then compressed and uploaded. Where all
layers are found as they came, the manifest goes as it came, and the digest stays.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import Corrupt, InvalidArgument, NotFound, Unavailable, WharfError
from core.images import manifest, outgoing, reference
from core.images.manifest import Descriptor, Manifest
from core.images.progress import Pushed, PushState
from core.images.reference import Reference
from core.images.registry import Registry
from core.images.upload import Uploader
from core.model import Image
from core.store.config import load

if TYPE_CHECKING:
    from core.images.store import ImageStore

_AT_ONCE = 4  # layers under way
_COMPRESSING = 2  # of these; each uses several processors
_MOST_DIGESTS = 4  # that a layer is looked for under
_OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True)
class Known:
    """A layer's blob in some repository."""

    blob: Descriptor
    domain: str
    path: str


def known_blobs(store: ImageStore) -> dict[str, list[Known]]:
    """Blobs by diffID, as the kept manifests of pulled and pushed images have them, where that is known to be true."""
    found: defaultdict[str, list[Known]] = defaultdict(list)
    seen = {
        (row["diffid"], row["digest"])
        for row in store.store.disk.read("SELECT diffid, digest FROM layer_blob JOIN layer ON layer.id = layer")
    }
    rows = store.store.disk.read(
        "SELECT reference, image.id, manifest_digest FROM repo_digest JOIN image ON image.id = image"
        " WHERE manifest_digest <> '' ORDER BY reference"
    )
    for row in rows:
        try:
            data, config = store.content.read(row["manifest_digest"]), store.content.read(row["id"])
            document = manifest.parse(data) if data else None
            if not isinstance(document, Manifest) or config is None:
                continue
            name = reference.parse(row["reference"])
            for diffid, blob in zip(manifest.parse_config(config).diffids, document.layers, strict=False):
                if (diffid, blob.digest) in seen:
                    found[diffid].append(Known(blob, name.domain, name.path))
        except WharfError:
            continue  # damaged, or no image: no help
    return found


class _Push:
    """One image on its way to one repository."""

    def __init__(self, store: ImageStore, image: Image, registry: Registry, state: PushState, compression: str) -> None:
        self._store = store
        self._image = image
        self._registry = registry
        self._state = state
        self._compression = compression
        self._uploader = Uploader(registry)
        self._known: dict[str, list[Known]] = {}
        self._keys: list[str] = []
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._compressing = asyncio.Semaphore(_COMPRESSING)

    async def run(self, tag: str) -> Pushed:
        """Layers and configuration side by side, the manifest when all is there."""
        with outgoing.leased(self._store, [self._image]) as keys:
            self._keys = keys[self._image.id]
            return await self._run(tag)

    async def _run(self, tag: str) -> Pushed:
        self._known = await asyncio.to_thread(known_blobs, self._store)
        diffids = self._image.layers
        self._state.begin(diffids)
        config = self._store.config_of(self._image.id)
        positions = {diffid: position for position, diffid in enumerate(diffids)}  # one may be there twice
        tasks = {diffid: asyncio.create_task(self._layer(position)) for diffid, position in positions.items()}
        last = asyncio.create_task(self._small(config))
        try:
            done, _ = await asyncio.wait([*tasks.values(), last], return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in (*tasks.values(), last):
                task.cancel()
            await asyncio.gather(*tasks.values(), last, return_exceptions=True)
        layers = [tasks[diffid].result() for diffid in diffids]
        data, kind, digest = await self._manifest(config, layers, tag)
        await self._record(data, kind, digest)
        return Pushed(digest, len(data))

    async def _small(self, data: bytes) -> None:
        if await self._uploader.exists(self._image.id):
            return
        with tempfile.TemporaryFile(dir=self._store.content.parts) as file:  # nameless: nothing there to be swept up
            file.write(data)
            file.flush()
            path = Path(f"/proc/self/fd/{file.fileno()}")
            await self._uploader.upload(path, self._image.id, len(data), lambda _: None)

    # -- one layer ----------------------------------------------------------------------------------------------
    async def _layer(self, position: int) -> Descriptor:
        async with self._slots:
            diffid = self._image.layers[position]
            self._state.set(diffid, "preparing")
            known = [one for one in self._known.get(diffid, []) if self._suits(one.blob)]
            blobs = list({one.blob.digest: one.blob for one in known}.values())[:_MOST_DIGESTS]
            for blob in blobs:
                if await self._uploader.exists(blob.digest):
                    self._state.set(diffid, "exists", blob.size, blob.size)
                    return blob
            mounted, location = await self._mount(diffid, known)
            return mounted or await self._make(position, diffid, location)

    def _suits(self, blob: Descriptor) -> bool:
        """Whether a blob is compressed as asked for; any is right where nothing was asked."""
        suffix = {"gzip": ("+gzip", ".gzip"), "zstd": ("+zstd", ".zstd"), "none": (".tar",)}
        return not self._compression or blob.media_type.endswith(suffix[self._compression])

    async def _mount(self, diffid: str, known: list[Known]) -> tuple[Descriptor | None, str]:
        """(the blob, once it is taken over; else the upload that the registry has begun in place of that)."""
        name, begun = self._registry.reference, ""
        for one in known:
            if one.domain != name.domain or one.path == name.path:
                continue
            done, location = await self._uploader.mount(one.blob.digest, one.path)
            if done:
                self._state.set(diffid, "mounted", one.blob.size, one.blob.size, one.path)
                return one.blob, ""
            begun = begun or location
        return None, begun

    async def _make(self, position: int, diffid: str, location: str) -> Descriptor:
        async with self._compressing:
            made = await outgoing.layer_blob(
                self._store,
                self._image,
                position,
                key=self._keys[position],
                compression=self._compression or "gzip",
            )
        with made:
            blob = Descriptor(made.media_type, made.digest, made.size)
            await self._store.store.disk.run(lambda: self._store.layers.seen(diffid, made.digest))
            if await self._uploader.exists(made.digest):
                self._state.set(diffid, "exists", made.size, made.size)
                return blob
            self._state.set(diffid, "pushing", 0, made.size)

            def report(done: int) -> None:
                self._state.set(diffid, "pushing", done, made.size)

            await self._uploader.upload(made.path, made.digest, made.size, report, location)
        self._state.set(diffid, "done", made.size, made.size)
        return blob

    # -- the manifest -------------------------------------------------------------------------------------------
    async def _manifest(self, config: bytes, layers: list[Descriptor], tag: str) -> tuple[bytes, str, str]:
        if (kept := self._kept()) and [layer.digest for layer in kept[1].layers] == [layer.digest for layer in layers]:
            data, kind = kept[0], str(manifest.read_json(kept[0]).get("mediaType") or manifest.MANIFESTS[0])
            return data, kind, await self._put(data, kind, tag)
        oci, docker = manifest.MANIFESTS
        data = self._write(config, layers, oci=True)
        try:
            return data, oci, await self._put(data, oci, tag)
        except Unavailable:
            # Some registries have never heard of OCI; docker's form has no word for zstd.
            if any("zstd" in layer.media_type for layer in layers):
                raise
            data = self._write(config, layers, oci=False)
            return data, docker, await self._put(data, docker, tag)

    def _kept(self) -> tuple[bytes, Manifest] | None:
        rows = self._store.store.disk.read("SELECT manifest_digest FROM image WHERE id = ?", (self._image.id,))
        try:
            data = self._store.content.read(rows[0]["manifest_digest"]) if rows[0]["manifest_digest"] else None
            document = manifest.parse(data) if data else None
        except Corrupt:
            return None
        return (data, document) if data and isinstance(document, Manifest) else None

    def _write(self, config: bytes, layers: list[Descriptor], *, oci: bool) -> bytes:
        kind = manifest.MANIFESTS[0 if oci else 1]
        document = {
            "schemaVersion": 2,
            "mediaType": kind,
            "config": {
                "mediaType": _OCI_CONFIG if oci else _DOCKER_CONFIG,
                "digest": self._image.id,
                "size": len(config),
            },
            "layers": [
                {"mediaType": _layer_type(layer.media_type, oci=oci), "digest": layer.digest, "size": layer.size}
                for layer in layers
            ],
        }
        return json.dumps(document, indent=2).encode()

    async def _put(self, data: bytes, kind: str, tag: str) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        await self._uploader.manifest(data, kind, tag, digest)
        return digest

    async def _record(self, data: bytes, kind: str, digest: str) -> None:
        """The image is there under this digest, too; nothing where it has been removed meanwhile.

        The manifest of an image that came from a registry stays the one that is kept: others refer to it. One that came
        in an archive is not in any registry, and makes room.
        """
        name, content = f"{self._registry.reference.name}@{digest}", self._store.content
        replace = not (self._kept() and self._image.repo_digests)

        def work() -> str:
            with self._store.store.disk.write() as con:
                row = con.execute("SELECT manifest_digest FROM image WHERE id = ?", (self._image.id,)).fetchone()
                if row is None:
                    return ""
                con.execute("INSERT OR REPLACE INTO repo_digest VALUES (?, ?)", (name, self._image.id))
                if not replace or row["manifest_digest"] == digest:
                    return ""
                content.put(digest, data)
                con.execute("INSERT OR REPLACE INTO blob VALUES (?, ?, ?)", (digest, len(data), kind))
                con.execute("UPDATE image SET manifest_digest = ? WHERE id = ?", (digest, self._image.id))
                old = str(row["manifest_digest"])
                if old and not con.execute("SELECT 1 FROM image WHERE manifest_digest = ?", (old,)).fetchone():
                    con.execute("DELETE FROM blob WHERE digest = ?", (old,))
                return old

        old = await self._store.store.disk.run(work)
        # After the commit: a kill in between leaves a file without a row, which is swept up, and no row without a file.
        if old and not self._store.store.disk.read("SELECT 1 FROM blob WHERE digest = ?", (old,)):
            content.drop(old)


def _layer_type(kind: str, *, oci: bool) -> str:
    """The same compression in the other family's words."""
    suffix = next((word for word in ("gzip", "zstd") if kind.endswith(word)), "")
    if oci:
        return _OCI_LAYER + (f"+{suffix}" if suffix else "")
    return _DOCKER_LAYER + (f".{suffix}" if suffix else "")


async def push(
    store: ImageStore, name: Reference, state: PushState, *, insecure: bool = False, compression: str = ""
) -> Pushed:
    """The whole way from a tag to the registry (see :meth:`ImageStore.push`)."""
    if name.digest:
        raise InvalidArgument(f"cannot push {name.familiar}", "a digest cannot be chosen", "Name a tag")
    if compression:
        from core.images.compress import check_method

        check_method(compression)
    try:
        image = await store.get(str(name))
    except NotFound as error:
        fix = f"Name one that is here: wharf tag IMAGE {name.familiar}"
        raise NotFound(f"no image has the tag {name.familiar}", "only what is here can be pushed", fix) from error
    async with Registry(
        name, store.keyring, load(), insecure=insecure, actions="pull,push", notice=state.note
    ) as registry:
        return await _Push(store, image, registry, state, compression).run(name.tag)
