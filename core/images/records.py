"""The image rows of the database: to and from :class:`core.model.Image`."""

from __future__ import annotations

import re
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.errors import InvalidArgument, NotFound
from core.images import reference
from core.images.layers import hex_of
from core.images.manifest import Config, parse_config
from core.model import Image

if TYPE_CHECKING:
    from core.store.db import Row

_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})\Z")


@dataclass(frozen=True)
class NewImage:
    """All that makes an image, once its layers are there."""

    id: str
    config: bytes
    manifest: bytes  # empty where it came without (docker save)
    manifest_digest: str
    manifest_type: str
    layers: Sequence[str]  # keys, lowest first
    tags: Sequence[str]  # full references
    digests: Sequence[str]  # repository@digest


def save(con: sqlite3.Connection, new: NewImage) -> bool:
    """Write all rows of an image; False where one of its layers has been deleted meanwhile."""
    keys = set(new.layers)
    marks = ",".join("?" * len(keys))
    found = con.execute(f"SELECT count(*) FROM layer WHERE id IN ({marks})", tuple(keys)).fetchone()[0]
    if found != len(keys):
        return False
    config = parse_config(new.config)
    old = con.execute("SELECT manifest_digest FROM image WHERE id = ?", (new.id,)).fetchone()
    con.execute(
        "INSERT INTO image(id, manifest_digest, config, created, architecture, os, added) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT(id) DO UPDATE SET manifest_digest = excluded.manifest_digest"
        " WHERE excluded.manifest_digest <> ''",
        (new.id, new.manifest_digest, new.config.decode(), config.created, config.architecture, config.os, time.time()),
    )
    con.execute("DELETE FROM image_layer WHERE image = ?", (new.id,))
    con.executemany(
        "INSERT INTO image_layer(image, position, layer) VALUES (?, ?, ?)",
        [(new.id, position, key) for position, key in enumerate(new.layers)],
    )
    con.execute("INSERT OR REPLACE INTO blob VALUES (?, ?, 'config')", (new.id, len(new.config)))
    if new.manifest_digest:
        blob = (new.manifest_digest, len(new.manifest), new.manifest_type)
        con.execute("INSERT OR REPLACE INTO blob VALUES (?, ?, ?)", blob)
        if old:  # no image's any more: its file is swept up
            sql = "DELETE FROM blob WHERE digest = ? AND digest NOT IN (SELECT manifest_digest FROM image)"
            con.execute(sql, (old["manifest_digest"],))
    con.executemany("INSERT OR REPLACE INTO tag VALUES (?, ?)", [(tag, new.id) for tag in new.tags])
    con.executemany("INSERT OR REPLACE INTO repo_digest VALUES (?, ?)", [(name, new.id) for name in new.digests])
    return True


