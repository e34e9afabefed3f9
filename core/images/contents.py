"""What an archive of images has in it, by its documents.

- ``docker save`` before 25: ``manifest.json`` names a configuration and ``<id>/layer.tar``, perhaps links to others.
- ``docker save`` from 25 on: the same ``manifest.json``, its paths lead into an OCI layout.
- OCI layout (image-spec, image-layout.md): ``index.json``; names in annotations.

Docker loads by ``manifest.json`` where there is one, others by ``index.json``: where both name an image, it must be the
same one, or whoever has looked at it with one program runs something else with another.
"""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.errors import Corrupt, InvalidArgument, NotFound
from core.images import manifest, reference
from core.images.layers import verify
from core.images.manifest import Descriptor, Index, Platform
from core.images.members import BLOBS, Archive, blob_name, broken

_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


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
    raise broken("it has neither manifest.json nor index.json")


def _docker_items(archive: Archive) -> list[Item]:
    documents = manifest.read_json(b'{"images":' + archive.read("manifest.json") + b"}")["images"]
    if not isinstance(documents, list) or not documents:
        raise broken("its manifest.json lists no image")
    found = [_docker_item(archive, document) for document in documents]
    if archive.has("index.json"):
        _check_agreement(archive, found)
    return found


def _docker_item(archive: Archive, document: Any) -> Item:
    config_name = document.get("Config") if isinstance(document, dict) else None
    layers = document.get("Layers") or [] if isinstance(document, dict) else None
    if not isinstance(config_name, str) or not isinstance(layers, list) or not all(isinstance(x, str) for x in layers):
        raise broken("its manifest.json is malformed")
    config = archive.read(config_name)
    image_id = f"sha256:{hashlib.sha256(config).hexdigest()}"
    stated = f"sha256:{posixpath.basename(config_name).removesuffix('.json')}"
    if reference.is_digest(stated):
        verify("the image's configuration", stated, image_id)
    pairs = []
    for name in layers:
        digest = f"sha256:{name.removeprefix(BLOBS)}"
        pairs.append((name, digest if name.startswith(BLOBS) and reference.is_digest(digest) else ""))
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
        raise broken("its index.json is not an index")
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
        raise broken("its index is empty")
    return found


def _oci_item(archive: Archive, descriptor: Descriptor) -> Item:
    for _ in range(3):
        data = archive.blob(descriptor)
        document = manifest.parse(data, descriptor.media_type)
        manifest.check_entry(descriptor, data, "")
        if not isinstance(document, Index):
            config = archive.blob(document.config)
            layers = tuple((blob_name(layer.digest), layer.digest) for layer in document.layers)
            kind = descriptor.media_type
            return Item(config, document.config.digest, layers, (), data, descriptor.digest, kind)
        descriptor = manifest.choose(document, manifest.host_platform())
    raise broken("its indexes lead to each other")


# -- two documents, one archive -------------------------------------------------------------------------------------


def _check_agreement(archive: Archive, found: Sequence[Item]) -> None:
    """:raises Corrupt: ``index.json`` has another image by a name that ``manifest.json`` gives, too"""
    index = manifest.parse(archive.read("index.json"))
    if not isinstance(index, Index):
        raise broken("its index.json is not an index")
    entries = list(zip((descriptor for descriptor, _ in index.manifests), index.annotations, strict=True))
    for descriptor, notes in entries:
        names = {name for key in _NAMES if (name := notes.get(key, "")) and (":" in name or "/" in name)}
        known = _known(names)
        alone = len(entries) == len(found) == 1  # nameless as they are: there is no other that could be meant
        for item in found:
            if known & set(item.names) or (alone and not known):
                _compare(archive, item, descriptor)


def _known(names: set[str]) -> set[str]:
    with contextlib.suppress(InvalidArgument):  # a name that nobody can use
        return set(_references(sorted(names)))
    return set()


def _compare(archive: Archive, item: Item, descriptor: Descriptor) -> None:
    other = _resolve(archive, descriptor, item)
    if other is None:
        return
    name = item.names[0] if item.names else item.image_id
    if other.config.digest != item.image_id:
        raise _two(name, f"the configuration {item.image_id}", f"{other.config.digest}")
    layers = [layer.digest for layer in other.layers]
    told = [digest for _, digest in item.layers]
    if len(layers) != len(told):
        raise _two(name, f"{len(told)} layers", f"{len(layers)}")
    for number, (one, two) in enumerate(zip(told, layers, strict=True), 1):
        if one and one != two:  # by a path of the old kind it is known by its diffID alone, which the load verifies
            raise _two(name, f"layer {number} as {one}", f"as {two}")


def _resolve(archive: Archive, descriptor: Descriptor, item: Item) -> manifest.Manifest | None:
    """The manifest for the platform of ``item``; None where the archive does not have it."""
    config = manifest.parse_config(item.config)
    for _ in range(3):
        if not archive.has(blob_name(descriptor.digest)):
            return None  # of an image for several platforms Docker saves those that it has
        data = archive.blob(descriptor)
        document = manifest.parse(data, descriptor.media_type)
        manifest.check_entry(descriptor, data, "")
        if not isinstance(document, Index):
            return document
        try:
            descriptor = manifest.choose(document, Platform(config.os, config.architecture, config.variant))
        except NotFound:
            return None
    raise broken("its indexes lead to each other")


def _two(name: str, here: str, there: str) -> Corrupt:
    return Corrupt(
        f"the archive has two images named {name}",
        f"its manifest.json has {here}, its index.json has {there}: one program would run one, another the other",
        "Do not trust it; have its maker save it again",
    )
