"""User namespaces and their maps of ids (user_namespaces(7), subuid(5))."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from core.errors import InvalidArgument, NoPrivilege

ALL = 4294967295  # ids: 2³² - 1 means "none"
_FIRST = 0xEFFFFFFD  # inode of the host's first user namespace: USER_NS_INIT_INO, linux/nsfs.h
_LINES = 340  # of one map, at most (Linux 4.15)


class Range:
    """``count`` ids from ``inside`` on are, seen from the parent namespace, those from ``outside`` on."""

    def __init__(self, inside: int, outside: int, count: int) -> None:
        self.inside = inside
        self.outside = outside
        self.count = count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Range) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.inside, self.outside, self.count))

    def __repr__(self) -> str:
        return f"Range({self.inside}, {self.outside}, {self.count})"

    def __str__(self) -> str:
        return f"{self.inside} {self.outside} {self.count}"


def read_map(kind: str = "uid", pid: int | str = "self") -> tuple[Range, ...]:
    """The map of ``kind`` (``uid`` or ``gid``) of a process's user namespace, as this process sees it; empty where none
    has been written.

    :raises OSError: ENOENT where the process is gone
    """
    fd = os.open(f"/proc/{pid}/{kind}_map", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # not a FIFO of an image's
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
    try:
        return os.stat("/proc/self/ns/user").st_ino != _FIRST
    except FileNotFoundError:  # a kernel without user namespaces
        return False


def mapped(ranges: Iterable[Range], number: int) -> bool:
    """Does the id ``number``, as seen inside, mean anything outside?"""
    return any(piece.inside <= number < piece.inside + piece.count for piece in ranges)


def outside(ranges: Iterable[Range], number: int) -> int | None:
    """What the id ``number``, as seen inside, is called outside; None where it is nobody's there."""
    for piece in ranges:
        if piece.inside <= number < piece.inside + piece.count:
            return piece.outside + number - piece.inside
    return None


def in_use() -> list[tuple[int, int]]:
    """The ids (first, how many) that the user namespaces of running processes have been given, other than our own;
    uids and gids together. A look at every process of the host."""
    seen, found = {os.readlink("/proc/self/ns/user")}, []
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            space = os.readlink(f"/proc/{name}/ns/user")
            if space not in seen:
                found += [(piece.outside, piece.count) for kind in ("uid", "gid") for piece in read_map(kind, name)]
                seen.add(space)
        except OSError:  # it has ended, or is not ours to see
            continue
    return found


def subordinate(path: str, names: Sequence[str] | None) -> list[tuple[int, int]]:
    """The ranges (first id, how many) that ``/etc/subuid`` or ``/etc/subgid`` gives to an owner, who stands there by
    name or by number (``None``: to anybody), in the file's order.

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
        if (names is None or owner in names) and first.isdecimal() and count.isdecimal() and int(count):
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


def write_for(pid: int, uids: Iterable[Range], gids: Iterable[Range]) -> None:
    """Write the maps of another process's user namespace: by ourselves where we may, else by newuidmap(1) and
    newgidmap(1), which let an ordinary user have what /etc/subuid and /etc/subgid give to them.

    :raises NoPrivilege: neither does
    """
    for kind, pieces in (("uid", list(uids)), ("gid", list(gids))):
        if pieces and not _written(pid, kind, pieces):
            _write_by_helper(pid, kind, pieces)


def _written(pid: int, kind: str, pieces: Sequence[Range]) -> bool:
    try:
        if kind == "gid" and len(pieces) == 1 and os.geteuid():
            _write(f"/proc/{pid}/setgroups", "deny")
        _write(f"/proc/{pid}/{kind}_map", "\n".join(str(piece) for piece in pieces))
    except PermissionError:
        return False
    except OSError as error:
        raise InvalidArgument(
            f"cannot map {kind}s {', '.join(str(piece) for piece in pieces)}",
            f"the kernel refuses it: {error.strerror}",
            "Ranges must not overlap, and the outer ids must exist in our own user namespace",
        ) from error
    return True


def _write_by_helper(pid: int, kind: str, pieces: Sequence[Range]) -> None:
    name = f"new{kind}map"
    words = [name, str(pid), *(word for piece in pieces for word in str(piece).split())]
    child = os.fork()
    if child == 0:
        try:
            os.execvpe(name, words, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        except OSError:
            os._exit(127)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise NoPrivilege(
            f"cannot map {kind}s {', '.join(str(piece) for piece in pieces)}",
            f"{name} is not installed" if code == 127 else f"{name} refuses it: see /etc/sub{kind}",
            "Install uidmap" if code == 127 else f"Add a line USER:FIRST:COUNT to /etc/sub{kind}",
        )


def setgroups_allowed(pid: int | str = "self") -> bool:
    """May setgroups(2) be called in a process's user namespace? To be asked of the host's /proc, before a container's
    root is entered."""
    try:
        # Should it be the image's all the same: do not wait for a FIFO, nor load a codec for it.
        fd = os.open(f"/proc/{pid}/setgroups", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:  # no user namespaces in this kernel
        return True
    try:
        return os.read(fd, 16).strip() != b"deny"
    finally:
        os.close(fd)


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
