"""Manifests, indexes and image configurations, read strictly.

Sources: OCI image-spec v1.1 (manifest.md, image-index.md, config.md), Docker "Image Manifest V 2, Schema 2". A document
that is a manifest and an index at once means different images to different readers, and is refused (CVE-2021-41190).
``urls`` of foreign layers are ignored, so that no registry sends us elsewhere (CVE-2020-15157).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core.errors import NoPlatform, Unsupported
from core.images.config import broken, image_config, text
from core.images.reference import is_digest
from core.model import ImageConfig
from core.names import architecture

LONGEST = 4 * 1024 * 1024  # bytes of a manifest or configuration
_MOST_LAYERS = 500  # overlayfs' own limit

_DOCKER = "application/vnd.docker.distribution.manifest"
_OCI = "application/vnd.oci.image"
MANIFESTS = (f"{_OCI}.manifest.v1+json", f"{_DOCKER}.v2+json")
INDEXES = (f"{_OCI}.index.v1+json", f"{_DOCKER}.list.v2+json")
_OLD = (f"{_DOCKER}.v1+json", f"{_DOCKER}.v1+prettyjws")
ACCEPT = ", ".join((*MANIFESTS, *INDEXES))
_CONFIGS = (f"{_OCI}.config.v1+json", "application/vnd.docker.container.image.v1+json", "application/octet-stream")
_LAYERS = (f"{_OCI}.layer.", "application/vnd.docker.image.rootfs.")


@dataclass(frozen=True)
class Descriptor:
    """What one document says about another: what it is, its digest and its size in bytes."""

    media_type: str
    digest: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """One image for one platform."""

    config: Descriptor
    layers: tuple[Descriptor, ...]  # lowest first


@dataclass(frozen=True)
class Platform:
    """An operating system and processor architecture, in Go's words."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True)
class Index:
    """Several manifests, each for a platform."""

    manifests: tuple[tuple[Descriptor, Platform | None], ...]
    annotations: tuple[Mapping[str, str], ...] = ()  # of each entry


@dataclass(frozen=True)
class Config:
    """An image configuration. ``created`` in seconds since the epoch."""

    created: float
    architecture: str
    os: str
    diffids: tuple[str, ...]
    image: ImageConfig
    variant: str = ""


def host_platform() -> Platform:
    """What this machine runs."""
    machine = os.uname().machine
    variant = {"armv7l": "v7", "armv6l": "v6"}.get(machine, "")
    return Platform("linux", architecture(machine), variant)


