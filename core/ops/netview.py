"""What the kernel says about the links, addresses and routes of a network namespace, by pyroute2.

For what is rare: its import takes 130 ms. The calling thread is in the namespace.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_ANSWERED = 0x02 | 0x04 | 0x08 | 0x10  # NUD_REACHABLE, NUD_STALE, NUD_DELAY, NUD_PROBE (rtnetlink(7))
_UNICAST = 1  # RTN_UNICAST: neither unreachable nor a black hole
_UP, _PROMISCUOUS, _LOWER_UP = 0x1, 0x100, 0x10000  # netdevice(7)


@dataclass(frozen=True)
class Interface:
    """One interface with its addresses, like ``10.0.0.2/24``; ``master`` is the name of its bridge."""

    index: int
    name: str
    kind: str
    up: bool
    carrier: bool
    promiscuous: bool
    mtu: int
    master: str = ""
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Way:
    """A default route."""

    version: int
    interface: str
    gateway: str  # "": directly by the interface
    metric: int = 0


@dataclass(frozen=True)
class View:
    """A namespace. ``ways``: default routes, the one that is used first."""

    interfaces: dict[str, Interface] = field(default_factory=dict)
    ways: tuple[Way, ...] = ()
    neighbours: frozenset[str] = frozenset()  # addresses that have answered ARP or neighbour discovery

    def way(self, version: int = 4) -> Way | None:
        return next((way for way in self.ways if way.version == version), None)


@contextmanager
def _kernel() -> Iterator[Any]:
    """pyroute2's IPRoute, which has no types; its errors as OSError."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as ip:
        try:
            yield ip
        except NetlinkError as error:
            raise OSError(error.code, str(error)) from error


def view() -> View:
    """Everything, of the calling thread's namespace. :raises OSError:"""
    with _kernel() as ip:
        links = list(ip.get_links())
        names = {link["index"]: str(link.get_attr("IFLA_IFNAME")) for link in links}
        addresses: dict[int, list[str]] = {}
        for one in ip.get_addr():
            # A veth's IFA_ADDRESS and IFA_LOCAL are the same; on a point-to-point link the second is ours.
            text = one.get_attr("IFA_LOCAL") or one.get_attr("IFA_ADDRESS")
            addresses.setdefault(one["index"], []).append(f"{text}/{one['prefixlen']}")
        interfaces = [_interface(link, names, addresses) for link in links]
        ways = [way for version in (4, 6) for way in _ways(ip, version, names)]
        answered = frozenset(str(n.get_attr("NDA_DST")) for n in ip.get_neighbours() if n["state"] & _ANSWERED)
    return View({one.name: one for one in interfaces}, tuple(sorted(ways, key=lambda way: way.metric)), answered)


def _interface(link: Any, names: dict[int, str], addresses: dict[int, list[str]]) -> Interface:
    flags, number, get = link["flags"], link["index"], link.get_attr
    info = get("IFLA_LINKINFO")
    return Interface(
        number, names[number], str(info.get_attr("IFLA_INFO_KIND")) if info else "",
        bool(flags & _UP), bool(flags & _LOWER_UP), bool(flags & _PROMISCUOUS) or bool(get("IFLA_PROMISCUITY")),
        int(get("IFLA_MTU") or 0), names.get(get("IFLA_MASTER") or 0, ""), tuple(addresses.get(number, ())),
    )  # fmt: skip


def _ways(ip: Any, version: int, names: dict[int, str]) -> list[Way]:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    found = []
    for route in ip.get_default_routes(family=family, table=254):  # main
        if route["type"] != _UNICAST:
            continue
        hops = route.get_attr("RTA_MULTIPATH")  # of several the first
        hop, index = (hops[0], hops[0]["oif"]) if hops else (route, route.get_attr("RTA_OIF"))
        gateway = str(hop.get_attr("RTA_GATEWAY") or "")
        found.append(Way(version, names.get(index or 0, ""), gateway, route.get_attr("RTA_PRIORITY") or 0))
    return found


def interface_to(address: str) -> str:
    """The name of the interface by which the calling thread's namespace reaches an address; "" for none."""
    with _kernel() as ip:
        try:
            (route,) = ip.route("get", dst=address)
            (link,) = ip.get_links(route.get_attr("RTA_OIF"))
        except Exception as error:  # NetlinkError, which is loaded late
            if getattr(error, "code", 0) in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES):
                return ""
            raise
        return str(link.get_attr("IFLA_IFNAME"))
