"""inotify(7) on the folder of a log: wakes a follower when the file grows or is rotated."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from pathlib import Path

from core.errors import Unavailable

_IN_MODIFY, _IN_MOVED_TO, _IN_CREATE = 0x2, 0x80, 0x100
_IN_NONBLOCK, _IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC


class FolderWatch:
    """Set ``ready`` whenever something in ``folder`` changes. To be made and closed in a running event loop.

    :raises FileNotFoundError: there is no such folder
    :raises Unavailable: the host's inotify limits are used up
    """

    def __init__(self, folder: Path, ready: asyncio.Event) -> None:
        self._ready = ready
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        mask = _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE
        if self._fd < 0 or libc.inotify_add_watch(self._fd, os.fsencode(folder), mask) < 0:
            error = OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
            if self._fd >= 0:
                os.close(self._fd)
            if isinstance(error, FileNotFoundError):
                raise error
            raise Unavailable(
                "cannot follow the log",
                f"inotify: {error.strerror}",
                "Raise fs.inotify.max_user_watches or max_user_instances with sysctl",
            )
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._wake)

    def _wake(self) -> None:
        # Emptied at once, and in one read: the kernel joins equal events, so that a busy log costs one at a time.
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 65536)
        self._ready.set()

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
