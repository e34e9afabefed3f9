"""Steps with their undo, written before each step is taken.

A verb that takes things from the kernel or the disk opens a journal; each ``step`` names the undo that would release
what it is about to take. When all is done, the journal is deleted. When a step raises, the undos run in reverse order.
When the process is killed, its flock on the journal file is free, and the next engine to open runs them instead
(:func:`orphans`). Undos must therefore be idempotent, and are named, with plain data as arguments::

    async with Journal(inst, "start", cid, undos) as journal:
        journal.step("net.detach", cid)
        attachment = await net.attach(…)

Files live in the run root and are not synced: what they protect is gone with the boot as they are. Things on disk are
protected by order instead (build aside, rename, then commit the row).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from core.errors import WharfError
from core.store.paths import Instance

Undo = Callable[..., Awaitable[None]]
T = TypeVar("T")


async def undo_all(steps: list[tuple[str, list[str]]], undos: Mapping[str, Undo]) -> list[str]:
    """Run undos, last step first; a failing one does not stop the others. Returns what failed, in words."""
    failed = []
    for name, args in reversed(steps):
        try:
            await undos[name](*args)
        except Exception as error:  # collected and reported: the rest must still be released
            failed.append(f"{name}: {error}")
    return failed


async def to_the_end(work: Awaitable[T]) -> T:
    """Await ``work`` however often the caller is cancelled meanwhile: half an undo is worse than none."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


class Journal:
    """The journal of one operation on one object."""

    def __init__(self, inst: Instance, verb: str, oid: str, undos: Mapping[str, Undo]) -> None:
        self._folder, self._name = f"{inst.run}/journal", f"{oid}.{verb}.{os.getpid()}"
        self._undos = undos
        self._steps: list[tuple[str, list[str]]] = []
        self._verb = verb
        self._oid = oid
        self._fd = -1

    async def __aenter__(self) -> Self:
        # Under its name only once it is locked: a journal without a lock is taken for a dead owner's.
        hidden = f"{self._folder}/.{self._name}"
        self._fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        os.rename(hidden, f"{self._folder}/{self._name}")
        return self

    def step(self, undo: str, *args: str) -> None:
        """Note how to release what comes next. Call it *before* taking: a crash between would leak."""
        if undo not in self._undos:
            raise KeyError(undo)
        self._steps.append((undo, list(args)))
        os.write(self._fd, (json.dumps([undo, *args]) + "\n").encode())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            failed = [] if error is None else await to_the_end(undo_all(self._steps, self._undos))
            # Unlink before close: a journal without a lock means a dead owner.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self._folder}/{self._name}")
        finally:
            # Where the undo itself was broken off, the journal stays, and the next engine finds it without a lock.
            os.close(self._fd)
        if isinstance(error, WharfError):
            error.object_id = error.object_id or self._oid
            error.cleanup = (*error.cleanup, *failed)
        elif failed and error is not None:
            error.add_note(f"{self._verb}: could not undo " + "; ".join(failed))


def is_open(inst: Instance, verb: str, oid: str) -> bool:
    """Is the operation under way, or broken off and not undone yet?"""
    return any((inst.run / "journal").glob(f"{oid}.{verb}.*"))


def orphans(inst: Instance) -> Iterator[tuple[Path, str, str, list[tuple[str, list[str]]]]]:
    """Journals whose owner is dead, as (path, object id, verb, steps). Unlink the path once they are undone."""
    for path in (inst.run / "journal").glob(".*"):
        # Its owner died before it was locked and named: nothing had been taken yet.
        if not Path("/proc", path.name.rpartition(".")[2]).exists():
            path.unlink(missing_ok=True)
    for path in sorted((inst.run / "journal").glob("[!.]*")):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            steps = []
            for line in path.read_text().splitlines():
                try:
                    name, *args = json.loads(line)
                except ValueError:
                    break  # cut by the crash: that step was never taken
                steps.append((name, args))
            oid, verb, _ = path.name.rsplit(".", 2)
            yield path, oid, verb, steps
        except (BlockingIOError, FileNotFoundError):
            continue
        finally:
            os.close(fd)
