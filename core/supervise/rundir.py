"""A container's run folder: it exists, and is locked, exactly as long as its monitor (or the next one) is at work."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from typing import cast

from core.errors import Conflict
from core.supervise.protocol import Launch, Message

PATIENCE = 10.0  # seconds that the last monitor of this container may take to leave
FIFOS = ("stdin", "stdout", "stderr")
LAUNCH = "launch.json"
CONTROL = "ctl.sock"


class RunDir:
    """The locked folder. One monitor at a time: the second waits, however the first ends."""

    def __init__(self, path: str, *, patience: float = PATIENCE) -> None:
        """:raises Conflict: another monitor is at work there"""
        self.path = path
        end = time.monotonic() + patience
        while (fd := self._try()) is None:
            if time.monotonic() > end:
                raise Conflict("the container has a monitor already", f"{path} is locked", "Wait, or kill it first")
            time.sleep(0.002)
        self._lock = fd

    def _try(self) -> int | None:
        self.fresh = True  # no monitor was killed in there
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            self.fresh = False
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last monitor removes the folder while it holds the lock: ours must be the one that has the name.
            if os.fstat(fd).st_ino == os.stat(self.path).st_ino:
                return fd
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(fd)
        return None

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def clear(self) -> None:
        """Remove what a monitor that was killed during its start may have left."""
        _empty(self.path)

    def make_fifos(self) -> None:
        for name in FIFOS:
            os.mkfifo(self.file(name), 0o600)

    def our_outputs(self) -> dict[int, int]:
        """The monitor's ends of the output pipes → stream."""
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
        return {os.open(self.file(name), flags): stream for name, stream in (("stdout", 1), ("stderr", 2))}

    def our_input(self) -> int:
        """The monitor's end of the input pipe."""
        return os.open(self.file("stdin"), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def child_stdio(self, *, stdin: bool) -> tuple[int, int, int]:
        """The container's ends. Output is opened read-write: while no monitor reads, writing blocks, and is no error.

        Input is opened for reading only, so that its end can be seen.
        """
        out, err = (os.open(self.file(name), os.O_RDWR | os.O_CLOEXEC) for name in ("stdout", "stderr"))
        return os.open(self.file("stdin") if stdin else "/dev/null", os.O_RDONLY | os.O_CLOEXEC), out, err

    def save_launch(self, plain: bytes) -> None:
        """The launch as JSON, for a monitor that has to take over."""
        # Aside and renamed: one that has been changed must not be lost with half of the change.
        fd = os.open(self.file(f"{LAUNCH}.new"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if os.write(fd, plain) < len(plain):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.file(LAUNCH))
        finally:
            os.close(fd)
        os.rename(self.file(f"{LAUNCH}.new"), self.file(LAUNCH))

    def remove(self) -> None:
        """Remove the folder and let go of the lock. An engine may have removed it before (it saw the exit record)."""
        try:
            if self.ours:
                self.clear()
                os.rmdir(self.path)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
        finally:
            os.close(self._lock)
            self._lock = -1

    @property
    def ours(self) -> bool:
        """False once it is removed, by whomever; a new one of that name is another monitor's."""
        try:
            return self._lock >= 0 and os.fstat(self._lock).st_ino == os.stat(self.path).st_ino
        except FileNotFoundError:
            return False


def _empty(folder: str) -> None:
    for entry in list(os.scandir(folder)):
        if entry.is_dir(follow_symlinks=False):  # another runtime's
            _empty(entry.path)
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)


def is_held(path: str) -> bool:
    """Is a monitor at work in the run folder ``path``?"""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def load_launch(path: str) -> Launch | None:
    """What the container in the run folder ``path`` was launched with; None where there is none."""
    try:
        with open(os.path.join(path, LAUNCH)) as file:
            return Launch.from_plain(cast(Message, json.load(file)))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
