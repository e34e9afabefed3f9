"""Bridge and veth pairs: what a network and a container's place on it are in the kernel."""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import re
import secrets
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from core.errors import Unavailable
from core.kernel import netns
from core.kernel import rtnetlink as rt
from core.kernel.netlink import NETLINK_ROUTE, Message, Netlink, check_all
from core.model import EndpointInfo, Network
from core.net.ipam import mac_of

_NEIGHBOUR = re.compile(r"docker(\d+|_gwbridge)|br-[0-9a-f]{12}")
_SIOCGIFFLAGS, _SIOCGIFINDEX = 0x8913, 0x8933
Home = Callable[[int], None]  # takes a descriptor of a namespace
LOOPBACK = 1  # every namespace's lo has this index


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


def enable_forwarding(*, ipv6: bool = False) -> None:
    """Let the host route between its interfaces, if it does not; the kernel resets other settings with each write."""
    if Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "0":
        write_sysctl("ipv4/ip_forward", "1")
    forwarding = Path("/proc/sys/net/ipv6/conf/all/forwarding")
    if ipv6 and forwarding.exists() and forwarding.read_text().strip() == "0":
        # A router believes no advertisement, unless told so: the host would lose its own default route.
        for folder in Path("/proc/sys/net/ipv6/conf").iterdir():
            if folder.name != "all" and (folder / "accept_ra").read_text().strip() == "1":
                write_sysctl(f"ipv6/conf/{folder.name}/accept_ra", "2")
        write_sysctl("ipv6/conf/all/forwarding", "1")


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


