"""New layers and images, made here: the common end of ``commit`` and ``import``.

A tar is written into a pipe at whose other end a worker unpacks it (:mod:`core.images.unpack`): the layer is made by
the same code, with the same care, as one that comes from a registry, and its digest is that of what really was in the
pipe. Nothing is visible before the worker has read it to the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from core.errors import Conflict, WharfError
from core.images import target, tarwrite
from core.images.history import steps_of
from core.images.layers import Staging, hex_of
from core.images.manifest import host_platform
from core.images.outgoing import Watch, stoppable
from core.images.places import IMPLIED
from core.images.progress import Progress, watched
from core.images.records import NewImage
from core.images.unpackers import Result, Unpackers
from core.model import Image, Watcher
from core.units import rfc3339

if TYPE_CHECKING:
    from core.images.store import ImageStore

_PIPE = 1 << 20  # bytes; the kernel's limit for everybody
_TOLD = 1 << 20  # bytes after which whoever waits is told: twice for each file would be a tenth of the work
_TRIES = 3
T = TypeVar("T")
Pour = Callable[[int, Watch], None]  # writes a tar into a descriptor


@dataclass(frozen=True)
class Layer:
    """A layer that is in the store."""

    key: str
    diffid: str


@dataclass(frozen=True)
class Note:
    """What the maker of an image says about it."""

    author: str = ""
    message: str = ""
    created_by: str = ""


def pour(pieces: Iterable[bytes], fd: int, watch: Watch) -> None:
    """Write all ``pieces``. :raises OSError: the reader has gone"""
    done = 0
    for piece in pieces:
        target.write(fd, piece, watch)
        done += len(piece)
        watch(done)


def pour_layer(folder: Path, fd: int, watch: Watch, *, live: bool) -> None:
    """Write a layer's tar into a pipe. The content of its files is lent to the pipe by the page cache, not copied."""
    done = told = 0

    def count(more: int) -> None:
        nonlocal done, told
        done += more
        if done - told >= _TOLD:
            told = done
            watch(done)

    def put(pieces: list[bytes]) -> None:
        target.write_all(fd, pieces, watch)
        count(sum(map(len, pieces)))

    def look(part: int) -> None:  # so many bytes of a file
        if part >= _TOLD:
            watch(done + part)

    def send(before: list[bytes], source: int, offset: int, size: int) -> int:
        put(before)
        sent = target.lend(fd, source, offset, size, look)
        count(sent)
        return sent

    for batch in tarwrite.layer_batches(folder, live=live, send=send):
        put(batch)
    watch(done)


class Counter(Progress):
    """Bytes of one stream: ``what`` is in it, ``phase`` what is done with it."""

    def __init__(self, reference: str, what: str, phase: str, total: int = 0) -> None:
        super().__init__(reference, "")
        self._phase = phase
        self.begin([(what, total)])
        self.set(0, phase, 0)

    def counting(self, look: Watch, position: Callable[[], int] | None = None) -> Watch:
        """A ``look`` that counts as well. :param position: how far it is, where that is not what ``look`` is told"""

        def both(done: int) -> None:
            look(done)
            if done:  # 0 where it only waits for the reader
                self.set(0, self._phase, done if position is None else position())

        return both


async def measured(progress: Progress, work: Awaitable[T], folders: Sequence[Path], watch: Watcher | None) -> T:
    """:func:`core.images.progress.watched`, which finds out beside the work how much the tar of ``folders`` will be."""

    async def measure() -> None:
        with contextlib.suppress(WharfError, OSError):  # the work itself says what is wrong
            progress.expect(0, await stoppable(lambda look: tarwrite.estimate(folders, lambda: look(0))))

    if watch is None:
        return await work
    measuring = asyncio.create_task(measure())
    try:
        return await watched(progress, work, watch)
    finally:
        measuring.cancel()
        await asyncio.gather(measuring, return_exceptions=True)


async def add_layer(
    store: ImageStore, unpackers: Unpackers, write: Pour, unused: Callable[[str], bool] | None = None
) -> Layer:
    """Make a layer of the tar that ``write`` gives, in a thread.

    :param unused: whether no container needs a layer. With it, one that the store has already is verified, and replaced
        where it is damaged
    :raises Corrupt: it is no tar, or one that means harm
    :raises Conflict: the store has it, damaged, and somebody needs that
    :raises WharfError: what ``write`` raises; nothing stays of the layer
    """
    staging = store.layers.stage()
    try:
        result = await unpack_from(unpackers, staging, write)
        implied = bool(result.implied)
        if implied:
            names = (staging.path / IMPLIED).read_bytes().split(b"\0")
            await asyncio.to_thread(store.layers.adopt, staging, names, [])
            (staging.path / IMPLIED).unlink()
        key = result.diffid
        damage = await _damage(store, unpackers, key) if unused is not None else ""
        if damage and unused is not None:
            store.layers.broken[key] = partial(unused, key)
        try:
            await store.store.disk.run(lambda: store.layers.publish(staging, key, key, result.size, implied))
        finally:
            kept = store.layers.broken.pop(key, None) if damage else None
        if kept:
            raise Conflict(
                f"layer {hex_of(key)[:12]} is in the store already, damaged, and in use",
                damage,
                "Remove the containers of its images and try again, or mend it: wharf fsck --repair",
            )
    except BaseException:
        await unpackers.close(wait=True)  # a worker that still runs would write into what is being deleted
        raise
    finally:
        await asyncio.to_thread(store.layers.discard, staging)
    # After the staging's own lock, which is on the same folder. None where somebody has removed it at once: the commit
    # will miss it, and it is made again.
    if (held := store.layers.hold(key)) is not None:
        unpackers.held.append(held)
    return Layer(key, key)


