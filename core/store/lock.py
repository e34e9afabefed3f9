"""One flock(2) per object: freed by the kernel at once when its holder dies, whatever the way."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from core.errors import Timeout
from core.store.paths import Instance

_TURNS: weakref.WeakValueDictionary[tuple[int, str], asyncio.Lock] = weakref.WeakValueDictionary()


def _path(inst: Instance, key: str) -> str:
    return f"{inst.run}/locks/{key}"


def _open(path: Path | str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try(path: str) -> int | None:
    """A locked descriptor of ``path``, or None while another holds it."""
    fd = _open(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The file may have been removed between open and flock (the last holder deletes it with the object):
        # a lock on a name that is gone excludes nobody.
        if os.fstat(fd).st_ino == os.stat(path).st_ino:
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


@contextlib.asynccontextmanager
async def object_lock(inst: Instance, key: str, timeout: float = 120.0) -> AsyncIterator[None]:
    """Hold the lock of one object; waiting never blocks the event loop.

    The short sleeps grow from 1 to 20 ms: flock has no asynchronous form, and a thread that waits in the kernel
    could not be cancelled.

    :raises Timeout: another process held it for ``timeout`` seconds
    """
    path = _path(inst, key)
    end = time.monotonic() + timeout
    # Those of this event loop come in turn and are woken at once; the file tells only other processes apart.
    turn = _TURNS.setdefault((id(asyncio.get_running_loop()), path), asyncio.Lock())
    try:
        # Not wait_for(): before Python 3.12 it may swallow a cancellation and lose the lock.
        async with asyncio.timeout(timeout):
            await turn.acquire()
    except TimeoutError:
        raise _busy(key, timeout) from None
    try:
        fd = await _acquire(path, key, timeout, end)
        try:
            yield
        finally:
            os.close(fd)
    finally:
        turn.release()


async def _acquire(path: str, key: str, timeout: float, end: float) -> int:
    pause = 0.001
    while (fd := _try(path)) is None:
        if time.monotonic() > end:
            raise _busy(key, timeout)
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 0.02)
    return fd


def _busy(key: str, timeout: float) -> Timeout:
    return Timeout(
        f"{key[:12]} is busy",
        f"another wharf process has worked on it for {timeout:.0f} s",
        "Look for it with `ps`, or try again later",
        object_id=key,
    )


def drop_lock_file(inst: Instance, key: str) -> None:
    """Remove the lock file of an object that is gone; call it while holding the lock."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_path(inst, key))


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """A blocking flock for short critical sections (a millisecond) outside the event loop's verbs."""
    fd = _open(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def lock_now(inst: Instance, key: str) -> Iterator[bool]:
    """The lock of an object that nobody works on: True while it is held, False where somebody else has it."""
    path = _path(inst, key)
    fd = _try(path)
    try:
        yield fd is not None
    finally:
        if fd is not None:
            drop_lock_file(inst, key)
            os.close(fd)
