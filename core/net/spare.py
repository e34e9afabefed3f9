"""Namespaces that wait for the next containers: made, with one end of a veth pair inside and all that is the same for
every container set, while nobody waits for it.

Making one costs the kernel 1.5 ms, most of it the pair (sysfs, sysctl and procfs entries of two interfaces); what is
left for the moment of need are a bridge, an address, a route. Engines that stay open keep them.

A spare has no name and no row: its descriptor is all that holds it, so that it goes with its engine, whatever ends
that one. Its host end is told from a lost one by its group.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import time
from dataclasses import dataclass

from core.kernel import netns
from core.kernel import rtnetlink as rt
from core.kernel.netlink import NETLINK_ROUTE, Netlink
from core.model import EndpointInfo
from core.net import links

GROUP = 0x77617266  # "warf": the group of a spare's host end; of one in use it is 0, as of all others
NAME = "eth0"  # the interface in the container, unless it wants another name
_MOST = 2
_FRESH = 600.0  # seconds: then the host's settings, which a namespace copies when it is made, may be others
_GONE = (errno.ENODEV, errno.EINVAL)  # the latter in the words of kernels that do not find an interface to change


class Lost(Exception):
    """Somebody has deleted the pair, or put it elsewhere."""


@dataclass(frozen=True)
class Spare:
    """A namespace with the interface :data:`NAME`, down, and ``lo``, up; the pair's other end on the host, down.

    ``outer`` and ``index`` are the ends' indices, on the host and inside.
    """

    namespace: int
    inner: Netlink
    interface: str
    outer: int
    index: int
    mtu: int
    made: float  # monotonic

    def close(self) -> None:
        """Let it go, unused; the kernel removes the pair in the background."""
        self.inner.close()
        os.close(self.namespace)

    def connect(self, nl: Netlink, info: EndpointInfo, way: links.Bridged) -> None:
        """What :func:`core.net.links.plug` does. After an exception its host end is out of the bridge.

        :raises Lost: its pair cannot be used
        :raises OSError: the kernel refused
        """
        mtu = way.mtu if way.mtu != self.mtu else 0
        try:
            # By index: with a name that is gone, kernels before 5.19 would change every interface of group 0 instead.
            join = rt.join_bridge(self.outer, way.bridge, mtu=mtu)
            nl.change([join, rt.port_up(self.outer, isolated=way.isolated, mtu=way.mtu)])
        except OSError as error:
            if error.errno in _GONE:
                raise Lost from error
            raise
        try:
            self._configure(info, mtu)
        except BaseException:
            links.unplug(nl, [info.interface])  # at once: the next one may get the same address
            raise

    def _configure(self, info: EndpointInfo, mtu: int) -> None:
        if info.ip6:
            with netns.inside(self.namespace):
                links.set_ipv6(NAME, on=True)
        mac = links.mac_bytes(info.mac)
        self.inner.change(links.address_steps(self.index, info, default=True, mac=mac, mtu=mtu))
        if info.sysctls:
            with netns.inside(self.namespace):
                links.write_interface_sysctls(info)


def _make(nl: Netlink, interface: str, mtu: int) -> Spare:
    # A smaller MTU would take IPv6 off the interface, with what is set here: a larger one would bring it back as it is
    # by default, believing router advertisements.
    mtu = max(mtu, rt.LEAST_IPV6)
    with netns.fresh() as fd:
        nl.talk([rt.new_spare_veth(interface, NAME, fd, mtu=mtu, group=GROUP)])[0].check()
        outer = links.find(nl, interface)
        links.set_ipv6(NAME, on=False)
        inner = Netlink(NETLINK_ROUTE)
        try:
            index = socket.if_nametoindex(NAME)
            inner.talk([rt.set_up(links.LOOPBACK)])[0].check()
            if outer is None:
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), interface)
        except BaseException:
            inner.close()
            raise
        return Spare(fd, inner, interface, outer.number, index, mtu, time.monotonic())


class Spares:
    """A few of them, for one thread."""

    def __init__(self, prefix: str) -> None:
        """:param prefix: of their host ends' names; no digit of a container's id follows it, but an ``s``"""
        self._prefix = prefix
        self._ready: list[Spare] = []
        self._mtu = 0  # of the last network that wanted one; 0: none did, or this is closed

    def take(self, way: links.Bridged) -> Spare | None:
        """One for a container whose interface is called :data:`NAME`; None where there is none."""
        self._mtu = way.mtu
        while self._ready:
            spare = self._ready.pop()
            if time.monotonic() - spare.made < _FRESH:
                return spare
            spare.close()
        return None

    def add(self, nl: Netlink) -> bool:
        """Make one that lacks, as far as the kernel lets us: whoever finds none makes a namespace and hears why it does
        not go.

        :returns: whether another one lacks
        """
        if not self._mtu or len(self._ready) >= _MOST:
            return False
        try:
            self._ready.append(_make(nl, f"{self._prefix}s{secrets.token_hex(3)}", self._mtu))
        except OSError:
            return False
        return len(self._ready) < _MOST

    def close(self) -> None:
        """For good."""
        self._mtu = 0
        while self._ready:
            self._ready.pop().close()