def up_as(name: str) -> int:
    """The index of the interface with that name, 0 where there is none or it is down. By ioctls (netdevice(7)): a
    request would wait for the lock that all of them take."""
    request = struct.pack("16s24x", name.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            flags: int = struct.unpack_from("=H", fcntl.ioctl(sock, _SIOCGIFFLAGS, request), 16)[0]
            index: int = struct.unpack_from("=i", fcntl.ioctl(sock, _SIOCGIFINDEX, request), 16)[0]
            return index if flags & rt.IFF_UP else 0
        except OSError:
            return 0


def default_mtu(nl: Netlink, routes: list[rt.Route]) -> int:
    """MTU of the interface that the default route uses; 1500 where there is none."""
    ways = sorted((r.metric, r.interface) for r in routes if r.destination == (0, 0) and r.table == 254)
    by_index = {link.number: link.mtu for link in rt.links(nl)} if ways else {}
    return next((by_index[index] for _, index in ways if index in by_index), 1500)


def neighbours(nl: Netlink) -> list[str]:
    """Docker's bridges: docker0, docker_gwbridge, and br- with 12 digits (br-lan is somebody else's)."""
    return [link.name for link in rt.links(nl) if link.kind == "bridge" and _NEIGHBOUR.fullmatch(link.name)]


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
    nl.talk([rt.new_bridge(network.bridge, mac_bytes(_bridge_mac(network)))])[0].check(errno.EEXIST)
    # Again and by itself: a bridge forgets an MTU given at its creation when the first port joins.
    nl.talk([rt.set_mtu(network.bridge, network.mtu)])[0].check()
    link = find(nl, network.bridge)
    if link is None:
        raise Unavailable(f"network {network.name} was removed meanwhile", f"{network.bridge} is gone", "Try again")
    # Before it is up: no router advertisement of a container is believed (CVE-2020-13401), and no IPv6 address of the
    # host can be reached from a network that has no IPv6.
    write_sysctl(f"ipv6/conf/{network.bridge}/accept_ra", "0")
    # No search for another with its link-local address: until that is over, the host asks for no neighbour.
    write_sysctl(f"ipv6/conf/{network.bridge}/accept_dad", "0")
    write_sysctl(f"ipv6/conf/{network.bridge}/disable_ipv6", "0" if network.ipv6 else "1")
    give_addresses(nl, network, link.number)
    # So that 127.0.0.1:PORT of the host reaches a container. The drop in firewall.py's raw chain, which is there
    # before the bridge is, keeps containers away from the host's loopback.
    write_sysctl(f"ipv4/conf/{network.bridge}/route_localnet", "1")
    nl.talk([rt.set_up(link.number)])[0].check()
    return link.number


def give_addresses(nl: Netlink, network: Network, bridge: int) -> list[str]:
    """The gateways' addresses on the bridge with that index: those that it did not have, as ``ADDRESS/PREFIX``."""
    given = []
    for subnet in network.subnets:
        address, prefix = ipaddress.ip_address(subnet.gateway), ipaddress.ip_network(subnet.subnet).prefixlen
        if not nl.talk([rt.new_address(bridge, address.packed, prefix)])[0].check(errno.EEXIST).error:
            given.append(f"{address}/{prefix}")
    return given


def _bridge_mac(network: Network) -> str:
    return (
        mac_of(network.gateway) if network.gateway else "02:42:" + ":".join(f"{b:02x}" for b in secrets.token_bytes(4))
    )


def new_namespace() -> int:
    """A namespace with only lo, up; the caller owns the descriptor."""
    if not netns.administered():
        return netns.made_aside(netns.bring_up_loopback)
    with netns.fresh() as fd:
        netns.bring_up_loopback()
        return fd


def set_loopback_up(namespace: int) -> None:
    with netns.inside(namespace):
        netns.bring_up_loopback()


def connect(
    nl: Netlink, namespace: int | None, info: EndpointInfo, way: Way, *, default: bool, home: Home | None = None
) -> int:
    """:func:`plug`, or without a namespace :func:`new_endpoint`; returns the descriptor."""
    if namespace is None:
        return new_endpoint(nl, info, way, home)
    plug(nl, namespace, info, way, default=default)
    return namespace


def new_endpoint(nl: Netlink, info: EndpointInfo, way: Way, home: Home | None = None) -> int:
    """A new namespace, connected: see :func:`plug`. The caller owns the descriptor.

    :param home: gets another one, its own, before anything is in there
    """
    with netns.fresh() as fd:
        if home is not None:
            home(os.dup(fd))
        way.connect(nl, fd, info)  # the thread is inside, but ``nl`` belongs to the host's namespace
        try:
            configure(info, default=True)
        except BaseException:
            way.disconnect(nl, fd, info)  # others may have the namespace by now
            raise
        return fd


def plug(nl: Netlink, namespace: int, info: EndpointInfo, way: Way, *, default: bool = True) -> None:
    """Connect a namespace to a network: interface, addresses, default route, all up.

    :param default: it gets the default route
    :raises OSError: the kernel refused; the half-made interface is gone
    """
    way.connect(nl, namespace, info)
    try:
        with netns.inside(namespace):
            configure(info, default=default)
    except BaseException:
        way.disconnect(nl, namespace, info)
        raise


class Way(Protocol):
    """How a network's driver connects containers."""

    def connect(self, nl: Netlink, namespace: int, info: EndpointInfo) -> None:
        """Make the interface ``info.name`` in the namespace, down. ``nl`` belongs to the host's namespace."""
        ...

    def disconnect(self, nl: Netlink, namespace: int, info: EndpointInfo) -> None:
        """Take it away; one that is gone is no error."""
        ...


@dataclass(frozen=True)
class Bridged:
    """A port of the bridge with index ``bridge``."""

    bridge: int
    mtu: int
    isolated: bool = False

    def connect(self, nl: Netlink, namespace: int, info: EndpointInfo) -> None:
        pair = rt.new_veth(
            info.interface, info.name, namespace, mtu=self.mtu, mac=mac_bytes(info.mac), bridge=self.bridge
        )
        nl.change([pair, rt.port_up(info.interface, isolated=self.isolated, mtu=self.mtu)])

    def disconnect(self, nl: Netlink, namespace: int, info: EndpointInfo) -> None:
        unplug(nl, [info.interface], delete=True)


def configure(info: EndpointInfo, *, default: bool) -> None:
    """The container's end, from inside."""
    set_ipv6(info.name, on=bool(info.ip6))
    inner = Netlink(NETLINK_ROUTE)
    try:
        index = socket.if_nametoindex(info.name)  # an ioctl: a request would wait for the lock that all of them take
        inner.change([rt.set_up(LOOPBACK), *address_steps(index, info, default=default)])
    finally:
        inner.close()
    write_interface_sysctls(info)


def set_ipv6(name: str, *, on: bool) -> None:
    """Whether an interface of the calling thread's namespace has IPv6. To be said while it is down, so that it never
    has an address where the network has none. Not for lo: programs may expect ::1. No router advertisement is
    believed, whoever sends one."""
    write_sysctl(f"ipv6/conf/{name}/accept_ra", "0")
    if on:
        write_sysctl(f"ipv6/conf/{name}/accept_dad", "0")
    write_sysctl(f"ipv6/conf/{name}/disable_ipv6", "0" if on else "1")


def address_steps(index: int, info: EndpointInfo, *, default: bool, mac: bytes = b"", mtu: int = 0) -> list[Message]:
    """Addresses, limits and routes of the interface with that index, which is up in the end; and its own address and
    MTU, where it has not got them yet."""
    steps = [
        rt.new_address(index, ipaddress.ip_address(address).packed, prefix)
        for address, prefix in ((info.ip, info.prefix_len), (info.ip6, info.prefix_len6))
        if address
    ]
    steps += [rt.new_tbf(index, info.rate)] if info.rate else []
    steps.append(rt.set_up(index, mac=mac, mtu=mtu))
    if default:
        steps += _default_routes(index, info)  # after "up": a route needs a live interface
    return steps


def write_interface_sysctls(info: EndpointInfo) -> None:
    """Those that were asked for; the calling thread is inside."""
    for key, value in info.sysctls.items():
        # Only "net.ipv4.conf.IFNAME.…" and the like get here (core.ops.check_networks).
        _, *parts, last = key.split(".")
        write_sysctl("/".join([*(info.name if part == "IFNAME" else part for part in parts), last]), value)


def _default_routes(index: int, info: EndpointInfo) -> list[Message]:
    gateways = [gateway for gateway in (info.gateway, info.gateway6) if gateway]
    return [rt.new_default_route(index, ipaddress.ip_address(gateway).packed) for gateway in gateways]


def set_default(namespace: int, ends: Sequence[EndpointInfo]) -> None:
    """Make the first of ``ends`` with a gateway of that version the way out, separately for IPv4 and IPv6; where there
    is none, there is no way out."""
    with netns.inside(namespace):
        inner = Netlink(NETLINK_ROUTE)
        try:
            for version in (4, 6):
                # None there, or (EOPNOTSUPP) no IPv6 at all.
                inner.talk([rt.del_default_route(version)])[0].check(errno.ESRCH, errno.ENOENT, errno.EOPNOTSUPP)
                end = next((e for e in ends if (e.gateway if version == 4 else e.gateway6)), None)
                link = find(inner, end.name) if end else None
                if end is not None and link is not None:
                    gateway = ipaddress.ip_address(end.gateway if version == 4 else end.gateway6).packed
                    inner.talk([rt.new_default_route(link.number, gateway)])[0].check(errno.EEXIST)
        finally:
            inner.close()


def remove_inside(namespace: int, name: str) -> None:
    """Delete an interface of a namespace; one that is gone is no error."""
    with netns.inside(namespace):
        inner = Netlink(NETLINK_ROUTE)
        try:
            unplug(inner, [name], delete=True)
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
