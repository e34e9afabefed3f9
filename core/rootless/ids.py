"""Which ids of the host a user may give to their containers: subuid(5), subgid(5), newuidmap(1)."""

from __future__ import annotations

import pwd
import shutil
from dataclasses import dataclass

from core.kernel.userns import Range, subordinate, with_root

ENOUGH = 65536  # ids that images use: nobody is 65534
_FIRST = 100000  # SUB_UID_MIN of login.defs(5)
_SUBORDINATE = {"uid": "/etc/subuid", "gid": "/etc/subgid"}
_HELPERS = {"uid": "newuidmap", "gid": "newgidmap"}


@dataclass(frozen=True)
class Ids:
    """The maps of a user's namespace.

    :param uids: inside, outside, how many; root inside is the user
    :param helpers: set-user-ID programs that write the maps; None where only the user's own id is mapped
    :param single: why no further ids are mapped, in words; empty where they are
    :param fix: the commands by which root gives the user (more) ids
    """

    uids: tuple[Range, ...]
    gids: tuple[Range, ...]
    helpers: tuple[str, str] | None
    single: str
    fix: str

    @property
    def count(self) -> int:
        """How many ids a container has: those that are there for users and for groups alike."""
        return min(sum(piece.count for piece in ranges) for ranges in (self.uids, self.gids))


def plan(uid: int, gid: int) -> Ids:
    """The maps that the host's files allow to the user."""
    owners = _names(uid)
    ranges = {kind: subordinate(path, owners) for kind, path in _SUBORDINATE.items()}
    found = {kind: _find_helper(kind) for kind in _HELPERS}
    lacking = [_HELPERS[kind] for kind, path in found.items() if not path]
    empty = [_SUBORDINATE[kind] for kind, given in ranges.items() if not given]
    fix = "; ".join(["apt-get install uidmap"] * bool(lacking) + [_add_command(owners[0])])
    if lacking:
        reason = f"{' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not installed"
    elif empty:
        reason = f"{' and '.join(empty)} {'gives' if len(empty) == 1 else 'give'} {owners[0]} no ids"
    else:
        helpers = found["uid"], found["gid"]
        return Ids(with_root(uid, ranges["uid"]), with_root(gid, ranges["gid"]), helpers, "", fix)
    return Ids((Range(0, uid, 1),), (Range(0, gid, 1),), None, reason, fix)


def _names(uid: int) -> list[str]:
    """By name and by number: subuid(5) takes both."""
    try:
        return [pwd.getpwuid(uid).pw_name, str(uid)]
    except KeyError:
        return [str(uid)]


def _find_helper(kind: str) -> str:
    """The full path of newuidmap or newgidmap; empty where there is none."""
    # A PATH of a user's session may lack /sbin, and the program is set-user-ID root: only the usual places.
    return shutil.which(_HELPERS[kind], path="/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin") or ""


def _add_command(name: str) -> str:
    """What root types to give the user ids that nobody else has."""
    given = [piece for path in _SUBORDINATE.values() for piece in subordinate(path, None)]
    first = max([_FIRST, *(start + count for start, count in given)])
    last = first + ENOUGH - 1
    return f"usermod --add-subuids {first}-{last} --add-subgids {first}-{last} {name}"
