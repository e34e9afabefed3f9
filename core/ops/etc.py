"""The files in a container's /etc that the engine writes (hosts, resolv.conf, hostname), and may not write over.

Beside each lies a copy of what was written last (``.ours``): where the file says something else, somebody in the
container has changed it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from core.runtime.spec import holds

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST = 1 << 20  # bytes of a file that we look into: whoever is in the container may have filled it


Owed = tuple[Path, str]  # a file, and what was written there


def renew(path: Path, text: str, *, merge: bool = False) -> None:
    """Write ``text``, in place: a running container's bind mount keeps showing the file. What somebody has changed in
    there stays as it is.

    :param merge: of a changed file, our own lines are made what they must be now
    """
    last = path.with_name(f"{path.name}.ours")
    before, there = _read(last), _read(path)
    if before is None or there in (None, before):
        _write(path, text)
    elif merge and there:
        _write(path, merged(there, before, text))
    _write(last, text)


def reserve(path: Path) -> None:
    """Make a file that can be mounted already, for :func:`begin`, where there is none."""
    if not os.path.lexists(path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}.ours")  # of one that is gone: beside an empty file it would say that somebody emptied it
        _put(os.open(path, _WRITE | os.O_EXCL, 0o644), "")


def begin(path: Path, text: str, *, merge: bool = False) -> Owed | None:
    """:func:`renew`; of a file that was not there yet, or only by :func:`reserve`, the copy can wait, and is owed to
    :func:`note`: whoever finds a file without one writes it anew."""
    try:
        _put(os.open(path, _WRITE | os.O_EXCL, 0o644), text)
    except FileExistsError:
        there = os.lstat(path)
        if there.st_size or not stat.S_ISREG(there.st_mode) or os.path.lexists(f"{path}.ours"):
            renew(path, text, merge=merge)
            return None
        _put(os.open(path, _WRITE, 0o644), text)
    return path, text


def note(path: Path, text: str) -> None:
    """Write the copy of a file that :func:`begin` has written."""
    _write(Path(f"{path}.ours"), text)


def merged(there: str, before: str, now: str) -> str:
    """A changed file with our new lines in the place of our old ones; a line of ours that was removed does not come
    back."""
    old, new = _lines(before), _lines(now)
    kept = [line for line in _lines(there) if line in new or line not in old]
    return "".join(f"{line}\n" for line in [*kept, *(line for line in new if line not in old)])


def _lines(text: str) -> list[str]:
    """Not splitlines(): that takes more than a line feed for the end of one, and a comment would go on as a line of its
    own."""
    return text.removesuffix("\n").split("\n") if text else []


def _read(path: Path) -> str | None:
    """None where there is no such file; empty where it is too large."""
    try:
        if path.stat().st_size > _MOST:
            return ""
        return path.read_bytes().decode(errors="surrogateescape")
    except FileNotFoundError:
        return None


def _write(path: Path, text: str) -> None:
    """Not where it is the same: to replace what a file has makes ext4 write to the disk before the call returns (mount
    option auto_da_alloc)."""
    if not holds(path, text.encode(errors="surrogateescape")):
        _put(os.open(path, _WRITE | os.O_TRUNC, 0o644), text)


def _put(fd: int, text: str) -> None:
    """``fd`` is closed."""
    try:
        os.fchmod(fd, 0o644)  # whatever our umask
        os.write(fd, text.encode(errors="surrogateescape"))
    finally:
        os.close(fd)
