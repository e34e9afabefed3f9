"""Names of images, given and taken in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from core.errors import InvalidArgument, NotFound
from core.images import reference
from core.images.records import missing


def give(con: sqlite3.Connection, image_id: str, name: str) -> None:
    """:raises NotFound: the image has been removed meanwhile"""
    if not con.execute("SELECT 1 FROM image WHERE id = ?", (image_id,)).fetchone():
        raise missing(image_id)
    con.execute("INSERT OR REPLACE INTO tag VALUES (?, ?)", (name, image_id))


def take(con: sqlite3.Connection, image_id: str, names: Sequence[str]) -> list[str]:
    """Take tags (none: all) from an image; returns those that are gone.

    :raises NotFound: one of them is not the image's; nothing is taken
    :raises InvalidArgument: one of them is a digest, which is no tag
    """
    rows = con.execute("SELECT reference FROM tag WHERE image = ? ORDER BY reference", (image_id,)).fetchall()
    known = [row["reference"] for row in rows]
    for parsed in map(reference.parse, names):
        if parsed.digest:
            raise _no_tag(parsed, known)
    wanted = [str(reference.parse(name)) for name in names] or known
    for name in wanted:
        if name not in known:
            there = ", ".join(reference.parse(tag).familiar for tag in known)
            raise NotFound(
                f"{reference.parse(name).familiar} is not a tag of that image", f"it has {there or 'none'}", ""
            )
        con.execute("DELETE FROM tag WHERE reference = ?", (name,))
    return list(dict.fromkeys(wanted))


def _no_tag(name: reference.Reference, known: Sequence[str]) -> InvalidArgument:
    tags = [reference.parse(tag).familiar for tag in known]
    return InvalidArgument(
        f"{name.familiar} is a digest and no tag",
        f"the image's tags are {', '.join(tags)}" if tags else "the image has no tag that could be taken away",
        "Give a tag, or all with --all" if tags else f"Remove the image: wharf rmi {name.familiar}",
    )
