"""Other instances on this host (data roots): what the kernel tells of them. Each knows its own database only."""

from __future__ import annotations

import errno
import ipaddress
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from core.kernel import nftables as nft
from core.kernel import rtnetlink as rt
from core.kernel.netlink import Netlink, NetlinkError, string
from core.model import Subnet
from core.net.ipam import Range
from core.net.ruleset import FAMILIES, GUARDED, V4, V6

if TYPE_CHECKING:
    from core.net.host import Host

_TABLE = re.compile(r"wharf(_[0-9a-f]{6})?")
_BRIDGE = re.compile(r"wharf0|wh[0-9a-f]{6}|wb([0-9a-f]{6})?_[0-9a-f]{6}")  # see core.store.paths


class Claim(NamedTuple):
    """A subnet that another instance has on one of its bridges, which may be down or without a route now."""

    subnet: Range
    bridge: str
    table: str  # "": found by the name of its bridge

    def __str__(self) -> str:
        whose = f"another instance of wharf (table inet {self.table})" if self.table else "another instance of wharf"
        return f"{self.subnet} on {self.bridge}, of {whose}"

    @property
    def way_out(self) -> str:
        """What to do about it."""
        gone = f"nft delete table inet {self.table}" if self.table else f"ip link delete {self.bridge}"
        return f"Choose another subnet; or remove that network there, or where that instance is no more: {gone}"


def claims(host: Host) -> list[Claim]:
    """All of them, by the instances' tables, and by the bridges where somebody has flushed those."""
    own = host.inst
    try:
        nl = host.netfilter
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT:
            return []  # no nftables: there can be no network
        raise
    found = [claim for table in _tables(nl, own.nft_table) for claim in _of_table(nl, table)]
    known = {claim.bridge for claim in found}
    names = {
        link.number: link.name for link in rt.links(host.rtnl) if link.kind == "bridge" and _BRIDGE.fullmatch(link.name)
    }
    for index, address, prefix in rt.addresses(host.rtnl):
        name = names.get(index, own.bridge)
        if name != own.bridge and name not in known and not name.startswith(own.bridge_prefix):
            found.append(Claim(ipaddress.ip_network(f"{address}/{prefix}", strict=False), name, ""))
    return found


def subnets(host: Host) -> list[str]:
    """Of all of them."""
    return [str(claim.subnet) for claim in claims(host)]


def claimed(host: Host, wishes: Iterable[Subnet]) -> Claim | None:
    """The first of them that overlaps one of ours."""
    found = claims(host)
    for wanted in (ipaddress.ip_network(one.subnet) for one in wishes):
        for claim in found:
            if claim.subnet.version == wanted.version and claim.subnet.overlaps(wanted):
                return claim
    return None


def guarded(nl: Netlink, own: str) -> frozenset[int]:
    """Versions of IP whose routing one of them has switched on."""
    return frozenset(version for table in _tables(nl, own) for version in guarded_by(nl, table))


def guarded_by(nl: Netlink, table: str) -> frozenset[int]:
    """The same of one table."""
    numbers = {element.key[0] for element in _elements(nl, table, GUARDED)}
    return frozenset(version for version, family in ((4, V4), (6, V6)) if family.number in numbers)


def _tables(nl: Netlink, own: str) -> list[str]:
    try:
        return [name for name in nft.tables(nl) if name != own and _TABLE.fullmatch(name)]
    except NetlinkError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL):
            return []  # no nftables
        raise


def _of_table(nl: Netlink, table: str) -> list[Claim]:
    found = []
    for family in FAMILIES:
        for element in _elements(nl, table, family.local):
            try:
                first, last = (ipaddress.ip_address(end[: family.size]) for end in (element.key, element.end))
                (subnet,) = ipaddress.summarize_address_range(first, last)
            except ValueError:
                continue  # of another version, or of somebody else: whatever it says
            found.append(Claim(subnet, string(element.key[family.size :]), table))
    return found


def _elements(nl: Netlink, table: str, spec: nft.SetSpec) -> set[nft.Element]:
    """None where the table is gone, or of a version that has no such set."""
    try:
        return nft.elements(nl, table, spec)
    except NetlinkError as error:
        if error.errno == errno.ENOENT:
            return set()
        raise
