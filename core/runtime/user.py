"""Who a container's process is: ``USER``, ``--user`` and ``exec --user``, looked up in the container's own files.

Nothing here calls ``getpwnam``: inside a container that would load the image's name-service libraries into a
privileged process (CVE-2019-14271).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

from core.errors import InvalidArgument
from core.kernel import resolve

USER_ANNOTATION = "io.wharfinger.user"
GROUPS_ANNOTATION = "io.wharfinger.groups"  # names and numbers, separated by commas: ``--group-add``
_LIMIT = 10 * 1024 * 1024  # bytes of /etc/passwd and /etc/group (CVE-2024-9676)
_MAX_ID = (1 << 31) - 1  # as Docker: larger ones wrap in other people's programs (CVE-2024-40635)


class User(NamedTuple):
    """A resolved identity."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def _split(text: str) -> tuple[str, str]:
    user, colon, group = text.partition(":")
    if (colon and not (user and group)) or ":" in group or any(c.isspace() or c == "\0" for c in text):
        raise InvalidArgument(f"invalid user {text!r}", "it is not USER, UID, USER:GROUP or UID:GID", "Write it so")
    return user, group


def _number(text: str) -> int | None:
    """The id that ``text`` is, or None for a name.

    :raises InvalidArgument: it looks like a number but is no id: it must never become 0 by overflow
    """
    if not text.lstrip("+-")[:1].isdigit():
        return None
    if not (text.isascii() and text.isdecimal()) or int(text) > _MAX_ID:
        raise InvalidArgument(f"invalid id {text!r}", f"ids go from 0 to {_MAX_ID}", "Give another, or a name")
    return int(text)


def check_user(text: str) -> tuple[int | None, int | None]:
    """The uid and gid that ``text`` gives as numbers, ``None`` for a part that is a name or absent.

    :raises InvalidArgument: no user can be called that
    """
    user, group = _split(text)
    return _number(user) if user else None, _number(group) if group else None


def lookup(root_fd: int, text: str) -> User:
    """Resolve ``text`` (``""`` is root) by /etc/passwd and /etc/group below ``root_fd``.

    A number need not be in the files. Without a group, the user's primary and supplementary groups apply; with one,
    that group alone does (as with Docker).

    :raises InvalidArgument: unknown user or group, or a malformed text
    """
    name, group = _split(text)
    uid = _number(name) if name else 0
    entry = _passwd_entry(root_fd, name, uid)
    if entry is None:
        if uid is None:
            raise InvalidArgument(f"unknown user {name!r}", "the image's /etc/passwd has no such name", "Use a uid")
        login, gid, home = "", 0, "/"
    else:
        login, uid, gid, home = entry
    if group:
        number = _number(group)
        return User(uid or 0, _group_id(root_fd, group) if number is None else number, (), home)
    return User(uid or 0, gid, _supplementary(root_fd, login, gid), home)


def group_ids(root_fd: int, words: str) -> tuple[int, ...]:
    """The ids of groups given as names and numbers, separated by commas.

    :raises InvalidArgument: an unknown name
    """
    found = []
    for word in filter(None, words.split(",")):
        number = _number(word)
        found.append(_group_id(root_fd, word) if number is None else number)
    return tuple(found)


def identity(root_fd: int, own: Mapping[str, object], annotations: Mapping[str, object]) -> User:
    """Who an OCI ``process`` is; where the engine has left it as words (annotations), by the files below ``root_fd``.

    :raises InvalidArgument: unknown user or group
    """
    user = cast("dict[str, object]", own.get("user") or {})
    groups = tuple(cast("list[int]", user.get("additionalGids") or []))
    if USER_ANNOTATION in annotations:
        found = lookup(root_fd, str(annotations[USER_ANNOTATION]))
        more = group_ids(root_fd, str(annotations.get(GROUPS_ANNOTATION, "")))
        return User(found.uid, found.gid, tuple(dict.fromkeys((*found.groups, *groups, *more))), found.home)
    uid = cast(int, user.get("uid") or 0)
    return User(uid, cast(int, user.get("gid") or 0), groups, home_of(root_fd, uid))


def home_of(root_fd: int, uid: int) -> str:
    """The home folder that /etc/passwd gives to a uid; ``/`` where it does not."""
    entry = _passwd_entry(root_fd, "", uid)
    return entry[3] if entry else "/"


def _records(root_fd: int, path: str, fields: int) -> list[list[str]]:
    try:
        content = resolve.read_file(root_fd, path, _LIMIT)
    except OSError:
        return []  # no file, or not a file: the image simply has no names
    lines = content.decode("utf-8", "surrogateescape").splitlines()
    return [parts for line in lines if len(parts := line.strip().split(":")) >= fields and not line.startswith("#")]


def _id(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and int(text) <= _MAX_ID else None


def _passwd_entry(root_fd: int, name: str, uid: int | None) -> tuple[str, int, int, str] | None:
    for parts in _records(root_fd, "/etc/passwd", 6):
        found, gid = _id(parts[2]), _id(parts[3])
        if found is None or gid is None:
            continue
        if (found == uid) if uid is not None else (parts[0] == name):
            return parts[0], found, gid, parts[5] or "/"
    return None


def _group_id(root_fd: int, name: str) -> int:
    for parts in _records(root_fd, "/etc/group", 3):
        gid = _id(parts[2])
        if parts[0] == name and gid is not None:
            return gid
    raise InvalidArgument(f"unknown group {name!r}", "the image's /etc/group has no such name", "Use a gid")


def _supplementary(root_fd: int, login: str, primary: int) -> tuple[int, ...]:
    groups = {primary}
    for parts in _records(root_fd, "/etc/group", 4):
        gid = _id(parts[2])
        if login and gid is not None and login in parts[3].split(","):
            groups.add(gid)
    return tuple(sorted(groups))
