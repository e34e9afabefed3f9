"""Tracked connections of what is gone: a UDP flow would otherwise go on to an address that is somebody else's now."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from socket import AF_INET, AF_INET6

from core.kernel import conntrack
from core.kernel.netlink import Netlink
from core.net.ruleset import PROTOCOLS, Port


def forget_addresses(nl: Netlink, addresses: Iterable[str]) -> None:
    """Drop every connection to or from these container addresses."""
    conntrack.delete(nl, conntrack.of_addresses(nl, {ipaddress.ip_address(one).packed for one in addresses}))


def forget_ports(nl: Netlink, ports: Iterable[Port]) -> None:
    """Drop the connections that came by these published ports, to a container that goes on."""
    gone = {
        (ipaddress.ip_address(p.container_ip).packed, PROTOCOLS[p.protocol], p.host_port, p.container_port): p
        for p in ports
    }
    flows = conntrack.of_addresses(nl, {key[0] for key in gone})
    conntrack.delete(nl, [flow for flow in flows if _came_by(flow, gone)])


def _came_by(flow: conntrack.Flow, gone: Mapping[tuple[bytes, int, int, int], Port]) -> bool:
    began, answer = flow.original, flow.reply
    key = (answer.source, began.protocol, began.destination_port, answer.source_port)
    port = gone.get(key)
    if port is None or began.destination == answer.source:
        return False  # not translated: somebody called the container by its own address
    bound = port.host_ip not in ("", "::")
    return not bound or began.destination == ipaddress.ip_address(port.host_ip).packed


def forget_stale(nl: Netlink, ports: Iterable[Port]) -> None:
    """Drop UDP and SCTP flows that began before their port was published: they would never meet the new rule.

    Only flows without any translation, so that a container's own query to another host's port 53 is not cut when
    port 53 is published here. TCP needs none of this: a connection that nobody answered is over at once.
    """
    wanted = list(ports)
    for protocol in ("udp", "sctp"):
        numbers = {port.host_port for port in wanted if port.protocol == protocol}
        if numbers:
            families = {AF_INET6 if ":" in port.host_ip else AF_INET for port in wanted}
            flows = conntrack.of_ports(nl, PROTOCOLS[protocol], numbers, families)
            conntrack.delete(nl, [f for f in flows if _untranslated(f)])


def _untranslated(flow: conntrack.Flow) -> bool:
    return (flow.original.source, flow.original.destination) == (flow.reply.destination, flow.reply.source)
