"""Tracked connections of what is gone: a UDP flow would otherwise go on to an address that is somebody else's now."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from core.kernel import conntrack
from core.kernel.netlink import Netlink
from core.net.firewall import PROTOCOLS, Port


def forget_addresses(nl: Netlink, addresses: Iterable[str]) -> None:
    """Drop every connection to or from these container addresses."""
    for address in addresses:
        conntrack.delete(nl, conntrack.of_address(nl, ipaddress.IPv4Address(address).packed))


def forget_stale(nl: Netlink, ports: Iterable[Port]) -> None:
    """Drop UDP flows that began before their port was published: they would never meet the new rule.

    Only flows without any translation, so that a container's own query to another host's port 53 is not cut when
    port 53 is published here. TCP needs none of this: a connection that nobody answered is over at once.
    """
    numbers = {port.host_port for port in ports if port.protocol == "udp"}
    if numbers:
        flows = conntrack.of_ports(nl, PROTOCOLS["udp"], numbers)
        conntrack.delete(nl, [f for f in flows if _untranslated(f)])


def _untranslated(flow: conntrack.Flow) -> bool:
    return (flow.original.source, flow.original.destination) == (flow.reply.destination, flow.reply.source)
