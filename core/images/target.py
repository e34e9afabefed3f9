"""Where an archive goes: into a descriptor, a device or a fifo as it comes; into a file that has its name once it is
whole."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import select
import stat
from collections.abc import AsyncIterator
from pathlib import Path

from core.errors import Conflict, NotFound
from core.images.outgoing import Watch

_PATIENCE = 200  # milliseconds between two looks whether anybody still waits
_PIECE = 8 * 1024 * 1024  # bytes between two such looks
_MOST_PIECES = os.sysconf("SC_IOV_MAX")  # of one writev(2)
_UNABLE = (errno.EINVAL, errno.ENOSYS)  # sendfile(2): opened for appending, or of a kind that cannot


@contextlib.asynccontextmanager
async def opened(target: int | Path) -> AsyncIterator[int]:
    """A descriptor for the archive, to be written with :func:`write` and :func:`copy`.

    :raises NotFound: the folder does not exist
    :raises Conflict: it is a folder
    :raises OSError:
    """
    if isinstance(target, int):
        fd = _again(target)
        try:
            yield fd
        finally:
            os.close(fd)
        return
    if target.is_dir():
        raise Conflict(f"cannot write {target}", "it is a folder", "Name a file")
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        fd = await _special(target)
        try:
            yield fd
        finally:
            os.close(fd)
        return
    # What a link leads to, and not the link itself, which may be /dev/stdout.
    target = Path(os.path.realpath(target))
    check_folder(target)
    beside = name_beside(target)
    fd, nameless = _new_file(beside)
    try:
        yield fd
        if nameless:
            # With a descriptor of the source Python takes linkat(2), which alone can follow this link.
            os.link(f"/proc/self/fd/{fd}", beside, src_dir_fd=fd, follow_symlinks=True)
        os.rename(beside, target)
    finally:
        os.close(fd)
        beside.unlink(missing_ok=True)


def check_folder(target: Path) -> None:
    """:raises NotFound: ``target`` is to be made in a folder that does not exist"""
    if not target.parent.is_dir():
        raise NotFound(f"no such folder: {target.parent}", f"{target.name} is to be made in it", "Make it first")


def name_beside(target: Path) -> Path:
    """A name for what will be ``target``."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")


def _again(fd: int) -> int:
    """The same file; a pipe in such a way that waiting for its reader can be broken off. That it does not block must
    not show to others who have it, so it is opened anew."""
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        with contextlib.suppress(OSError):  # it is somebody else's
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return os.dup(fd)


async def _special(path: Path) -> int:
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO or not path.is_fifo():
                raise
        await asyncio.sleep(_PATIENCE / 1000)  # nobody has opened it for reading yet


def _new_file(beside: Path) -> tuple[int, bool]:
    """A file that has no name until it is whole, so that nothing stays of one that never will be; where the file
    system cannot do that, one called ``beside``."""
    try:
        return os.open(beside.parent, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600), True
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            raise
    return os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), False


# -- writing ----------------------------------------------------------------------------------------------------


def write(fd: int, data: bytes, watch: Watch) -> None:
    """All of ``data``.

    :param watch: called while the reader does not read; what it raises ends the wait
    :raises OSError:
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            _wait(fd, watch)


def write_all(fd: int, pieces: list[bytes], watch: Watch) -> None:
    """All of ``pieces``, copied by nobody but the kernel; see :func:`write`."""
    for first in range(0, len(pieces), _MOST_PIECES):
        some = pieces[first : first + _MOST_PIECES] if len(pieces) > _MOST_PIECES else pieces
        try:
            done = os.writev(fd, some)
        except BlockingIOError:
            done = 0
        if done < sum(map(len, some)):
            write(fd, b"".join(some)[done:], watch)


def copy(fd: int, source: int, size: int, watch: Watch) -> None:
    """The first ``size`` bytes of the file ``source``; see :func:`write`."""
    at = 0
    while at < size:
        try:
            at += os.sendfile(fd, source, at, min(_PIECE, size - at))
        except BlockingIOError:
            _wait(fd, watch)
        except OSError as error:
            if error.errno not in _UNABLE:
                raise
            data = os.pread(source, min(_PIECE, size - at), at)
            write(fd, data, watch)
            at += len(data)
        watch(at)


def lend(fd: int, source: int, offset: int, size: int, watch: Watch) -> int:
    """Put up to ``size`` bytes of the file ``source`` into the pipe ``fd`` by reference, and say how many there were:
    fewer where the file ends before, none where it is of a kind that cannot. Waits for the reader.

    :param watch: told after each piece how many it has been so far; what it raises ends the work
    :raises OSError:
    """
    done = 0
    try:
        while done < size and (count := os.sendfile(fd, source, offset + done, min(_PIECE, size - done))):
            done += count
            watch(done)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
    return done


def _wait(fd: int, watch: Watch) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(_PATIENCE):
        watch(0)
