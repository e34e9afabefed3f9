"""Words about what images, containers and volumes occupy, and about removing what nobody needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.model.container import Container
from core.model.image import Image
from core.names import has_label, name_matches


@dataclass(frozen=True)
class ImageFilter:
    """Which images; what is left at its default lets every one through. Times are seconds since the epoch."""

    dangling: bool | None = None  # without a tag
    labels: tuple[str, ...] = ()  # all of these: KEY or KEY=VALUE
    without_labels: tuple[str, ...] = ()  # none of these
    before: tuple[float, ...] = ()  # made before any of these
    since: tuple[float, ...] = ()  # made after any of these
    until: float | None = None  # made before this
    references: tuple[str, ...] = ()  # named by any of these patterns

    def passes(self, image: Image) -> bool:
        labels = image.config.labels
        names = (*image.tags, *image.repo_digests)
        return (
            (self.dangling is None or self.dangling is not bool(image.tags))
            and all(has_label(labels, text) for text in self.labels)
            and not any(has_label(labels, text) for text in self.without_labels)
            and (not self.before or any(image.created < when for when in self.before))
            and (not self.since or any(image.created > when for when in self.since))
            and (self.until is None or image.created < self.until)
            and (not self.references or any(name_matches(name, text) for name in names for text in self.references))
        )


@dataclass(frozen=True)
class PruneRule:
    """Which images to remove. Those that containers use always stay."""

    all: bool = False  # not only those without a tag
    only: ImageFilter = ImageFilter()
    unused_for: float | None = None  # seconds since a container was last made, started or removed; a new image counts
    # from when it came
    keep: int = 0  # of each repository the newest images stay: this many
    among: frozenset[str] | None = None  # ids: no others go, whatever came since somebody was shown these
    dry_run: bool = False


@dataclass(frozen=True)
class Pruned:
    """What was removed, or would be."""

    images: tuple[Image, ...] = ()
    lines: tuple[str, ...] = ()  # ``untagged: …``, ``deleted: …``
    reclaimed: int = 0  # bytes on the disk
    kept: tuple[str, ...] = ()  # what could not be removed, and why


@dataclass(frozen=True)
class ImageUse:
    """Bytes on the disk of one image: of layers that others have too, and of what is its own."""

    image: Image
    shared: int
    unique: int
    containers: tuple[str, ...]  # names
    layers: tuple[int, ...] = ()  # bytes of each layer, lowest first

    @property
    def size(self) -> int:
        return self.shared + self.unique


@dataclass(frozen=True)
class ContainerUse:
    """Bytes on the disk of one container: its writable layer, configuration and checkpoints; its logs."""

    container: Container
    size: int
    logs: int


@dataclass(frozen=True)
class VolumeUse:
    """Bytes on the disk of one volume, and the names of the containers that have it."""

    name: str
    size: int
    containers: tuple[str, ...]


@dataclass(frozen=True)
class DiskUsage:
    """What the data root occupies: allocated blocks, of a file with several names once. The parts add up to it."""

    images: tuple[ImageUse, ...]
    containers: tuple[ContainerUse, ...]
    volumes: tuple[VolumeUse, ...]
    images_size: int  # all layers and documents of images, each once
    other: tuple[tuple[str, int], ...]  # what belongs to none: unfinished downloads, the database, folders
    images_reclaimable: int = 0  # of these: what only images without a container have
    build_cache: int = 0

    @property
    def logs(self) -> int:
        return sum(box.logs for box in self.containers)

    @property
    def total(self) -> int:
        """Bytes; what ``du -s`` says of the data root."""
        boxes = sum(box.size + box.logs for box in self.containers)
        rest = sum(volume.size for volume in self.volumes) + sum(size for _, size in self.other)
        return self.images_size + boxes + rest + self.build_cache


@dataclass(frozen=True)
class Damage:
    """Something in the store that is not as it should be."""

    kind: str  # blob, layer, image, database, leftover
    id: str
    why: str
    images: tuple[str, ...] = ()  # names of the images that it is part of
    done: str = ""  # what was done about it; empty: nothing
    mended: bool = False


@dataclass(frozen=True)
class Remains:
    """What pulls, loads and imports that were broken off have left of layers. Sizes in bytes on the disk."""

    half: int = 0  # half-made layers, which the next thorough recovery or prune takes away
    half_size: int = 0
    whole: int = 0  # layers without an image, which wait for the next try
    whole_size: int = 0

    def __bool__(self) -> bool:
        return bool(self.half or self.whole)


@dataclass(frozen=True)
class Checked:
    """How far a check of the store has come; the last has ``damages`` complete."""

    what: str  # what is being looked at
    done: int  # layers and blobs
    total: int
    size: int = 0  # bytes of archives that were verified
    damages: Sequence[Damage] = ()
