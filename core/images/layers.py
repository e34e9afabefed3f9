"""Unpacked layers on disk, and their rows.

::

    images/layers/<hex>/diff      the files, as overlayfs takes them
    images/layers/tmp-…/          a layer while it is unpacked; its maker holds a flock on it
    images/parts/<hex>            a blob while it is downloaded

A layer is keyed by its diffID, so that layers unpack in parallel, out of order, and are shared between images whatever
lies below. A layer whose archive leaves out parent directories is the exception: their owner, mode and times are those
of the layers below, so it is keyed by its chainID (image-spec, config.md, "Layer ChainID").

Crash: unpack in ``tmp-``, rename, then commit the row. A folder without a row, or a ``tmp-`` without a lock, is
nobody's. Power loss: the row says ``durable=0`` and names the boot until a ``syncfs`` after it; a layer that another
boot left undurable is thrown away.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import Corrupt
from core.images.places import DIFF
from core.images.trash import delete_tree
from core.kernel.libc import call
from core.kernel.process import boot_id
from core.kernel.resolve import BENEATH, NO_SYMLINKS, NO_XDEV, open_in_root
from core.store.db import Database, Store
from core.store.paths import Instance

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OVERLAY = ("trusted.overlay.", "user.overlay.")
_ORPHAN_AGE = 7 * 86400.0  # seconds that the layers of an unfinished pull wait for its next try


@dataclass(frozen=True)
class Staging:
    """A directory under construction; ``fd`` holds its flock, so that it is known to be alive."""

    path: Path
    fd: int


def hex_of(digest: str) -> str:
    return digest.removeprefix("sha256:")


def chain_ids(diffids: Sequence[str]) -> list[str]:
    """The chainID of each layer, lowest first."""
    chain: list[str] = []
    for diffid in diffids:
        below = chain[-1] if chain else ""
        chain.append(f"sha256:{hashlib.sha256(f'{below} {diffid}'.encode()).hexdigest()}" if below else diffid)
    return chain


class Layers:
    """The layer folders of one instance."""

    def __init__(self, inst: Instance, store: Store) -> None:
        self._inst = inst
        self._store = store
        self.root = inst.images / "layers"

    def prepare(self) -> None:
        self.root.mkdir(mode=0o700, exist_ok=True)

    def folder(self, key: str) -> Path:
        return self.root / hex_of(key)

    def diff(self, key: str) -> Path:
        """The folder with the files of the layer ``key``."""
        return self.folder(key) / DIFF

    def find(self, diffid: str, chainid: str) -> str | None:
        """The key of the layer if it is there, complete."""
        rows = self._store.disk.read("SELECT id FROM layer WHERE id = ? OR (id = ? AND implied = 0)", (chainid, diffid))
        return next((row["id"] for row in rows if self.diff(row["id"]).is_dir()), None)

    def stage(self) -> Staging:
        """A new, locked staging directory."""
        path = self.root / f"tmp-{secrets.token_hex(8)}"
        path.mkdir(mode=0o700)
        fd = os.open(path, _DIR)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return Staging(path, fd)

    def discard(self, staging: Staging) -> None:
        """Delete what :meth:`stage` made, unless it was published."""
        try:
            self.delete(self.move_away(staging.path))
        except FileNotFoundError:
            pass  # published
        finally:
            os.close(staging.fd)

    def publish(self, staging: Staging, key: str, diffid: str, size: int, implied: bool) -> None:
        """Make a verified layer visible; does nothing where another process was faster."""
        target = self.folder(key)
        with self._store.disk.write() as con:
            known = con.execute("SELECT 1 FROM layer WHERE id = ?", (key,)).fetchone()
            if target.exists():
                if known:
                    return
                self.move_away(target)  # renamed by somebody who died before the commit
            # Under the write lock, which all publishers take: rename first, then commit, as a row means a whole layer.
            os.rename(staging.path, target)
            con.execute(
                "INSERT OR REPLACE INTO layer(id, diffid, size, implied, durable, boot_id) VALUES (?, ?, ?, ?, 0, ?)",
                (key, diffid, size, int(implied), boot_id()),
            )

    def move_away(self, path: Path) -> Path:
        """Rename a folder into the trash, in one step; :meth:`delete` it later."""
        away = self._inst.trash / f"layer-{secrets.token_hex(8)}"
        os.rename(path, away)
        return away

    def delete(self, path: Path) -> None:
        """Delete a folder that was moved away."""
        fd = os.open(path.parent, _DIR)
        try:
            delete_tree(fd, path.name)
        finally:
            os.close(fd)

    def adopt(self, staging: Staging, implied: Sequence[bytes], lower: Sequence[Path]) -> None:
        """Give directories that the archive left out the owner, mode, times and attributes they have below.

        :param lower: folders of the layers below, top first
        """
        below = [os.open(path, _DIR) for path in lower]
        own = os.open(staging.path / DIFF, _DIR)
        try:
            # Parents last: making a child's attributes right does not touch them, but order costs nothing.
            for name in reversed(implied):
                _copy_attributes(own, below, os.fsdecode(name))
        finally:
            for fd in (own, *below):
                os.close(fd)

    def sweep(self) -> list[Path]:
        """Move away what nobody owns: staging of dead processes, layers of another boot that never were synced (with
        the images that need them), layers of pulls that were never finished, folders without a row.

        :returns: what is to be deleted
        """
        away = []
        with self._store.disk.write() as con:
            for row in con.execute("SELECT id FROM layer WHERE durable = 0 AND boot_id <> ?", (boot_id(),)).fetchall():
                forget_layer(con, row["id"])
            for row in con.execute("SELECT id FROM layer WHERE id NOT IN (SELECT layer FROM image_layer)").fetchall():
                if _age(self.folder(row["id"])) > _ORPHAN_AGE:
                    forget_layer(con, row["id"])
            names = {path.name for path in self.root.iterdir()}
            for row in con.execute("SELECT id FROM layer").fetchall():
                if hex_of(row["id"]) not in names:
                    forget_layer(con, row["id"])  # somebody deleted the folder: the images in it cannot run
                names.discard(hex_of(row["id"]))
            away = [self.move_away(self.root / name) for name in sorted(names) if _abandoned(self.root / name)]
        return away


def forget_layer(con: sqlite3.Connection, key: str) -> None:
    """Delete the row of a layer that is lost, and the images that cannot exist without it."""
    con.execute("DELETE FROM image WHERE id IN (SELECT image FROM image_layer WHERE layer = ?)", (key,))
    con.execute("DELETE FROM layer WHERE id = ?", (key,))


def _age(path: Path) -> float:
    """Seconds since the folder was made; 0 where it is missing."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _abandoned(path: Path) -> bool:
    """True unless a living process holds the folder's flock."""
    try:
        fd = os.open(path, _DIR)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def _copy_attributes(own: int, below: Sequence[int], name: str) -> None:
    resolve = BENEATH | NO_SYMLINKS | NO_XDEV
    target = open_in_root(own, name, _DIR, resolve=resolve)
    try:
        for root in below:
            try:
                source = open_in_root(root, name, _DIR, resolve=resolve)
            except OSError:
                continue  # not there, or not a directory: nothing of it shows in the stack
            try:
                status = os.fstat(source)
                os.fchown(target, status.st_uid, status.st_gid)
                os.fchmod(target, status.st_mode & 0o7777)
                for key in os.listxattr(source):
                    if not key.startswith(_OVERLAY):
                        os.setxattr(target, key, os.getxattr(source, key))
                os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
            finally:
                os.close(source)
            return
    finally:
        os.close(target)


def mark_durable(inst: Instance, db: Database) -> None:
    """Sync the file system, then mark the layers that were there before.

    :raises OSError: the disk failed; nothing is marked
    """
    rows = db.read("SELECT id FROM layer WHERE durable = 0 AND boot_id = ?", (boot_id(),))
    if not rows:
        return
    fd = os.open(inst.images, _DIR)
    try:
        call("syncfs", fd)
    finally:
        os.close(fd)
    with db.write() as con:
        con.executemany("UPDATE layer SET durable = 1 WHERE id = ?", [(row["id"],) for row in rows])


def verify(what: str, expected: str, found: str) -> None:
    """:raises Corrupt: two digests differ"""
    if expected != found:
        raise Corrupt(
            f"{what} has the wrong digest",
            f"it should be {expected} and is {found}",
            "The registry or the network has damaged it; try again, or tell the image's maker",
        )
