"""macvlan and ipvlan: containers as hosts of their own on the network of one of this host's interfaces.

There is nothing of such a network on this host but its row; with the option ``host_shim`` an interface by which the
host itself can speak with its containers, which the kernel forbids by the parent (macvlan: "the parent interface is not
part of the bridge", Documentation/networking/ipvlan.rst).
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
from dataclasses import dataclass

from core.errors import InvalidArgument, NotFound, Unsupported
from core.kernel import netns
from core.kernel import rtnetlink as rt
from core.kernel.netlink import NETLINK_ROUTE, Message, Netlink, NetlinkError, check_all
from core.model import EndpointInfo, Network
from core.model.network import HOST_SHIM, IPVLAN_FLAG, IPVLAN_MODE, MACVLAN_MODE
from core.net import links
from core.net.ipam import mac_of

KINDS = ("macvlan", "ipvlan")


@dataclass(frozen=True)
class Sliced:
    """A macvlan or ipvlan interface on the parent with that index."""

    network: Network
    parent: int

    def connect(self, nl: Netlink, namespace: int, info: EndpointInfo) -> None:
        if self.network.driver == "macvlan":
            mac = links.mac_bytes(info.mac)
            made = rt.new_macvlan(
                info.name, self.parent, mode=mode(self.network), mac=mac, mtu=self.network.mtu, namespace=namespace
            )
        else:
            made = rt.new_ipvlan(
                info.name, self.parent, mode=mode(self.network), flag=self.network.options.get(IPVLAN_FLAG, "bridge"),
                mtu=self.network.mtu, namespace=namespace,
            )  # fmt: skip
        _made(self.network.driver, nl, made)

    def disconnect(self, nl: Netlink, namespace: int, info: EndpointInfo) -> None:
        links.remove_inside(namespace, info.name)


def _made(driver: str, nl: Netlink, message: Message) -> None:
    """:raises Unsupported: the kernel has no such driver"""
    try:
        nl.talk([message])[0].check()
    except NetlinkError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise lacking(driver) from error
        raise


def lacking(driver: str) -> Unsupported:
    return Unsupported(
        f"this kernel has no {driver}",
        f"it was built without CONFIG_{driver.upper()}, or the module is not there",
        f"Load it (modprobe {driver}), or use another driver: bridge, macvlan",
    )


def mode(network: Network) -> str:
    """The driver's mode, checked when the network was made."""
    key, usual = (MACVLAN_MODE, "bridge") if network.driver == "macvlan" else (IPVLAN_MODE, "l2")
    return network.options.get(key, usual)


def check(driver: str, options: dict[str, str]) -> None:
    """:raises InvalidArgument: a mode that there is not"""
    choices = [(MACVLAN_MODE, rt.MACVLAN_MODES)] if driver == "macvlan" else [(IPVLAN_MODE, rt.IPVLAN_MODES)]
    choices += [(IPVLAN_FLAG, rt.IPVLAN_FLAGS)] if driver == "ipvlan" else []
    for key, known in choices:
        if options.get(key, next(iter(known))) not in known:
            raise InvalidArgument(f"invalid option {key}={options[key]}", "there are " + ", ".join(known), "Choose one")


def probe(driver: str) -> None:
    """Try the driver, aside from everything.

    :raises Unsupported: the kernel has no such driver
    """
    with netns.fresh() as fd:
        nl = Netlink(NETLINK_ROUTE)
        try:
            nl.talk([rt.new_bridge("p0", bytes.fromhex("024200000001"))])[0].check()
            parent = links.find(nl, "p0")
            assert parent is not None
            if driver == "macvlan":
                message = rt.new_macvlan("c0", parent.number, mode="bridge", mac=b"", namespace=fd)
            else:
                message = rt.new_ipvlan("c0", parent.number, mode="l2", namespace=fd)
            _made(driver, nl, message)
        finally:
            nl.close()
    os.close(fd)


def parent_of(nl: Netlink, network: Network) -> rt.Link:
    """The interface that it is on.

    :raises NotFound: it is gone
    """
    found = links.find(nl, network.bridge)
    if found is None:
        raise NotFound(
            f"network {network.name} cannot be used",
            f"its parent, the interface {network.bridge}, does not exist",
            "List those that do with: ip link",
        )
    return found


def ensure(nl: Netlink, network: Network, shim: str) -> Sliced:
    """The parent, up, and the host's own interface on the network if there is to be one.

    :param shim: name of that one
    """
    parent = parent_of(nl, network)
    if address := network.options.get(HOST_SHIM):
        _ensure_shim(nl, network, parent, shim, address)
    return Sliced(network, parent.number)


def _ensure_shim(nl: Netlink, network: Network, parent: rt.Link, name: str, address: str) -> None:
    there = links.find(nl, name)
    if there is not None and there.up:
        return
    if there is None:
        made = rt.new_macvlan(name, parent.number, mode="bridge", mac=links.mac_bytes(mac_of(address)))
        _made("macvlan", nl, made)
        there = links.find(nl, name)
        assert there is not None
    links.write_sysctl(f"ipv6/conf/{name}/accept_ra", "0")
    packed = ipaddress.ip_address(address).packed
    # For this address alone: a route to the whole subnet would compete with the parent's. Those to containers follow.
    nl.talk([rt.new_address(there.number, packed, 8 * len(packed))])[0].check(errno.EEXIST)
    nl.talk([rt.set_up(there.number)])[0].check()
    for subnet in network.subnets:
        target = ipaddress.ip_network(subnet.ip_range or subnet.subnet)
        halves = target.subnets() if target == ipaddress.ip_network(subnet.subnet) else [target]
        # Longer prefixes than the parent's own route to the subnet, so that they win.
        for half in halves:
            route = rt.new_route(there.number, half.network_address.packed, half.prefixlen)
            check_all(nl.talk([route]), errno.EEXIST)


def remove(nl: Netlink, shim: str) -> None:
    """The host's own interface, if there is one."""
    with contextlib.suppress(OSError):
        links.unplug(nl, [shim], delete=True)
