"""Mend what :mod:`core.images.fsck` found, where that is possible without guessing.

A layer whose archive is right is made from it once more; what is damaged itself is fetched again, by digest, from a
repository that it came from; a configuration is in the image's row as well. What cannot be mended stays: a registry
that is away today may be there tomorrow. Only where it is asked for is it removed with the images that need it; but
nothing that a container needs is removed, and nothing that one runs on is replaced: the kernel reads from the folder
that it was given.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import Timeout, WharfError
from core.images import remove
from core.images.deletion import deleting
from core.images.fsck import Fault
from core.images.layers import hex_of, verify
from core.images.making import pour, unpack_from
from core.images.places import IMPLIED
from core.images.reference import parse
from core.images.split import rebuild
from core.images.unpackers import Unpackers
from core.model import PullProgress

if TYPE_CHECKING:
    from core.images.store import ImageStore

Names = Callable[[Sequence[str]], list[str]]  # ids of images → names of containers
Still = Callable[[Sequence[str]], contextlib.AbstractAsyncContextManager["Users"]]  # ids of images → their containers
_CHANGED = "not replaced: somebody has begun to use it meanwhile; try again"


@dataclass(frozen=True)
class Users:
    """The containers of some images, kept from being started."""

    running: Mapping[str, Sequence[str]]  # id of an image → names of those that run nonetheless
    others: Callable[[str], bool]  # whether a layer has further ones by now; asked under the write lock


class Repair:
    """One try to mend everything.

    :param users: names of all containers of images; asked in the transaction that removes them
    :param still: keeps them from being started while layers are replaced
    :param remove: take away what cannot be mended, with its images
    """

    def __init__(
        self, store: ImageStore, unpackers: Unpackers, users: Names, still: Still, *, remove: bool = False
    ) -> None:
        self._store = store
        self._away = remove
        self._unpackers = unpackers
        self._users = users
        self._still = still
        self.removed: list[str] = []  # ids of images

    async def run(self, faults: Sequence[Fault]) -> AsyncGenerator[str, None]:
        """Each step in words; what was done is noted in the faults."""
        for fault in faults:
            if fault.kind == "layer" and fault.whole:
                yield f"layer {hex_of(fault.id)[:12]}"
                async with self._free([fault]) as free:
                    for one in free:
                        await self._remake(one)
        for source, group in (await self._sources(faults)).items():
            if todo := [fault for fault in group if not fault.mended]:
                yield source
                async with self._free(todo) as free:
                    if free:
                        await self._fetch(source, free)
        for fault in faults:
            if not fault.mended and fault.kind == "blob":
                await self._store.store.disk.run(partial(self._document, fault))
            if fault.mended or fault.busy or fault.kind not in ("blob", "layer", "image"):
                continue
            nothing = "there is nothing to make it from" if fault.kind == "image" else "it came from no registry"
            fault.done = fault.done or nothing
            if fault.unknown:
                fault.done += "; kept: it may be whole"
            elif self._away:
                await self._remove(fault)
            else:
                images = f", with {', '.join(fault.names)}" if fault.names else ""
                fault.done += f"; kept{images}: `wharf fsck --repair --remove` takes it away"

    @contextlib.asynccontextmanager
    async def _free(self, faults: Sequence[Fault]) -> AsyncIterator[list[Fault]]:
        """Those that may be mended now; no container is started on them until that is done."""
        layers = [fault for fault in faults if fault.kind == "layer"]
        free, broken = [fault for fault in faults if fault.kind != "layer"], self._store.layers.broken
        async with contextlib.AsyncExitStack() as stack:
            try:
                users = await stack.enter_async_context(self._still([one for fault in layers for one in fault.images]))
            except Timeout as error:
                for fault in layers:
                    fault.busy, fault.done = True, f"not replaced: {error.what}: {error.why}"
                layers = []
            for fault in layers:
                if why := self._at_work(fault, users):
                    fault.busy, fault.done = True, f"not replaced: {why}"
                    continue
                broken[fault.id] = partial(_unused, users, fault.id)
                stack.callback(broken.pop, fault.id, None)
                free.append(fault)
            yield free

    def _at_work(self, fault: Fault, users: Users) -> str:
        """Who uses a layer just now, in words."""
        if names := sorted({name for image in fault.images for name in users.running.get(image, ())}):
            return f"{', '.join(names)} run on it; stop them, and try again"
        with self._store.layers.unheld(fault.id) as unheld:
            return "" if unheld else "another wharf process reads it; try again"

    # -- from what is here --------------------------------------------------------------------------------------
    async def _remake(self, fault: Fault) -> None:
        """Unpack the layer's own archive once more."""
        layers, key = self._store.layers, fault.id
        staging = layers.stage()
        try:
            pieces = rebuild(layers.folder(key))
            result = await unpack_from(self._unpackers, staging, lambda fd, watch: pour(pieces, fd, watch))
            diffid, below = await self._store.store.disk.run(lambda: self._row(key))
            verify(f"layer {hex_of(key)[:12]}", diffid, result.diffid)
            if result.implied:
                names = (staging.path / IMPLIED).read_bytes().split(b"\0")
                await asyncio.to_thread(layers.adopt, staging, names, [layers.diff(one) for one in below])
                (staging.path / IMPLIED).unlink()
            implied = bool(result.implied)
            await self._store.store.disk.run(lambda: layers.publish(staging, key, diffid, result.size, implied))
            if key in layers.broken:
                fault.busy, fault.done = True, _CHANGED
            else:
                fault.mended, fault.done = True, "made again from its archive"
        except WharfError as error:
            fault.done = f"not mended: {error.what}: {error.why}"
        except BaseException:
            await self._unpackers.close(wait=True)  # a worker that still runs would write into what is being deleted
            raise
        finally:
            await asyncio.to_thread(layers.discard, staging)

    def _row(self, key: str) -> tuple[str, list[str]]:
        """A layer's diffID, and the layers below it in some image, top first."""
        read = self._store.store.disk.read
        [row] = read("SELECT diffid FROM layer WHERE id = ?", (key,))
        sql = (
            "SELECT below.layer FROM image_layer AS below"
            " JOIN (SELECT image, position FROM image_layer WHERE layer = ? LIMIT 1) AS this"
            " ON below.image = this.image AND below.position < this.position ORDER BY below.position DESC"
        )
        return row["diffid"], [one["layer"] for one in read(sql, (key,))]

    def _document(self, fault: Fault) -> None:
        """A configuration from the image's row; a manifest is not needed to run an image."""
        content = self._store.content
        rows = self._store.store.disk.read("SELECT config FROM image WHERE id = ?", (fault.id,))
        data = rows[0]["config"].encode() if rows else b""
        with self._store.store.disk.write() as con:
            if f"sha256:{hashlib.sha256(data).hexdigest()}" == fault.id:
                content.drop(fault.id)
                content.put(fault.id, data)
                fault.done = "written again from the database"
            elif not self._away:
                return
            else:
                content.drop(fault.id)
                con.execute("UPDATE image SET manifest_digest = '' WHERE manifest_digest = ?", (fault.id,))
                con.execute("DELETE FROM blob WHERE digest = ?", (fault.id,))
                forgotten = "forgotten: the image can be run, saved and pushed without the manifest it came with"
                fault.done = f"{fault.done}; {forgotten}" if fault.done else forgotten
        fault.mended = True

    # -- from where it came -------------------------------------------------------------------------------------
    async def _sources(self, faults: Sequence[Fault]) -> dict[str, list[Fault]]:
        """``repository@digest`` of whole images, and what of them is damaged."""
        found: dict[str, list[Fault]] = {}
        for fault in faults:
            if fault.mended or fault.busy or fault.kind not in ("layer", "blob"):
                continue
            for image in fault.images:
                for source in await self._store.store.disk.run(partial(self._origins, image)):
                    found.setdefault(source, []).append(fault)
        return found

    def _origins(self, image: str) -> list[str]:
        read = self._store.store.disk.read
        rows = read(
            "SELECT reference, manifest_digest FROM repo_digest JOIN image ON image.id = image"
            " WHERE image = ? AND manifest_digest <> '' ORDER BY reference",
            (image,),
        )
        # Not the index that the name may stand for: from that another platform's image could be chosen.
        return list(dict.fromkeys(f"{parse(row['reference']).name}@{row['manifest_digest']}" for row in rows))

    async def _fetch(self, source: str, faults: Sequence[Fault]) -> None:
        db, layers = self._store.store.disk, self._store.layers
        known = await db.run(lambda: db.read("SELECT 1 FROM repo_digest WHERE reference = ?", (source,)))
        for fault in faults:
            if fault.kind == "blob":
                self._store.content.drop(fault.id)
        why = ""
        try:
            async with _closing(self._store.pull(source)) as steps:
                async for _ in steps:
                    pass
        except WharfError as error:
            why = f"not fetched again from {source}: {error.what}: {error.why}"
        finally:
            for fault in faults:
                here = self._store.content.path(fault.id).exists() if fault.kind == "blob" else None
                if here or (here is None and fault.id not in layers.broken):
                    fault.mended, fault.done = True, f"fetched again from {source}"
                elif why:
                    fault.done = why
                elif fault.kind == "layer":
                    fault.busy, fault.done = True, _CHANGED
            if not known:
                await db.run(lambda: self._forget(source))

    def _forget(self, source: str) -> None:
        """The name that only the repair needed."""
        with self._store.store.disk.write() as con:
            con.execute("DELETE FROM repo_digest WHERE reference = ?", (source,))

    # -- what cannot be mended ----------------------------------------------------------------------------------
    async def _remove(self, fault: Fault) -> None:
        users: list[str] = []

        def work() -> list[Path]:
            with deleting(self._store) as deletion:
                con, done = deletion.con, deletion.done
                users.extend(self._users(fault.images))
                if users:
                    return []
                for image in fault.images:
                    if con.execute("SELECT 1 FROM image WHERE id = ?", (image,)).fetchone():
                        names = [one for table in ("tag", "repo_digest") for one in remove.names_of(con, table, image)]
                        remove.untag(con, names, done)
                        remove.delete(con, image, done, deletion.free)
                        self.removed.append(image)
                sql = "SELECT 1 FROM layer WHERE id = ? AND id NOT IN (SELECT layer FROM image_layer)"
                if con.execute(sql, (fault.id,)).fetchone() and deletion.free(fault.id):
                    con.execute("DELETE FROM layer WHERE id = ?", (fault.id,))
                    done.layers.append(fault.id)
            return deletion.away

        self._store.delete_later(await self._store.store.disk.run(work))
        if users:
            fault.done += f"; not removed: {', '.join(users)} need it; remove them, and try again"
            return
        fault.mended = True
        fault.done += f"; removed, with {', '.join(fault.names)}" if fault.names else "; removed"


def _unused(users: Users, key: str) -> bool:
    return not users.others(key)


@contextlib.asynccontextmanager
async def _closing(steps: AsyncIterator[PullProgress]) -> AsyncIterator[AsyncIterator[PullProgress]]:
    """Left to the garbage collector, a cancelled pull would run on."""
    try:
        yield steps
    finally:
        if isinstance(steps, AsyncGenerator):
            await steps.aclose()
