"""Which images nobody needs (:class:`core.model.PruneRule`), and removing them."""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from core.images import remove
from core.images.deletion import deleting
from core.images.layers import hex_of
from core.images.reference import parse
from core.images.remains import WITHOUT_IMAGE, half_made, without_image
from core.images.usage import allocated
from core.model import Image, PruneRule
from core.store.lock import lock_now

if TYPE_CHECKING:
    from core.images.store import ImageStore

Users = Callable[[str], Sequence[str]]


@dataclass
class Swept:
    """What one run removed."""

    images: list[Image] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    reclaimed: int = 0  # bytes
    away: list[Path] = field(default_factory=list)  # to be deleted
    unmeasured: list[Path] = field(default_factory=list)  # what a look would remove: not in ``reclaimed`` yet

    def measure(self) -> None:
        """Count what occupies the disk. Trees may be large: not under the write lock, and not in the database's
        thread, where everybody would wait for it."""
        self.reclaimed += allocated(*self.away, *self.unmeasured)


def choose(images: Iterable[Image], rule: PruneRule, users: Users, now: float | None = None) -> list[Image]:
    """The images that the rule removes."""
    now = time.time() if now is None else now
    every = list(images)
    kept = _newest(every, rule.keep)
    return [
        image
        for image in every
        if (rule.all or not image.tags)
        and (rule.among is None or image.id in rule.among)
        and image.id not in kept
        and rule.only.passes(image)
        and (rule.unused_for is None or max(image.used, image.added) < now - rule.unused_for)
        and not users(image.id)
    ]


def _newest(images: Sequence[Image], count: int) -> set[str]:
    """The ``count`` newest images of each repository."""
    repositories: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for image in images:
        for name in (*image.tags, *image.repo_digests):
            repositories[parse(name).name][image.id] = image.created
    return {
        image_id
        for found in repositories.values()
        for image_id in sorted(found, key=lambda one: (-found[one], one))[:count]
    }


def alone(store: ImageStore, chosen: Sequence[Image]) -> list[Path]:
    """What removing these would take away: layers and documents that no other image has."""
    ids = {image.id for image in chosen}
    owners: defaultdict[str, set[str]] = defaultdict(set)
    for row in store.store.disk.read("SELECT image, layer FROM image_layer"):
        owners[row["layer"]].add(row["image"])
    for row in store.store.disk.read("SELECT id, manifest_digest FROM image"):
        for digest in filter(None, (row["id"], row["manifest_digest"])):
            owners[f"blob {digest}"].add(row["id"])
    gone = [key for key, images in owners.items() if images <= ids]
    return [
        store.content.path(key.removeprefix("blob ")) if key.startswith("blob ") else store.layers.folder(key)
        for key in gone
    ]


def prune(store: ImageStore, chosen: Sequence[Image], users: Users, swept: Swept) -> None:
    """Remove them, each in one step; one that a container is made of just now stays."""
    for image in chosen:
        with deleting(store) as deletion:
            if users(image.id) or not deletion.con.execute("SELECT 1 FROM image WHERE id = ?", (image.id,)).fetchone():
                continue
            names = [
                name for table in ("tag", "repo_digest") for name in remove.names_of(deletion.con, table, image.id)
            ]
            remove.untag(deletion.con, names, deletion.done)
            remove.delete(deletion.con, image.id, deletion.done, deletion.free)
            swept.reclaimed += deletion.documents()
        swept.images.append(image)
        swept.lines += deletion.done.lines
        swept.away += deletion.away


def prune_half_made(store: ImageStore, swept: Swept, *, dry_run: bool) -> None:
    """Half-made layers of whoever was killed: nobody goes on with those."""
    if dry_run:
        swept.unmeasured += (found := half_made(store))
        swept.lines += map(_half_made_line, found)
        return
    with store.store.disk.write():  # nobody publishes one meanwhile
        for path in half_made(store):
            if away := store.layers.move_abandoned(path):
                swept.lines.append(_half_made_line(path))
                swept.away.append(away)


def _half_made_line(path: Path) -> str:
    return f"Deleted: the half-made layer {path.name}"


def prune_leftovers(store: ImageStore, swept: Swept, *, dry_run: bool) -> None:
    """Layers of pulls that were never finished and downloads that were broken off, unless somebody is at them."""
    if dry_run:
        keys = without_image(store)
        swept.unmeasured += map(store.layers.folder, keys)
    else:
        with deleting(store) as deletion:
            keys = [row["id"] for row in deletion.con.execute(WITHOUT_IMAGE).fetchall() if deletion.free(row["id"])]
            deletion.con.executemany("DELETE FROM layer WHERE id = ?", [(key,) for key in keys])
            deletion.done.layers += keys
        swept.away += deletion.away
    swept.lines += [f"Deleted: {key}" for key in keys]
    for part in sorted(store.content.parts.iterdir()):
        with lock_now(store.inst, f"blob-{hex_of(part.name)}") as free:
            if free:
                swept.lines.append(f"Deleted: the unfinished download of sha256:{part.name}")
                swept.reclaimed += allocated(part)
                if not dry_run:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(part)
