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
    """What was done: Docker's lines (``Kept: …`` where only names went), and what is to be deleted from the disk."""

    lines: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)  # keys
    blobs: list[str] = field(default_factory=list)  # digests


def remove(
    con: sqlite3.Connection,
    image_id: str,
    name: str,
    force: bool,
    used_by: Callable[[str], Sequence[str]],
    free: Callable[[str], bool],
    done: Removed,
) -> None:
    """Remove ``image_id`` or one of its names.

    :param name: the name given; empty where the image was named by its id
    :param free: whether a layer may go; one that a pull or a save counts on right now stays, without an image
    :param done: gets what was done
    :raises InUse:
    """
    users = list(used_by(image_id))
    names = names_of(con, "tag", image_id) + names_of(con, "repo_digest", image_id)
    gone = _same_name(con, image_id, name) if name else names
    if name and not force and users and set(names) == set(gone):
        parsed = reference.parse(name)
        name_only = "" if parsed.digest else f", or take only the name away: wharf untag {parsed.familiar}"
        raise InUse(
            f"the image {parsed.familiar} cannot be removed",
            f"it has no other name, and containers use it: {', '.join(users)}",
            f"Remove them first{name_only}",
        )
    if not name:
        _check_whole(con, image_id, names, force, users)
    untag(con, gone, done)
    if set(names) - set(gone):
        return
    if users:
        done.lines.append(f"Kept: {hex_of(image_id)[:12]}: containers use it: {', '.join(users)}")
    else:
        delete(con, image_id, done, free)


def _check_whole(
    con: sqlite3.Connection, image_id: str, names: Sequence[str], force: bool, users: Sequence[str]
) -> None:
    """May it go with all of its names? :raises InUse: a container is made of it, or it has several names"""
    if users and (not force or not names):
        raise _in_use(f"the image {hex_of(image_id)[:12]}", users, "Remove them first")
    repositories = {_repository(text) for text in names}
    tags = names_of(con, "tag", image_id)
    if not force and (len(repositories) > 1 or len(tags) > 1):
        raise InUse(
            f"the image {hex_of(image_id)[:12]} has several names",
            ", ".join(reference.parse(text).familiar for text in tags or names),
            "Remove each by name, or all with force",
            object_id=image_id,
        )


def _in_use(what: str, users: Sequence[str], fix: str) -> InUse:
    return InUse(f"{what} cannot be removed", f"containers use it: {', '.join(users)}", fix)


def names_of(con: sqlite3.Connection, table: str, image_id: str) -> list[str]:
    rows = con.execute(f"SELECT reference FROM {table} WHERE image = ? ORDER BY reference", (image_id,))
    return [row["reference"] for row in rows.fetchall()]


def _repository(text: str) -> str:
    return reference.parse(text).name


def _same_name(con: sqlite3.Connection, image_id: str, name: str) -> list[str]:
    """The rows that go with ``name``: with a repository's last tag its digests too."""
    parsed = reference.parse(name)
    if parsed.digest:
        return [f"{parsed.name}@{parsed.digest}"]
    others = [tag for tag in names_of(con, "tag", image_id) if tag != str(parsed) and _repository(tag) == parsed.name]
    digests = [text for text in names_of(con, "repo_digest", image_id) if _repository(text) == parsed.name]
    return [str(parsed), *([] if others else digests)]


def untag(con: sqlite3.Connection, names: Sequence[str], done: Removed) -> None:
    for name in names:
        con.execute("DELETE FROM tag WHERE reference = ?", (name,))
        con.execute("DELETE FROM repo_digest WHERE reference = ?", (name,))
        done.lines.append(f"Untagged: {reference.parse(name).familiar}")


def delete(con: sqlite3.Connection, image_id: str, done: Removed, free: Callable[[str], bool]) -> None:
    """Delete an image that has no names and no users, with what is no other image's."""
    row = con.execute("SELECT manifest_digest FROM image WHERE id = ?", (image_id,)).fetchone()
    keys = con.execute("SELECT DISTINCT layer FROM image_layer WHERE image = ? ORDER BY position DESC", (image_id,))
    layers = [key["layer"] for key in keys.fetchall()]
    con.execute("DELETE FROM image WHERE id = ?", (image_id,))
    done.lines.append(f"Deleted: {image_id}")
    for key in layers:
        if not con.execute("SELECT 1 FROM image_layer WHERE layer = ?", (key,)).fetchone() and free(key):
            con.execute("DELETE FROM layer WHERE id = ?", (key,))
            done.layers.append(key)
            done.lines.append(f"Deleted: {key}")
    for digest in (image_id, row["manifest_digest"]):
        if digest and not con.execute("SELECT 1 FROM image WHERE manifest_digest = ?", (digest,)).fetchone():
            con.execute("DELETE FROM blob WHERE digest = ?", (digest,))
            done.blobs.append(digest)
