"""Unpacked layers on disk, and their rows.

::

    images/layers/<hex>/diff      the files, as overlayfs takes them
    images/layers/<hex>/index.zst what the archive says of each path (core.images.index)
    images/layers/<hex>/split.zst the archive without the files' content (core.images.split); aside/ has what it needs
                                  beside diff/
    images/layers/tmp-…/          a layer while it is unpacked; its maker holds a flock on it
    images/parts/<hex>            a blob while it is downloaded

A layer is keyed by its diffID, so that layers unpack in parallel, out of order, and are shared between images whatever
lies below. A layer whose archive leaves out parent directories is the exception: their owner, mode and times are those
of the layers below, so it is keyed by its chainID (image-spec, config.md, "Layer ChainID").

Crash: unpack in ``tmp-``, rename, then commit the row. A folder without a row, or a ``tmp-`` without a lock, is
nobody's. What is in flight holds a shared flock on the layer folders that it counts on (:meth:`Layers.hold`): nothing
that is held is deleted, and the kernel lets go for whoever dies. Power loss: the row says ``durable=0`` and names the
boot until a ``syncfs`` after it; a layer that another boot left undurable is thrown away.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import Corrupt
from core.images.places import DIFF
from core.images.trash import delete_tree
from core.kernel.exchange import exchange
from core.kernel.libc import call
from core.kernel.process import boot_id
from core.kernel.resolve import BENEATH, NO_SYMLINKS, NO_XDEV, open_in_root
from core.store.db import Database, Store
from core.store.paths import Instance

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OVERLAY = ("trusted.overlay.", "user.overlay.")
_ORPHAN_AGE = 7 * 86400.0  # seconds that the layers of an unfinished pull wait for its next try
_TRIES, _MOMENT = 50, 0.002  # at a lock that somebody has only to see whether it is free; seconds between two


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
        # Layers that are damaged (core.images.mend): whoever asks for one makes it anew, and it is replaced if the
        # function, which is called under the write lock, says that it may be.
        self.broken: dict[str, Callable[[], bool]] = {}

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
        keys = [row["id"] for row in rows if row["id"] not in self.broken]
        return next((key for key in keys if self.diff(key).is_dir()), None)

    def hold(self, key: str) -> int | None:
        """Keep the layer from being deleted until the descriptor is closed; None where it is not there (any more).

        A lease in the words of other engines, but one that needs no expiry: it ends with its holder.
        """
        try:
            fd = os.open(self.folder(key), _DIR)
        except FileNotFoundError:
            return None
        for _ in range(_TRIES):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if _is_still(self.folder(key), fd):
                    return fd
                break
            if not _is_still(self.folder(key), fd):
                break
            time.sleep(_MOMENT)  # who only looks lets go at once; who deletes it does not
        os.close(fd)
        return None

    @contextlib.contextmanager
    def unheld(self, key: str) -> Iterator[bool]:
        """Whether nobody holds the layer; inside the block nobody begins to."""
        try:
            fd = os.open(self.folder(key), _DIR)
        except FileNotFoundError:
            yield True
            return
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(fd)

    def stage(self) -> Staging:
        """A new, locked staging directory."""
        while True:
            path = self.root / f"tmp-{secrets.token_hex(8)}"
            path.mkdir(mode=0o700)
            # Until it is locked, whoever takes away what nobody works on may take it.
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(path, _DIR)
                fcntl.flock(fd, fcntl.LOCK_EX)
                if _is_still(path, fd):
                    return Staging(path, fd)
                os.close(fd)

    def discard(self, staging: Staging) -> None:
        """Delete what :meth:`stage` made, unless it was published."""
        try:
            self.delete(self.move_away(staging.path))
        except FileNotFoundError:
            pass  # published
        finally:
            release(staging.fd)

    def publish(self, staging: Staging, key: str, diffid: str, size: int, implied: bool, blob: str = "") -> None:
        """Make a verified layer visible; does nothing where another process was faster.

        One of :attr:`broken` is replaced, and no longer in it, unless somebody uses it.

        :param blob: digest of what it was unpacked from; empty where that is not worth knowing
        """
        target = self.folder(key)
        if key in self.broken:
            _sync(staging.fd)  # what takes the place of a durable layer must be durable itself
        with self._store.disk.write() as con:
            known = con.execute("SELECT 1 FROM layer WHERE id = ?", (key,)).fetchone()
            if target.exists():
                if known and (may := self.broken.get(key)):
                    with self.unheld(key) as free:
                        if free and may():
                            exchange(staging.path, target)  # the damaged one is what :meth:`discard` deletes
                            con.execute("UPDATE layer SET size = ?, disk = -1 WHERE id = ?", (size, key))
                            del self.broken[key]
                if known:
                    _seen(con, diffid, blob)
                    return
                self.move_away(target)  # renamed by somebody who died before the commit
            # Under the write lock, which all publishers take: rename first, then commit, as a row means a whole layer.
            os.rename(staging.path, target)
            con.execute(
                "INSERT OR REPLACE INTO layer(id, diffid, size, implied, durable, boot_id) VALUES (?, ?, ?, ?, 0, ?)",
                (key, diffid, size, int(implied), boot_id()),
            )
            _seen(con, diffid, blob)
            self.broken.pop(key, None)

    def seen(self, diffid: str, blob: str) -> None:
        """Note that ``blob`` is the layer's archive, compressed; nothing where the layer has been removed."""
        with self._store.disk.write() as con:
            _seen(con, diffid, blob)

    def move_away(self, path: Path) -> Path:
        """Rename a folder into the trash, in one step; :meth:`delete` it later."""
        away = self._inst.trash / f"layer-{secrets.token_hex(8)}"
        os.rename(path, away)
        return away

    def move_abandoned(self, path: Path) -> Path | None:
        """:meth:`move_away` with a folder that nobody holds, under its lock: who has just made it sees that."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), self.unheld(path.name) as free:
            return self.move_away(path) if free else None
        return None

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
        with self._store.disk.write() as con:
            for row in con.execute("SELECT id FROM layer WHERE durable = 0 AND boot_id <> ?", (boot_id(),)).fetchall():
                forget_layer(con, row["id"])
            for row in con.execute("SELECT id FROM layer WHERE id NOT IN (SELECT layer FROM image_layer)").fetchall():
                with self.unheld(row["id"]) as free:
                    if free and _age(self.folder(row["id"])) > _ORPHAN_AGE:
                        forget_layer(con, row["id"])
            names = {path.name for path in self.root.iterdir()}
            for row in con.execute("SELECT id FROM layer").fetchall():
                if hex_of(row["id"]) not in names:
                    forget_layer(con, row["id"])  # somebody deleted the folder: the images in it cannot run
                names.discard(hex_of(row["id"]))
            tried = [self.move_abandoned(self.root / name) for name in sorted(names)]
        return [path for path in tried if path is not None]


def _seen(con: sqlite3.Connection, diffid: str, blob: str) -> None:
    if blob:
        con.execute("INSERT OR IGNORE INTO layer_blob SELECT id, ? FROM layer WHERE diffid = ?", (blob, diffid))


def release(fd: int) -> None:
    """Let go of a folder's lock and close it. A worker that is still on its way out has a copy of the descriptor, and
    with it the lock would stay a while longer."""
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


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


def _is_still(path: Path, fd: int) -> bool:
    """Whether ``path`` is still what was opened as ``fd``: between open and flock it may have been moved away."""
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def abandoned(path: Path) -> bool:
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
    folders = {row["id"]: inst.images / "layers" / hex_of(row["id"]) for row in rows}
    before = {key: _identity(path) for key, path in folders.items()}
    fd = os.open(inst.images, _DIR)
    try:
        _sync(fd)
    finally:
        os.close(fd)
    with db.write() as con:
        # Not one that was removed and pulled again meanwhile: of that, nothing need be on the disk.
        same = [(key,) for key, path in folders.items() if (found := _identity(path)) and found == before[key]]
        con.executemany("UPDATE layer SET durable = 1 WHERE id = ?", same)


def _identity(folder: Path) -> tuple[int, int] | None:
    """Which folder it is: a name and an inode's number are used again, but not at the same moment."""
    try:
        status = folder.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_ctime_ns


def _sync(fd: int) -> None:
    call("syncfs", fd)


def verify(what: str, expected: str, found: str) -> None:
    """:raises Corrupt: two digests differ"""
    if expected != found:
        raise Corrupt(
            f"{what} has the wrong digest",
            f"it should be {expected} and is {found}",
            "The registry or the network has damaged it; try again, or tell the image's maker",
        )
