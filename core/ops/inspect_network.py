"""Networks, and a container's places on them, in the shape that Docker's clients know."""

from __future__ import annotations

import hashlib

from core.model import Container, EndpointInfo, EndpointSpec, Network, Subnet
from core.ops import records
from core.ops.context import Context
from core.ops.inspect_host import bindings
from core.ops.wiring import wanted
from core.units import rfc3339


def network_settings(box: Container) -> dict[str, object]:
    """``NetworkSettings`` of a container: where it is, and where it is to be once it runs."""
    there = {end.network: end for end in box.endpoints}
    wishes = {end.network: end for end in wanted(box.spec)}
    networks = {
        name: _place(box, there.get(name, EndpointInfo(name)), wishes.get(name, EndpointSpec(name)))
        for name in dict.fromkeys([*wishes, *there])
    }
    first = box.endpoints[0] if box.endpoints else EndpointInfo("")
    return {
        "IPAddress": first.ip,
        "IPPrefixLen": first.prefix_len,
        "Gateway": first.gateway,
        "GlobalIPv6Address": first.ip6,
        "GlobalIPv6PrefixLen": first.prefix_len6,
        "IPv6Gateway": first.gateway6,
        "MacAddress": first.mac,
        "SandboxKey": f"/proc/{box.pid}/ns/net" if box.pid else "",
        "Ports": bindings(box.ports),
        "Networks": networks,
    }


def _place(box: Container, end: EndpointInfo, want: EndpointSpec) -> dict[str, object]:
    config = {key: value for key, value in (("IPv4Address", want.ip), ("IPv6Address", want.ip6)) if value}
    return {
        "IPAMConfig": config or None,
        "Links": list(want.links) or None,
        "Aliases": list(want.aliases) or None,
        "MacAddress": end.mac,
        "GwPriority": want.priority,
        "NetworkID": end.network_id,
        "EndpointID": endpoint_id(box.id, end.network_id) if end.network_id else "",
        "Gateway": end.gateway,
        "IPAddress": end.ip,
        "IPPrefixLen": end.prefix_len,
        "IPv6Gateway": end.gateway6,
        "GlobalIPv6Address": end.ip6,
        "GlobalIPv6PrefixLen": end.prefix_len6,
        "DNSNames": list(dict.fromkeys([box.name, *want.aliases, box.short_id])) if end.network != "bridge" else None,
        "Interface": end.interface,
        "InterfaceInside": end.name if end.network_id else "",
    }


def endpoint_id(cid: str, network_id: str) -> str:
    """64 hex digits that name a container's place on a network, the same every time."""
    return hashlib.sha256(f"{cid} {network_id}".encode()).hexdigest()


async def network_view(ctx: Context, network: Network) -> dict[str, object]:
    """``docker network inspect``."""
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": rfc3339(network.created),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": bool(network.of_version(4)),
        "EnableIPv6": network.ipv6,
        "IPAM": {"Driver": "default", "Options": None, "Config": [_range(one) for one in network.subnets]},
        "Internal": network.internal,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": await _containers(ctx, network),
        "Options": dict(network.options),
        "Labels": dict(network.labels),
        "Bridge": network.bridge,
        "MTU": network.mtu,
    }


def _range(subnet: Subnet) -> dict[str, object]:
    view: dict[str, object] = {"Subnet": subnet.subnet, "Gateway": subnet.gateway}
    view |= {"IPRange": subnet.ip_range} if subnet.ip_range else {}
    view |= {"AuxiliaryAddresses": dict(subnet.reserved)} if subnet.reserved else {}
    return view


async def _containers(ctx: Context, network: Network) -> dict[str, object]:
    found: dict[str, object] = {}
    for record in await records.every(ctx):
        for end in record.saved.endpoints if record.id in network.containers else ():
            if end.network == network.name:
                found[record.id] = {
                    "Name": record.name,
                    "EndpointID": endpoint_id(record.id, network.id),
                    "MacAddress": end.mac,
                    "IPv4Address": f"{end.ip}/{end.prefix_len}" if end.ip else "",
                    "IPv6Address": f"{end.ip6}/{end.prefix_len6}" if end.ip6 else "",
                }
    return found
