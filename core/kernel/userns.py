"""User namespaces and their maps of ids (user_namespaces(7), subuid(5))."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ALL = 4294967295  # ids: 2³² - 1 means "none"
_LINES = 340  # of one map, at most (Linux 4.15)


@dataclass(frozen=True)
class Range:
    """``count`` ids from ``inside`` on are, seen from the parent namespace, those from ``outside`` on."""

    inside: int
    outside: int
    count: int

    def __str__(self) -> str:
        return f"{self.inside} {self.outside} {self.count}"


def read_map(kind: str = "uid", pid: int | str = "self") -> tuple[Range, ...]:
    """The map of ``kind`` (``uid`` or ``gid``) of a process's user namespace, as this process sees it; empty where none
    has been written.

    :raises OSError: ENOENT where the process is gone
    """
    fd = os.open(f"/proc/{pid}/{kind}_map", os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = b""
        while part := os.read(fd, 4096):
            data += part
    finally:
        os.close(fd)
    return tuple(Range(*(int(field) for field in line.split())) for line in data.splitlines())


def contained() -> bool:
    """Is this process in a user namespace other than the host's first one? Then even root may not make device files,
    write the kernel's settings or mount the host's file systems. Read anew each time: a process can move."""
    return read_map() != (Range(0, 0, ALL),)


def mapped(ranges: Iterable[Range], number: int) -> bool:
    """Does the id ``number``, as seen inside, mean anything outside?"""
    return any(piece.inside <= number < piece.inside + piece.count for piece in ranges)


def subordinate(path: str, names: Sequence[str]) -> list[tuple[int, int]]:
    """The ranges (first id, how many) that ``/etc/subuid`` or ``/etc/subgid`` gives to an owner, who stands there by
    name or by number; in the file's order.

    A file that is missing gives nothing, and so does a line that is none: newuidmap reads it in the same way.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except (FileNotFoundError, PermissionError):
        return []
    found = []
    for line in lines:
        owner, _, rest = line.strip().partition(":")
        first, _, count = rest.partition(":")
        if owner in names and first.isdecimal() and count.isdecimal() and int(count):
            found.append((int(first), int(count)))
    return found


def with_root(number: int, ranges: Iterable[tuple[int, int]]) -> tuple[Range, ...]:
    """The usual map of a rootless engine: root inside is ``number`` outside, and 1, 2, … are the subordinate ids."""
    pieces = [Range(0, number, 1)]
    following = 1
    for first, count in ranges:
        if len(pieces) == _LINES:
            break
        pieces.append(Range(following, first, count))
        following += count
    return tuple(pieces)


def write_own(kind: str, ranges: Iterable[Range]) -> None:
    """Write this process's own map. Without privilege in the parent namespace only a single id can be mapped, its own,
    and for ``gid`` only after :func:`deny_setgroups`.

    :raises OSError: EPERM where the kernel's rules forbid the map
    """
    _write(f"/proc/self/{kind}_map", "\n".join(str(piece) for piece in ranges))


def deny_setgroups() -> None:
    """Give up setgroups(2) in this process's user namespace, so that nobody can shed a group that denies access
    (CVE-2014-8989).

    :raises OSError:
    """
    _write("/proc/self/setgroups", "deny")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())  # in one piece: the kernel takes a map by a single write
    finally:
        os.close(fd)
