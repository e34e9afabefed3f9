"""Bridge and veth pairs: what a network and a container's place on it are in the kernel."""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
from pathlib import Path

from core.errors import Unavailable
from core.kernel import netns
from core.kernel import rtnetlink as rt
from core.kernel.netlink import NETLINK_ROUTE, Netlink, check_all
from core.model import EndpointInfo, Network
from core.net.ipam import mac_of

CONTAINER_END = "eth0"
_LOOPBACK = 1  # every namespace's lo has this index


def write_sysctl(path: str, value: str) -> None:
    """Set ``/proc/sys/net/PATH`` of the calling thread's namespace; no such key is no error (a kernel without IPv6).

    :raises OSError: EROFS where /proc/sys is read-only
    """
    try:
        file = os.open(f"/proc/sys/net/{path}", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.write(file, value.encode())
    finally:
        os.close(file)


def enable_forwarding() -> None:
    """Let the host route between its interfaces, if it does not; the kernel resets other settings with each write."""
    if Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "0":
        write_sysctl("ipv4/ip_forward", "1")


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def new_name(prefix: str, cid: str) -> str:
    """A name for a veth's host end: never one that was used before, so that the remains of the container's last run,
    which vanish some milliseconds after it, are not in the way (15 characters at most)."""
    return f"{prefix}{cid[:3]}{secrets.token_hex(2)}"


def find(nl: Netlink, name: str) -> rt.Link | None:
    """The interface with that name."""
    reply = nl.talk([rt.get_link(name)])[0].check(errno.ENODEV)
    return rt.parse_link(reply.bodies[0]) if reply.bodies else None


def default_mtu(nl: Netlink, routes: list[rt.Route]) -> int:
    """MTU of the interface that the default route uses; 1500 where there is none."""
    ways = sorted((r.metric, r.interface) for r in routes if r.destination == (0, 0) and r.table == 254)
    by_index = {link.number: link.mtu for link in rt.links(nl)} if ways else {}
    return next((by_index[index] for _, index in ways if index in by_index), 1500)


def ensure_bridge(nl: Netlink, network: Network) -> int:
    """Make or complete the network's bridge; returns its index. "Up" is the last step, so up means complete.

    :raises Unavailable: another kind of interface has the bridge's name
    """
    there = find(nl, network.bridge)
    if there is not None and there.kind != "bridge":
        raise Unavailable(
            f"network {network.name} cannot be set up",
            f"an interface named {network.bridge} exists and is not a bridge",
            f"Remove it with: ip link del {network.bridge}",
        )
    if there is not None and there.up:
        return there.number
    prefix = ipaddress.IPv4Network(network.subnet).prefixlen
    gateway = ipaddress.IPv4Address(network.gateway).packed
    nl.talk([rt.new_bridge(network.bridge, mac_bytes(mac_of(network.gateway)))])[0].check(errno.EEXIST)
    # Again and by itself: a bridge forgets an MTU given at its creation when the first port joins.
    nl.talk([rt.set_mtu(network.bridge, network.mtu)])[0].check()
    link = find(nl, network.bridge)
    if link is None:
        raise Unavailable(f"network {network.name} was removed meanwhile", f"{network.bridge} is gone", "Try again")
    nl.talk([rt.new_address(link.number, gateway, prefix)])[0].check(errno.EEXIST)
    # Before it is up: no router advertisement of a container is believed (CVE-2020-13401), and no IPv6 address of the
    # host can be reached from a network that has no IPv6.
    write_sysctl(f"ipv6/conf/{network.bridge}/accept_ra", "0")
    write_sysctl(f"ipv6/conf/{network.bridge}/disable_ipv6", "1")
    # So that 127.0.0.1:PORT of the host reaches a container. The drop in firewall.py's raw chain, which is there
    # before the bridge is, keeps containers away from the host's loopback.
    write_sysctl(f"ipv4/conf/{network.bridge}/route_localnet", "1")
    nl.talk([rt.set_up(link.number)])[0].check()
    return link.number


def new_namespace() -> int:
    """A namespace with only lo, up; the caller owns the descriptor."""
    if not netns.administered():
        return netns.made_aside(_loopback_up)
    with netns.fresh() as fd:
        _loopback_up()
        return fd


def set_loopback_up(namespace: int) -> None:
    with netns.inside(namespace):
        _loopback_up()


def _loopback_up() -> None:
    inner = Netlink(NETLINK_ROUTE)
    try:
        inner.talk([rt.set_up(_LOOPBACK)])[0].check()
    finally:
        inner.close()


def new_endpoint(nl: Netlink, info: EndpointInfo, *, bridge: int, mtu: int) -> int:
    """A new namespace, connected: see :func:`plug`. The caller owns the descriptor."""
    with netns.fresh() as fd:
        _pair(nl, fd, info, bridge, mtu)  # the thread is inside, but ``nl`` belongs to the host's namespace
        _configure(info)
        return fd


def plug(nl: Netlink, namespace: int, info: EndpointInfo, *, bridge: int, mtu: int) -> None:
    """Connect a namespace to the bridge: veth pair, address, default route, all up.

    :raises OSError: the kernel refused; the half-made pair is gone
    """
    _pair(nl, namespace, info, bridge, mtu)
    try:
        with netns.inside(namespace):
            _configure(info)
    except BaseException:
        unplug(nl, [info.interface], delete=True)
        raise


def _pair(nl: Netlink, namespace: int, info: EndpointInfo, bridge: int, mtu: int) -> None:
    pair = rt.new_veth(info.interface, CONTAINER_END, namespace, mtu=mtu, mac=mac_bytes(info.mac), bridge=bridge)
    check_all(nl.talk([pair, rt.port_up(info.interface)]))


def _configure(info: EndpointInfo) -> None:
    """The container's end, from inside."""
    # While it is down, so that it never has an IPv6 address. Not on lo: programs may expect ::1.
    write_sysctl(f"ipv6/conf/{CONTAINER_END}/accept_ra", "0")
    write_sysctl(f"ipv6/conf/{CONTAINER_END}/disable_ipv6", "1")
    inner = Netlink(NETLINK_ROUTE)
    try:
        replies = inner.talk([rt.set_up(_LOOPBACK), rt.get_link(CONTAINER_END)])
        check_all(replies)
        index = rt.parse_link(replies[1].bodies[0]).number
        address, gateway = (ipaddress.IPv4Address(a).packed for a in (info.ip, info.gateway))
        steps = [
            rt.new_address(index, address, info.prefix_len),
            rt.set_up(index),
            rt.new_default_route(index, gateway),  # after "up": a route needs a live interface
        ]
        check_all(inner.talk(steps))
    finally:
        inner.close()


def unplug(nl: Netlink, names: list[str], *, delete: bool = False) -> None:
    """Cut host ends off, at once. The pair vanishes with the container's namespace; ``delete`` does not wait for that
    (tens of milliseconds of the kernel's grace periods each). One that is gone is no error."""
    if delete:
        found = [link for link in (find(nl, name) for name in names) if link is not None]
        check_all(nl.talk([rt.del_link(link.number) for link in found]) if found else [], errno.ENODEV)
    elif names:
        # EINVAL: ENODEV in the words of kernels that look for an interface to change by its name.
        check_all(nl.talk([rt.isolate(name) for name in names]), errno.ENODEV, errno.EINVAL)


def silent(nl: Netlink, names: list[str]) -> bool:
    """True where no container behind these host ends ever sent a frame, not even an answer to ARP: then it can have no
    connections, and looking for them (4 ms for a walk through the kernel's table) is not needed."""
    found = [link for link in (find(nl, name) for name in names) if link is not None]
    return len(found) == len(names) and all(link.received == 0 for link in found)