class Records:
    """Reads images; parsed configurations are kept, as they never change.

    :param read: how, and so in which thread (:meth:`Database.read`, :meth:`Database.peek`)
    """

    def __init__(self, read: Callable[..., list[Row]]) -> None:
        self._read = read
        self._configs: dict[str, Config] = {}

    def every(self) -> list[Image]:
        """Every image, newest first."""
        rows = self._read("SELECT id, config, added, used FROM image ORDER BY created DESC, id")
        tags, digests = self._names("tag"), self._names("repo_digest")
        sizes = {
            row["image"]: row["size"]
            for row in self._read(
                "SELECT image, sum(size) AS size FROM image_layer JOIN layer ON layer.id = layer GROUP BY image"
            )
        }
        self._configs = {row["id"]: self._config(row) for row in rows}
        return [self._image(row, tags[row["id"]], digests[row["id"]], sizes.get(row["id"], 0)) for row in rows]

    def _names(self, table: str) -> defaultdict[str, list[str]]:
        found: defaultdict[str, list[str]] = defaultdict(list)
        for row in self._read(f"SELECT reference, image FROM {table} ORDER BY reference"):
            found[row["image"]].append(row["reference"])
        return found

    def _config(self, row: sqlite3.Row) -> Config:
        known = self._configs.get(row["id"])
        return known or parse_config(row["config"].encode())

    def _image(self, row: Row, tags: Iterable[str], digests: Iterable[str], size: int) -> Image:
        image_id = row["id"]
        config = self._configs[image_id]
        return Image(
            id=image_id,
            tags=tuple(tags),
            repo_digests=tuple(digests),
            created=config.created,
            size=size,
            layers=config.diffids,
            config=config.image,
            architecture=config.architecture,
            os=config.os,
            added=row["added"],
            used=row["used"],
            variant=config.variant,
        )

    def one(self, image_id: str) -> Image:
        """:raises NotFound:"""
        rows = self._read("SELECT id, config, added, used FROM image WHERE id = ?", (image_id,))
        if not rows:
            raise missing(image_id)
        self._configs[image_id] = self._config(rows[0])
        tags, digests = self._names_of("tag", image_id), self._names_of("repo_digest", image_id)
        size = self._read(
            "SELECT sum(size) AS size FROM image_layer JOIN layer ON layer.id = layer WHERE image = ?", (image_id,)
        )[0]["size"]
        return self._image(rows[0], tags, digests, size or 0)

    def _names_of(self, table: str, image_id: str) -> list[str]:
        rows = self._read(f"SELECT reference FROM {table} WHERE image = ? ORDER BY reference", (image_id,))
        return [row["reference"] for row in rows]

    def document(self, image_id: str) -> bytes:
        """The image's configuration, as it came. :raises NotFound:"""
        rows = self._read("SELECT config FROM image WHERE id = ?", (image_id,))
        if not rows:
            raise missing(image_id)
        return bytes(rows[0]["config"].encode())

    def descriptor(self, image_id: str) -> dict[str, object] | None:
        """Media type, digest and size of the manifest that an image came with; None where it came without."""
        rows = self._read(
            "SELECT blob.* FROM image JOIN blob ON digest = manifest_digest WHERE image.id = ?", (image_id,)
        )
        for row in rows:
            return {"mediaType": row["media_type"], "digest": row["digest"], "size": row["size"]}
        return None

    def layer_sizes(self, image_id: str) -> list[int]:
        """Bytes of the files of each layer, lowest first."""
        sql = "SELECT size FROM image_layer JOIN layer ON layer.id = layer WHERE image = ? ORDER BY position"
        return [row["size"] for row in self._read(sql, (image_id,))]

    def tags_of(self, repository: str) -> list[str]:
        """Every tag of a repository, as full references."""
        rows = self._read("SELECT reference FROM tag ORDER BY reference")
        return [row["reference"] for row in rows if row["reference"].rpartition(":")[0] == repository]

    def keys(self, image_id: str) -> list[str]:
        """The image's layers, lowest first."""
        rows = self._read("SELECT layer FROM image_layer WHERE image = ? ORDER BY position", (image_id,))
        return [row["layer"] for row in rows]

    def resolve(self, ref: str) -> tuple[str, bool]:
        """(image id, whether ``ref`` is an id or a prefix of one); names come first, as in Docker.

        :raises NotFound: no such image
        :raises InvalidArgument: a prefix of several ids
        """
        if not ref.startswith("sha256:") and (found := self._by_name(ref)):
            return found, False
        match = _PREFIX.match(ref)
        if not match:
            raise missing(ref)
        rows = self._read("SELECT id FROM image WHERE id GLOB ? LIMIT 2", (f"sha256:{match[1]}*",))
        if len(rows) > 1:
            raise InvalidArgument(f"{ref!r} names several images", "it begins more than one id", "Give more digits")
        if not rows:
            raise missing(ref)
        return rows[0]["id"], True

    def _by_name(self, ref: str) -> str | None:
        try:
            name = reference.parse(ref)
        except InvalidArgument:
            return None
        table = "repo_digest" if name.digest else "tag"
        key = f"{name.name}@{name.digest}" if name.digest else str(name)
        rows = self._read(f"SELECT image FROM {table} WHERE reference = ?", (key,))
        return rows[0]["image"] if rows else None


def missing(ref: str) -> NotFound:
    short = ref if not ref.startswith("sha256:") else hex_of(ref)[:12]
    return NotFound(f"no such image: {short}", "it is not in the store", f"Fetch it with: wharf pull {short}")
