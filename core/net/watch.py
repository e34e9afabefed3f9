"""Hearing of changes to the firewall that were not ours (nftables notifications, linux/netfilter/nfnetlink.h)."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator

from core.kernel import nftables as nft
from core.kernel.netlink import NETLINK_NETFILTER, Netlink, attr_map, events, string

_LOSSES = frozenset({nft.DELTABLE, nft.DELCHAIN, nft.DELRULE, nft.DELSET, nft.DELSETELEM})
_FOREIGN = frozenset({"filter", "firewalld"})  # what may hold our traffic back, see core.net.foreign
_QUIET = 0.05  # seconds: a flush comes as a burst, and so does the start of another engine


class Watch:
    """A subscription; yields once per burst of events that may concern us.

    :param own: the port of the socket by which we make changes ourselves
    """

    def __init__(self, table: str, own: int) -> None:
        self._table = table
        self._own = own
        self._nl = Netlink(NETLINK_NETFILTER, [nft.EVENTS_GROUP])
        self._nl.socket.setblocking(False)

    def close(self) -> None:
        self._nl.close()

    async def changes(self) -> AsyncIterator[None]:
        """One item per burst, when it has ended; also one at the start, for what happened before."""
        yield
        loop = asyncio.get_running_loop()
        while True:
            if await self._receive(loop):
                await asyncio.sleep(_QUIET)
                self._drain()
                yield

    async def _receive(self, loop: asyncio.AbstractEventLoop) -> bool:
        try:
            data = await loop.sock_recv(self._nl.socket, 1 << 18)
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return True  # events were lost: look
            raise
        return any(port != self._own and self._concerns(kind, body) for kind, port, body in events(data))

    def _concerns(self, kind: int, body: bytes) -> bool:
        table = string(attr_map(body, 4).get(1, b""))
        if table == self._table:
            return kind in _LOSSES
        return table in _FOREIGN and kind in _LOSSES | {nft.NEWCHAIN, nft.NEWRULE}

    def _drain(self) -> None:
        while True:
            try:
                self._nl.socket.recv(1 << 18)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