def read_json(data: bytes) -> dict[str, Any]:
    """The object in ``data``.

    :raises Corrupt: too long, too deep, not JSON, not an object, or one that says something twice: readers differ in
        which of the two counts
    """
    if len(data) > LONGEST:
        raise broken(f"it has {len(data)} bytes; at most {LONGEST} are allowed")
    try:
        document = json.loads(data.decode(), object_pairs_hook=_once)  # RFC 8259: UTF-8 and nothing else
    except (ValueError, RecursionError) as error:
        raise broken(f"it is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise broken("it is not a JSON object")
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise broken(f"it says {twice[:100]!r} twice")
    return found


def _spelled(document: Mapping[str, Any], *names: str) -> None:
    """Go reads ``Layers`` as ``layers``, and of both the last: to the readers of others it would be another document.

    :raises Corrupt: one of ``names`` is there in other letters
    """
    for key in document:
        if key not in names and key.lower() in (name.lower() for name in names):
            raise broken(f"it says {key!r}, which some would read as another field")


def _descriptor(data: Any) -> Descriptor:
    if not isinstance(data, dict):
        raise broken("a descriptor is not an object")
    _spelled(data, "digest", "size", "mediaType", "platform")
    digest, size, media_type = data.get("digest"), data.get("size"), data.get("mediaType", "")
    if not is_digest(digest):
        raise broken(f"{str(digest)[:100]!r} is not a sha256 digest")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**60 or not isinstance(media_type, str):
        raise broken(f"the descriptor of {digest} has no proper size or media type")
    return Descriptor(media_type, str(digest), size)


def _list(document: Mapping[str, Any], key: str, most: int) -> list[Any]:
    found = document.get(key)
    if not isinstance(found, list) or len(found) > most:
        raise broken(f"{key!r} is missing or has more than {most} items")
    return found


def parse(data: bytes, content_type: str = "") -> Manifest | Index:
    """Read a manifest or an index.

    :param content_type: what the registry called it; where both name a type they must agree
    :raises Corrupt: malformed or ambiguous
    :raises Unsupported: a format that is not an image, or too old
    """
    document = read_json(data)
    _spelled(document, "schemaVersion", "mediaType", "config", "layers", "manifests")
    content_type = content_type.partition(";")[0].strip().lower()
    media_type = document.get("mediaType") or ""
    if document.get("schemaVersion") == 1 or content_type in _OLD:
        raise Unsupported("the image is in Docker's schema 1", "it is of before 2016", "Have its maker push it again")
    if document.get("schemaVersion") != 2 or not isinstance(media_type, str):
        raise broken("its schemaVersion is not 2")
    known = (*MANIFESTS, *INDEXES)
    if media_type in known and content_type in known and media_type != content_type:
        raise broken(f"it says {media_type}, the registry says {content_type}")
    is_index, is_manifest = "manifests" in document, "layers" in document or "config" in document
    kind = media_type or content_type
    if is_index == is_manifest or (is_index and kind in MANIFESTS) or (is_manifest and kind in INDEXES):
        raise broken("it is neither clearly a manifest nor clearly an index")
    return _index(document) if is_index else _manifest(document)


def _manifest(document: Mapping[str, Any]) -> Manifest:
    config = _descriptor(document.get("config"))
    layers = tuple(_descriptor(item) for item in _list(document, "layers", _MOST_LAYERS))
    if config.media_type not in _CONFIGS or any(not item.media_type.startswith(_LAYERS) for item in layers):
        kind = document.get("artifactType") or config.media_type
        raise Unsupported("that is not a container image", f"it is an artifact of type {kind}", "Name an image")
    if any(item.media_type.endswith("+encrypted") for item in layers):
        raise Unsupported("the image is encrypted", "its layers are of an encrypted type", "Decrypt it with skopeo")
    return Manifest(config, layers)


def _index(document: Mapping[str, Any]) -> Index:
    entries, notes = [], []
    for item in _list(document, "manifests", 10_000):
        descriptor = _descriptor(item)
        platform = item.get("platform")
        found = None
        if isinstance(platform, dict):
            found = Platform(*(str(platform.get(key, "")) for key in ("os", "architecture", "variant")))
        annotations = item.get("annotations")
        entries.append((descriptor, found))
        notes.append({str(k): str(v) for k, v in annotations.items()} if isinstance(annotations, dict) else {})
    return Index(tuple(entries), tuple(notes))


def choose(index: Index, wanted: Platform) -> Descriptor:
    """The entry for ``wanted``: the same variant, else none, else the nearest below it, else the first of the
    architecture.

    :raises NoPlatform: none; ``why`` lists what there is
    """
    candidates: list[tuple[int, int, Descriptor]] = []
    for descriptor, platform in index.manifests:
        if descriptor.media_type and descriptor.media_type not in (*MANIFESTS, *INDEXES):
            continue  # something that goes with the images (image-index.md: what is unknown is passed over)
        if platform is None:
            if len(index.manifests) == 1:
                return descriptor
        elif (platform.os, platform.architecture) == (wanted.os, wanted.architecture):
            candidates.append((_distance(platform.variant, wanted.variant), len(candidates), descriptor))
    if candidates:
        return min(candidates)[2]
    there = ", ".join(str(platform) for _, platform in index.manifests if platform and platform.os != "unknown")
    raise NoPlatform(f"the image does not exist for {wanted}", f"it exists for {there or 'no platform'}", "Use another")


def _distance(variant: str, wanted: str) -> int:
    """How far from what was wanted: a processor runs what was made for its elders (arm v7: v6), not its successors."""
    if variant == wanted:
        return 0
    if not variant:
        return 1
    have, want = variant.removeprefix("v"), wanted.removeprefix("v")
    if have.isdigit() and want.isdigit() and int(have) < int(want):
        return 1 + int(want) - int(have)
    return 100


def check_entry(entry: Descriptor, data: bytes, kind: str) -> None:
    """Is ``data`` what the index says of it? Its digest is checked elsewhere.

    :param kind: its media type
    :raises Corrupt: size or media type differ
    """
    if len(data) != entry.size:
        raise broken(f"an index says that {entry.digest} has {entry.size} bytes, and it has {len(data)}")
    stated = read_json(data).get("mediaType") or kind.partition(";")[0]
    if entry.media_type and stated and stated != entry.media_type:
        raise broken(f"an index says that {entry.digest} is {entry.media_type}, and it is {stated}")


def parse_config(data: bytes) -> Config:
    """Read an image configuration.

    :raises Corrupt: malformed
    """
    document = read_json(data)
    rootfs = document.get("rootfs")
    _spelled(document, "rootfs", "config")
    _spelled(rootfs if isinstance(rootfs, dict) else {}, "diff_ids")
    diffids = _list(rootfs, "diff_ids", _MOST_LAYERS) if isinstance(rootfs, dict) else []
    if not all(is_digest(diffid) for diffid in diffids):
        raise broken("a diff_id of its configuration is not a sha256 digest")
    config = document.get("config")
    config = {} if config is None else config
    if not isinstance(config, dict):
        raise broken("its configuration has no proper 'config'")
    return Config(
        created=moment(document.get("created")),
        architecture=text(document, "architecture"),
        os=text(document, "os"),
        diffids=tuple(diffids),
        image=image_config(config),
        variant=text(document, "variant"),
    )


def moment(value: Any) -> float:
    """Seconds since the epoch of an RFC 3339 time; 0 where it is none, or Go's year 1."""
    if not isinstance(value, str) or not value:
        return 0.0
    try:
        return max(datetime.fromisoformat(value).timestamp(), 0.0)  # year 1 is Go's zero
    except (ValueError, OverflowError):
        return 0.0
