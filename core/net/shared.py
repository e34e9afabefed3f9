"""The network namespace in which an ordinary user's networks are: the host's own is not theirs to change.

It belongs to the user's user namespace and is bound to a file, in the mount namespace that all wharf processes of the
user share. So it is found by its name, lives as long as any of them does, and is seen by nobody else.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from core.kernel import mount, netns
from core.kernel.netlink import NETLINK_ROUTE, Netlink
from core.net import links

T = TypeVar("T")


@dataclass(frozen=True)
class Shared:
    """:param place: the file, in a folder of the user's own

    :param mtu: bytes, of its way out, and so of all bridges
    :param dns: an address in it at which the host's servers answer
    :param refusal: why there can be none, and what helps; None where there can
    """

    place: Path
    mtu: int
    dns: str
    refusal: tuple[str, str] | None = None

    @property
    def folder(self) -> str:
        """Where the process that connects it to the outside has its files."""
        return str(self.place.parent)

    def open(self) -> int:
        """A descriptor of the namespace, found or made. :raises OSError:"""
        try:
            return netns.open_at(str(self.place))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINVAL):
                raise
        target = os.open(self.place, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(target, fcntl.LOCK_EX)  # two engines at once must not make two
            try:
                return netns.open_at(str(self.place))
            except OSError:
                return self._make(target)
        finally:
            os.close(target)

    def _make(self, target: int) -> int:
        made = links.new_namespace()
        try:
            copy = mount.clone_tree(made)
            try:
                mount.attach(copy, target)
            finally:
                os.close(copy)
        except BaseException:
            os.close(made)
            raise
        return made


class Outside:
    """What the thread that works in the shared namespace needs of the host's. To be made outside."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outside")
        self.rtnl = self._thread.submit(lambda: Netlink(NETLINK_ROUTE)).result()  # and so the thread is there

    def do(self, work: Callable[[], T]) -> T:
        """Call ``work`` in the host's network namespace."""
        return self._thread.submit(work).result()

    def close(self) -> None:
        self.rtnl.close()
        self._thread.shutdown()
