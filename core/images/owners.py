"""What the process that unpacks a layer may do with files: all, on the host; in a user namespace less.

There (an ordinary user's engine) device files cannot be made, ``trusted.*`` attributes cannot be written, so that
overlayfs keeps its own as ``user.overlay.*`` (overlayfs.rst, "userxattr"), and a file can only belong to ids that are
mapped. Whiteouts can be made all the same: the character device 0:0 is open to all since Linux 5.8.
"""

# No dataclasses and no typing: the unpack server loads this.

from __future__ import annotations

from core.errors import Unsupported
from core.kernel.userns import Range, contained, mapped, read_map


def opaque_name(limited: bool) -> str:
    """The attribute that makes a directory hide those of the layers below."""
    return "user.overlay.opaque" if limited else "trusted.overlay.opaque"


class Owners:
    """:param uids: mapped user ids; None on the host, where all are"""

    def __init__(self, uids: tuple[Range, ...] | None = None, gids: tuple[Range, ...] = ()) -> None:
        self.uids, self.gids = uids, gids

    @classmethod
    def here(cls) -> Owners:
        """Of this process. It reads /proc: before another root is entered."""
        return cls(read_map("uid"), read_map("gid")) if contained() else cls()

    @property
    def limited(self) -> bool:
        return self.uids is not None

    def of(self, uid: int, gid: int) -> tuple[int, int]:
        """The owner that a file can get whose archive says ``uid`` and ``gid``.

        With a single id everything is root's: nobody else exists in such a container.

        :raises Unsupported: one of them is not mapped
        """
        if self.uids is None:
            return uid, gid
        return _one("user", self.uids, uid), _one("group", self.gids, gid)


def _one(kind: str, ranges: tuple[Range, ...], number: int) -> int:
    if mapped(ranges, number):
        return number
    count = sum(piece.count for piece in ranges)
    if count == 1:
        return 0
    raise Unsupported(
        f"the image has files of {kind} {number}, which your containers do not have",
        f"your user namespace has {count} {kind} ids",
        f"Have an administrator add a range to /etc/sub{kind[0]}id, or pull it as root",
    )
