"""``system df``: what the data root occupies, and for whom."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.images.usage import allocated
from core.model import ContainerUse, DiskUsage, Image, ImageUse, VolumeUse
from core.ops import records
from core.ops.context import Context
from core.ops.records import Record


async def disk_usage(ctx: Context) -> DiskUsage:
    """Allocated blocks, of a file with several names once; the parts add up to what ``du`` says of the data root.

    A layer never changes: what it occupies is asked once, after it has reached the disk.
    """
    boxes = await records.every(ctx)
    images = await ctx.images.list()
    layers = await ctx.store.disk.run(lambda: _layers(ctx))
    return await asyncio.to_thread(_gather, ctx, images, boxes, layers)


def _layers(ctx: Context) -> dict[str, int]:
    """Bytes of each layer by its key; those that had not been measured yet are remembered."""
    found, fresh = {}, []
    for row in ctx.store.disk.read("SELECT id, disk, durable FROM layer"):
        size = row["disk"]
        if size < 0:
            size = allocated(ctx.images.layers.folder(row["id"]))
            if row["durable"]:  # before that the file system may not have placed its blocks yet
                fresh.append((size, row["id"]))
        found[row["id"]] = size
    if fresh:
        with ctx.store.disk.write() as con:
            con.executemany("UPDATE layer SET disk = ? WHERE id = ? AND durable = 1", fresh)
    return found


@dataclass(frozen=True)
class _Parts:
    """What images are made of: paths with their bytes on the disk."""

    sizes: dict[Path, int]
    of: dict[str, set[Path]]  # image id → its paths
    layers: dict[str, list[int]]  # image id → bytes of its layers, lowest first

    def used_by(self, images: Iterable[str]) -> Counter[Path]:
        """In how many of these images each path is."""
        return Counter(path for image in images for path in self.of.get(image, ()))


def _parts(ctx: Context, layers: Mapping[str, int]) -> _Parts:
    sizes: dict[Path, int] = {}
    of: defaultdict[str, set[Path]] = defaultdict(set)
    stacks: defaultdict[str, list[int]] = defaultdict(list)
    for row in ctx.store.disk.read("SELECT image, layer FROM image_layer ORDER BY position"):
        path = ctx.images.layers.folder(row["layer"])
        sizes[path] = layers.get(row["layer"], 0)
        of[row["image"]].add(path)
        stacks[row["image"]].append(sizes[path])
    for row in ctx.store.disk.read("SELECT id, manifest_digest FROM image"):
        for digest in filter(None, (row["id"], row["manifest_digest"])):
            path = ctx.images.content.path(digest)
            sizes[path] = allocated(path)
            of[row["id"]].add(path)
    return _Parts(sizes, of, stacks)


def _gather(ctx: Context, images: Sequence[Image], boxes: Sequence[Record], layers: Mapping[str, int]) -> DiskUsage:
    users: defaultdict[str, list[str]] = defaultdict(list)
    for record in boxes:
        users[record.image].append(record.name)
    parts = _parts(ctx, layers)
    owners, needed = parts.used_by(parts.of), parts.used_by(users)
    return DiskUsage(
        images=tuple(_image_use(image, parts, owners, tuple(users.get(image.id, ()))) for image in images),
        containers=tuple(_container_use(ctx, record) for record in boxes),
        volumes=tuple(_volumes(ctx, boxes)),
        images_size=sum(parts.sizes.values()),
        images_reclaimable=sum(size for path, size in parts.sizes.items() if path not in needed),
        other=tuple(_other(ctx, boxes, parts, layers)),
    )


def _image_use(image: Image, parts: _Parts, owners: Counter[Path], users: tuple[str, ...]) -> ImageUse:
    own = [path for path in parts.of.get(image.id, ()) if owners[path] == 1]
    whole = sum(parts.sizes[path] for path in parts.of.get(image.id, ()))
    unique = sum(parts.sizes[path] for path in own)
    return ImageUse(image, whole - unique, unique, users, tuple(parts.layers.get(image.id, ())))


def _container_use(ctx: Context, record: Record) -> ContainerUse:
    folder = ctx.inst.container_dir(record.id)
    logs = allocated(ctx.inst.log_path(record.id).parent)
    return ContainerUse(records.snapshot(ctx, record), allocated(folder) - logs, logs)


def _volumes(ctx: Context, boxes: Sequence[Record]) -> Iterator[VolumeUse]:
    users: defaultdict[str, list[str]] = defaultdict(list)
    for record in boxes:
        for name in {mount.source for mount in record.spec.mounts if mount.kind == "volume"}:
            users[name].append(record.name)
    for folder in sorted((ctx.inst.root / "volumes").iterdir()):
        yield VolumeUse(folder.name, allocated(folder), tuple(users[folder.name]))


def _other(
    ctx: Context, boxes: Sequence[Record], parts: _Parts, layers: Mapping[str, int]
) -> Iterator[tuple[str, int]]:
    """Everything else below the data root, so that the sum is right."""
    root, content, known = ctx.inst.root, ctx.images.content, {record.id for record in boxes}
    images, database = ctx.inst.images, sorted(root.glob("wharf*.db*")) + sorted(root.glob("*.bak"))
    measured = {ctx.images.layers.folder(key): size for key, size in layers.items()}
    stray = [path for path in ctx.images.layers.root.iterdir() if path not in parts.sizes]
    downloads = list(content.parts.iterdir())
    trash = list(ctx.inst.trash.iterdir())
    yield "unfinished downloads", allocated(*downloads)
    strays = sum(measured[path] if path in measured else allocated(path) for path in stray)
    yield "layers without an image", strays
    yield "removed, being deleted", allocated(*trash)
    yield "database", allocated(*set(database))
    counted = {*database, root / "containers", root / "volumes", ctx.inst.trash, images}
    folders = [root, root / "containers", root / "volumes", ctx.inst.trash, images, ctx.images.layers.root]
    folders += [content.blobs.parent, content.blobs, content.parts]
    rest = [path for path in root.iterdir() if path not in counted]
    rest += [path for path in (root / "containers").iterdir() if path.name not in known]
    rest += [path for path in content.blobs.iterdir() if path not in parts.sizes]
    rest += [path for path in images.iterdir() if path not in folders]
    yield "records and folders", allocated(*rest) + sum(path.stat().st_blocks * 512 for path in folders)
