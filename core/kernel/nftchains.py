"""The base chains of everybody's tables: where else packets may be dropped (linux/netfilter/nf_tables.h)."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from core.kernel.netlink import Netlink, attr_map, string
from core.kernel.nftables import DROP, GETCHAIN, INET, IPV4

IPV6 = 10
INPUT, FORWARD = 1, 2  # NF_INET_LOCAL_IN, NF_INET_FORWARD
_FAMILIES = {INET: "inet", IPV4: "ip", IPV6: "ip6"}


class BaseChain(NamedTuple):
    """A chain that the kernel calls by itself. ``family`` is ``ip``, ``ip6`` or ``inet``."""

    family: str
    table: str
    name: str
    hook: int
    drops: bool  # by policy

    def holds(self, version: int) -> bool:
        """Do packets of this version of IP pass by?"""
        return self.family in ("inet", "ip" if version == 4 else "ip6")

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.name}"


def base_chains(nl: Netlink) -> list[BaseChain]:
    """All of the calling thread's network namespace; those of other families (bridge, arp …) are left out."""
    found = []
    for body in nl.dump(GETCHAIN, struct.pack("!BBH", socket.AF_UNSPEC, 0, 0)):
        fields = attr_map(body, 4)
        hook = attr_map(fields.get(4, b"")).get(1)
        if hook is None or body[0] not in _FAMILIES:
            continue
        policy = struct.unpack("!I", fields[5])[0] if 5 in fields else 1
        number = struct.unpack("!I", hook)[0]
        found.append(BaseChain(_FAMILIES[body[0]], string(fields[1]), string(fields[3]), number, policy == DROP))
    return found


def names(nl: Netlink) -> set[str]:
    """The names of all tables and chains of ip, ip6 and inet: by them one knows who manages a firewall."""
    found = set()
    for body in nl.dump(GETCHAIN, struct.pack("!BBH", socket.AF_UNSPEC, 0, 0)):
        if body[0] in _FAMILIES:
            fields = attr_map(body, 4)
            found |= {string(fields.get(1, b"")), string(fields.get(3, b""))}
    return found
