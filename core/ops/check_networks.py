"""What ``create`` and ``network connect`` refuse about a container's places on networks."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from core.errors import InvalidArgument
from core.model import ContainerSpec, EndpointSpec, Network
from core.model.network import is_network
from core.names import is_interface_name
from core.net.publish import no_way
from core.ops import wiring
from core.ops.context import Context
from core.ops.networks import no_such

_NAME = re.compile(r"[a-zA-Z0-9_](?:[a-zA-Z0-9_.-]{0,252}[a-zA-Z0-9_])?")
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


def check_words(spec: ContainerSpec) -> None:
    """All that can be said without the networks.

    :raises InvalidArgument: what and why
    """
    shared = not is_network(spec.network)
    if spec.networks and (shared or spec.networks[0].network != spec.network):
        raise InvalidArgument(
            f"networks cannot be combined with --network {spec.network}", "it has no place of its own there", "Drop one"
        )
    ends = wiring.wanted(spec)
    seen: set[str] = set()
    for end in ends:
        if not is_network(end.network):
            raise InvalidArgument(f"--network {end.network} stands alone", "other networks were named too", "Drop one")
        if end.network in seen:
            raise InvalidArgument(f"network {end.network} is named twice", "once is enough", "Drop one")
        seen.add(end.network)
        _check_endpoint_words(end)
    names = [end.interface for end in ends if end.interface]
    if len(set(names)) < len(names):
        raise InvalidArgument("two interfaces have one name", ", ".join(names), "Choose others")


def _check_endpoint_words(end: EndpointSpec) -> None:
    for alias in end.aliases:
        if not _NAME.fullmatch(alias):
            raise InvalidArgument(f"invalid alias {alias!r}", "it is not a host's name", "Use letters, digits, - and .")
    if end.mac:
        if not _MAC.fullmatch(end.mac):
            raise InvalidArgument(f"invalid MAC address {end.mac!r}", "it is not six bytes", "Like 02:42:ac:1c:00:02")
        if int(end.mac[:2], 16) & 1:
            raise InvalidArgument(
                f"invalid MAC address {end.mac}", "it is a group's (its first byte is odd)", "Say 02:…"
            )
    if end.interface and not is_interface_name(end.interface):
        raise InvalidArgument(
            f"invalid interface name {end.interface!r}", "1 to 15 bytes, and not lo, all or default", "Say eth1"
        )
    if end.rate < 0:
        raise InvalidArgument(f"invalid rate {end.rate}", "it is negative", "Say 10mbit")
    for key in end.sysctls:
        if not re.fullmatch(r"net\.(ipv4|ipv6|mpls)\.(conf|neigh)\.IFNAME\.\w+", key):
            raise InvalidArgument(
                f"invalid setting {key!r} of a network",
                "it names no interface",
                "Like net.ipv4.conf.IFNAME.log_martians",
            )
    for text, version in ((end.ip, 4), (end.ip6, 6)):
        if text:
            check_address(text, version)


def check_address(text: str, version: int) -> None:
    """:raises InvalidArgument: not an address of that version"""
    try:
        if ipaddress.ip_address(text).version == version:
            return
    except ValueError:
        pass
    raise InvalidArgument(f"invalid address {text!r}", f"it is not an IPv{version} address", "Use one of the network's")


def check_endpoint(network: Network, end: EndpointSpec) -> None:
    """One place against its network.

    :raises InvalidArgument: an address that the network has not, or that only a network of yours may give
    """
    _check_endpoint_words(end)
    for text, version in ((end.ip, 4), (end.ip6, 6)):
        if not text:
            continue
        subnets = network.of_version(version)
        if not any(ipaddress.ip_address(text) in ipaddress.ip_network(one.subnet) for one in subnets):
            ranges = ", ".join(one.subnet for one in subnets) or f"no IPv{version} subnet"
            raise InvalidArgument(
                f"address {text} cannot be used", f"network {network.name} has {ranges}", "Choose another address"
            )
    if end.aliases and network.name == "bridge":
        raise InvalidArgument(
            "aliases need a network of yours", "there are no names on the default bridge", "wharf network create NAME"
        )


async def check_networks(ctx: Context, spec: ContainerSpec) -> None:
    """:raises NotFound: no such network; the error names those that there are

    :raises InvalidArgument: an address that a network has not
    :raises Conflict: ports are to be published, and none of the networks has a way in
    :raises NoPrivilege: an ordinary user's container cannot be on that network
    """
    ends = wiring.wanted(spec)
    for name in [end.network for end in ends] or [spec.network]:
        ctx.net.check(name)
    if not ends or _plain(ends):
        return
    there = await ctx.net.describe()
    by_name = {network.name: network for network in there}
    for end in ends:
        if end.network not in by_name:
            raise no_such(end.network, there)
        check_endpoint(by_name[end.network], end)
    if spec.ports and not any(_has_way_in(by_name[end.network]) for end in ends):
        raise no_way([end.network for end in ends])


def _has_way_in(network: Network) -> bool:
    """Can ports be published for a container on it?"""
    return network.driver == "bridge" and not network.internal


def _plain(ends: Sequence[EndpointSpec]) -> bool:
    """The default network as it comes, which is there even before its first use."""
    return len(ends) == 1 and ends[0] == EndpointSpec("bridge")