async def _damage(store: ImageStore, unpackers: Unpackers, key: str) -> str:
    """What is wrong with a layer of the store; "" where nothing is, or where there is no such layer."""
    if store.layers.find(key, key) is None:
        return ""
    from core.images.fsck import Check  # late: most layers are new

    return await Check(store, unpackers).damage(key, key)


async def unpack_from(unpackers: Unpackers, staging: Staging, write: Pour) -> Result:
    """Have a worker unpack the tar that ``write`` gives, in a thread, into ``staging``. :raises WharfError:"""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # the user's pipes may have used up their share
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE)

    async def unpack() -> Result:
        try:
            return await unpackers.unpack(read_end, 0, -1, staging.fd, None, lambda done: None)
        finally:
            os.close(read_end)  # with the worker's end: whoever writes then is told

    async def fill() -> None:
        try:
            await stoppable(lambda watch: write(write_end, watch))
        finally:
            os.close(write_end)

    tasks = (asyncio.create_task(unpack()), asyncio.create_task(fill()))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        worker, filler = tasks
        # A broken pipe only tells that the worker has found something: its word counts. Any other failure while the
        # tar was written makes what the worker has got incomplete.
        if filler.done() and (error := filler.exception()) and not isinstance(error, BrokenPipeError):
            raise error
        return await worker
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def extended(base: dict[str, Any], config: dict[str, Any], note: Note, diffid: str, created: float) -> bytes:
    """The configuration of an image with one more step (image-spec, config.md).

    :param base: the configuration below; empty for none
    :param diffid: of the new layer; "" where the step has made none
    :param created: seconds since the epoch
    """
    here = host_platform()
    document: dict[str, Any] = {"created": rfc3339(created)}
    if note.author:
        document["author"] = note.author
    document["architecture"] = base.get("architecture") or here.architecture
    document["os"] = base.get("os") or here.os
    if variant := base.get("variant", "" if base else here.variant):
        document["variant"] = variant
    for name in ("os.version", "os.features"):
        if name in base:
            document[name] = base[name]
    document["config"] = {key: config[key] for key in sorted(config) if config[key] not in (None, "", [], {})}
    below = list((base.get("rootfs") or {}).get("diff_ids") or [])
    document["rootfs"] = {"type": "layers", "diff_ids": [*below, *([diffid] if diffid else [])]}
    history = steps_of(base)
    told = sum(not step.get("empty_layer") for step in history)
    # Some tools match the steps with the layers: what is missing below must not shift ours.
    filler = {"comment": "not in the history", **({"created": base["created"]} if base.get("created") else {})}
    history += [filler for _ in below[told:]]
    step: dict[str, Any] = {"created": document["created"], "created_by": note.created_by}
    step |= {key: value for key, value in (("author", note.author), ("comment", note.message)) if value}
    history.append(step if diffid else {**step, "empty_layer": True})
    document["history"] = history
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


async def commit(store: ImageStore, make: Callable[[], Awaitable[tuple[bytes, list[str]]]], tag: str) -> Image:
    """Write the image that ``make()`` gives as (configuration, keys of its layers).

    :param tag: its name; "" for none
    :raises Conflict: others kept removing its layers
    """
    for _ in range(_TRIES):
        config, keys = await make()
        new = NewImage(
            id=f"sha256:{hashlib.sha256(config).hexdigest()}",
            config=config,
            manifest=b"",
            manifest_digest="",
            manifest_type="",
            layers=keys,
            tags=[tag] if tag else [],
            digests=(),
        )
        if image := await store.commit(new):
            return image
    raise Conflict("the image cannot be kept", "its layers were removed while it was made", "Try again")


def now() -> float:
    """Seconds since the epoch; ``SOURCE_DATE_EPOCH`` (reproducible-builds.org) where it is set."""
    wanted = os.environ.get("SOURCE_DATE_EPOCH", "")
    return float(wanted) if wanted.isdecimal() else time.time()
