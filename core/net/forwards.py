"""What else than our table decides at the forward hook: packets must pass every base chain there."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
from pathlib import Path
from typing import NamedTuple

from core.kernel import nftables as nft
from core.kernel.libc import call
from core.kernel.netlink import Netlink, NetlinkError, attr_map, string
from core.kernel.nftchains import FORWARD, BaseChain, base_chains
from core.net import foreign

FAMILIES = {"inet": 1, "ip": 2, "ip6": 10}  # NFPROTO_*
_GET_INFO, _GET_ENTRIES = 64, 65  # IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES (linux/netfilter_ipv4/ip_tables.h)


class Forward(NamedTuple):
    """A base chain at the forward hook: how many rules it has, whether it refuses what none of them accepts (by policy,
    or by the last one), and which bridges the rules of its table name."""

    chain: BaseChain
    rules: int
    refuses: bool
    named: tuple[str, ...]

    def __str__(self) -> str:
        return f"table {self.chain.family} {self.chain.table}, chain {self.chain.name}"

    @property
    def how(self) -> str:
        return "drops by policy" if self.chain.drops else "refuses by its last rule"

    @property
    def is_place(self) -> bool:
        """Whether we put accepts into its table ourselves."""
        place = (FAMILIES[self.chain.family], self.chain.table, self.chain.name)
        return place in [(one.family, one.table, one.chains[-1]) for one in foreign.PLACES]


def chains(nl: Netlink, own: str, bridges: tuple[str, ...]) -> list[Forward]:
    """All but those of the table ``own``. :param bridges: names to look for in the rules"""
    try:
        found = base_chains(nl)
    except NetlinkError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL):
            return []  # no nftables
        raise
    return [_read(nl, chain, bridges) for chain in found if chain.hook == FORWARD and chain.table != own]


def _read(nl: Netlink, chain: BaseChain, bridges: tuple[str, ...]) -> Forward:
    family = FAMILIES[chain.family]
    rules = nft.rules(nl, family, chain.table, chain.name)
    bodies = [
        body
        for body in nl.dump(nft.GETRULE, struct.pack("!BBH", family, 0, 0))
        if body[0] == family and string(attr_map(body, 4)[1]) == chain.table
    ]
    named = [bridge for bridge in bridges if any(bridge.encode() + b"\0" in body for body in bodies)]
    return Forward(chain, len(rules), chain.drops or bool(rules and rules[-1].refuses), tuple(named))


def legacy_policy() -> str:
    """The policy of FORWARD in iptables' own, older table ``filter``: accept or drop; "" where there is none."""
    try:
        if "filter" not in Path("/proc/thread-self/net/ip_tables_names").read_text().split():
            return ""
        with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)) as raw:
            # struct ipt_getinfo: name, valid hooks, five entries, five underflows, count, size of the entries
            info = _ask(raw, _GET_INFO, b"filter".ljust(32, b"\0") + bytes(52))
            underflow, size = struct.unpack_from("=5I", info, 56)[FORWARD], struct.unpack_from("=I", info, 80)[0]
            entries = _ask(raw, _GET_ENTRIES, struct.pack("=32sI4x", b"filter", size) + bytes(size))
    except OSError:
        return ""
    # The chain's last rule is its policy: struct ipt_entry (112 bytes), xt_entry_target (32), the verdict
    verdict = struct.unpack_from("=i", entries, 40 + underflow + 112 + 32)[0]
    return "drop" if verdict == -1 else "accept"


def _ask(raw: socket.socket, option: int, data: bytes) -> bytes:
    """getsockopt(2) that sends something as well."""
    buffer = ctypes.create_string_buffer(data, len(data))
    size = ctypes.c_uint32(len(data))
    call("getsockopt", raw.fileno(), socket.SOL_IP, option, buffer, ctypes.byref(size))
    return buffer.raw[: size.value]
