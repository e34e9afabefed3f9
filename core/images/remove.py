"""What ``docker rmi`` means, in one transaction (moby, daemon/images/image_delete.go).

By name: that name goes; with the last name the image goes too. Without ``force`` the last name of an image that
containers use is refused. By id: all its names go and the image with them; refused where it is used, or without
``force`` where it has several tags. With ``force`` a used image loses its names only: its layers carry containers.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from core.errors import InUse
from core.images import reference
from core.images.layers import hex_of


@dataclass
class Removed:
    """What was done: Docker's lines, and what is to be deleted from the disk."""

    lines: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)  # keys
    blobs: list[str] = field(default_factory=list)  # digests


def remove(
    con: sqlite3.Connection, image_id: str, name: str, force: bool, used_by: Callable[[str], Sequence[str]]
) -> Removed:
    """Remove ``image_id`` or one of its names.

    :param name: the name given; empty where the image was named by its id
    :raises InUse:
    """
    done = Removed()
    users = list(used_by(image_id))
    names = _names(con, "tag", image_id) + _names(con, "repo_digest", image_id)
    if name:
        gone = _same_name(con, image_id, name)
        if users and not force and set(names) == set(gone):
            raise _in_use(f"the last name {name} of an image", users, "Remove them first, or untag with force")
        _untag(con, gone, done)
        if set(names) - set(gone):
            return done
    else:
        if users and (not force or not names):
            raise _in_use(f"the image {hex_of(image_id)[:12]}", users, "Remove them first")
        repositories = {_repository(text) for text in names}
        tags = _names(con, "tag", image_id)
        if not force and (len(repositories) > 1 or len(tags) > 1):
            raise InUse(
                f"the image {hex_of(image_id)[:12]} has several names",
                ", ".join(reference.parse(text).familiar for text in tags or names),
                "Remove each by name, or all with force",
                object_id=image_id,
            )
        _untag(con, names, done)
    if not users:
        _delete(con, image_id, done)
    return done


def _in_use(what: str, users: Sequence[str], fix: str) -> InUse:
    return InUse(f"{what} cannot be removed", f"containers use it: {', '.join(users)}", fix)


def _names(con: sqlite3.Connection, table: str, image_id: str) -> list[str]:
    rows = con.execute(f"SELECT reference FROM {table} WHERE image = ? ORDER BY reference", (image_id,))
    return [row["reference"] for row in rows.fetchall()]


def _repository(text: str) -> str:
    return reference.parse(text).name


def _same_name(con: sqlite3.Connection, image_id: str, name: str) -> list[str]:
    """The rows that go with ``name``: with a repository's last tag its digests too."""
    parsed = reference.parse(name)
    if parsed.digest:
        return [f"{parsed.name}@{parsed.digest}"]
    others = [tag for tag in _names(con, "tag", image_id) if tag != str(parsed) and _repository(tag) == parsed.name]
    digests = [text for text in _names(con, "repo_digest", image_id) if _repository(text) == parsed.name]
    return [str(parsed), *([] if others else digests)]


def _untag(con: sqlite3.Connection, names: Sequence[str], done: Removed) -> None:
    for name in names:
        con.execute("DELETE FROM tag WHERE reference = ?", (name,))
        con.execute("DELETE FROM repo_digest WHERE reference = ?", (name,))
        done.lines.append(f"Untagged: {reference.parse(name).familiar}")


def _delete(con: sqlite3.Connection, image_id: str, done: Removed) -> None:
    row = con.execute("SELECT manifest_digest FROM image WHERE id = ?", (image_id,)).fetchone()
    keys = con.execute("SELECT DISTINCT layer FROM image_layer WHERE image = ? ORDER BY position DESC", (image_id,))
    layers = [key["layer"] for key in keys.fetchall()]
    con.execute("DELETE FROM image WHERE id = ?", (image_id,))
    done.lines.append(f"Deleted: {image_id}")
    for key in layers:
        if not con.execute("SELECT 1 FROM image_layer WHERE layer = ?", (key,)).fetchone():
            con.execute("DELETE FROM layer WHERE id = ?", (key,))
            done.layers.append(key)
            done.lines.append(f"Deleted: {key}")
    for digest in (image_id, row["manifest_digest"]):
        if digest and not con.execute("SELECT 1 FROM image WHERE manifest_digest = ?", (digest,)).fetchone():
            con.execute("DELETE FROM blob WHERE digest = ?", (digest,))
            done.blobs.append(digest)
