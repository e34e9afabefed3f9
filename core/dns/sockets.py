"""The resolver's two sockets, inside the container's network namespace.

They are bound to a port that nobody asks for, so that the container can have a server on port 53 itself, and every
question to 127.0.0.11:53 is sent there by a table of that namespace. Not ``redirect``, which means 127.0.0.1 for what
comes from the machine itself. The way back needs no rule: the answer comes from where the question went, and connection
tracking puts the old port on it.
"""

from __future__ import annotations

import socket
import struct

from core.dns import ADDRESS
from core.kernel import netns
from core.kernel import nftables as nft
from core.kernel.netlink import NETLINK_NETFILTER, Message, Netlink

_TABLE = "wharf_dns"
_TAG = b"wharf dns 1"
_PORT = struct.pack("!H", 53)
_BACKLOG = 64
_ROOM = 1 << 20  # bytes of questions that wait (each counts as 768): a busy host leaves the monitor out for a while
_IPV4 = nft.meta(nft.META_NFPROTO) + nft.compare(bytes([nft.IPV4]))
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_DESTINATION = 16  # offset in the IPv4 header


def open_sockets(namespace: int) -> tuple[socket.socket, socket.socket]:
    """(UDP, TCP) bound inside the namespace, with the table that leads to them; the caller owns them.

    Again for the same namespace, it makes new sockets, and the table leads to those. The calling thread is inside
    meanwhile, so no other must need it.

    :raises OSError: the kernel refused; nothing is left behind
    """
    return netns.do_inside(namespace, _open_here)


def _open_here() -> tuple[socket.socket, socket.socket]:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            _make_room(udp)
            udp.bind((ADDRESS, 0))
            tcp.bind((ADDRESS, 0))
            tcp.listen(_BACKLOG)
            _lead(udp.getsockname()[1], tcp.getsockname()[1])
        except BaseException:
            tcp.close()
            raise
    except BaseException:
        udp.close()
        raise
    return udp, tcp


def _make_room(udp: socket.socket) -> None:
    try:
        udp.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
    except PermissionError:  # in a user namespace: as much as the host allows to everyone
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)


def _lead(udp: int, tcp: int) -> None:
    """Make, or make again, the table of the calling thread's namespace. :raises NetlinkError:"""
    messages: list[Message] = [nft.new_table(_TABLE, _TAG)]
    messages.append(nft.new_chain(_TABLE, "output", ("nat", nft.HOOK_OUTPUT, -100)))
    messages += [nft.rule(nft.INET, _TABLE, "output", _rule(*each)) for each in ((17, udp), (6, tcp))]
    netlink = Netlink(NETLINK_NETFILTER)
    try:
        # Only where there is one: after a deletion the kernel lets nobody close the socket before a grace period is
        # over, ten times as long as all the rest.
        if nft.table_tag(netlink, _TABLE) is not None:
            messages.insert(0, nft.del_table(_TABLE))
        nft.commit(netlink, messages)
    finally:
        netlink.close()


def _rule(protocol: int, port: int) -> bytes:
    address = socket.inet_aton(ADDRESS)
    return (
        _IPV4
        + nft.network_header(_DESTINATION, 4)
        + nft.compare(address)
        + nft.meta(nft.META_L4PROTO)
        + nft.compare(bytes([protocol]))
        + nft.transport_header(2, 2)
        + nft.compare(_PORT)
        + nft.dnat(address, port)
    )
