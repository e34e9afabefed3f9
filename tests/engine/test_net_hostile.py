"""A hostile container: what it may send, and who believes it."""

from __future__ import annotations

import socket
import struct

import pytest

from core.model import NetworkSpec, Subnet
from tests.engine.netlab import Lab, Server, ask_tcp, command, lab, netinst, private_host, run_inside, soon

__all__ = ["lab", "netinst", "private_host"]
pytestmark = [pytest.mark.real, pytest.mark.usefixtures("private_host")]
DUAL = NetworkSpec("dual", ipv6=True, subnets=(Subnet("10.89.34.0/24"), Subnet("fd00:89:34::/64")))
GATEWAY6 = "fd00:89:34::1"


def advertise() -> str:
    """A router advertisement (RFC 4861, 4.2): "I am the way out, and this prefix is yours", to all on the link."""
    head = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + socket.inet_pton(
        socket.AF_INET6, "2001:db8:bad::"
    )
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("eth0"))
        for _ in range(5):
            raw.sendto(head + prefix, ("ff02::1", 0, 0, socket.if_nametoindex("eth0")))
    return "sent"


async def test_nobody_believes_its_router_advertisements(lab: Lab) -> None:
    """CVE-2020-13401: neither a neighbour nor the host takes an address or a route from it."""
    await lab.net.create_network(DUAL)
    bad, neighbour = await lab.box(network="dual"), await lab.box(network="dual")
    assert run_inside(bad.fd, advertise) == "sent"
    assert run_inside(neighbour.fd, command, "ip", "-6", "route", "show", "default").count("default") == 1
    assert command("ip", "-6", "route", "show", "default") == ""
    for text in (run_inside(neighbour.fd, command, "ip", "-6", "address"), command("ip", "-6", "address")):
        assert "bad" not in text
    # One that believes is led astray: the test would see it.
    run_inside(neighbour.fd, command, "sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=2")
    run_inside(bad.fd, advertise)
    assert soon(lambda: "2001:db8:bad" in run_inside(neighbour.fd, command, "ip", "-6", "address"))


async def test_loopback_of_the_host_in_ipv6(lab: Lab) -> None:
    await lab.net.create_network(DUAL)
    box = await lab.box(network="dual")
    server = Server(None, "tcp", 47997, "::1")
    try:
        assert run_inside(None, ask_tcp, "::1", 47997) == "::1"
        run_inside(box.fd, command, "ip", "address", "del", "::1/128", "dev", "lo")
        run_inside(box.fd, command, "ip", "route", "add", "::1/128", "via", GATEWAY6)
        assert str(run_inside(box.fd, ask_tcp, "::1", 47997, 0.5)).startswith("error")
    finally:
        server.close()


async def test_as_a_router_for_others_it_is_refused(lab: Lab) -> None:
    """What comes by way of a container from elsewhere has a source that its network has not."""
    await lab.net.create_network(DUAL)
    await lab.net.create_network(NetworkSpec("back", internal=True, subnets=(Subnet("10.89.35.0/24"),)))
    both = await lab.box(network="dual")
    made = await lab.net.attach("back", both.id, name="eth1", namespace=both.fd, default=False)
    both.others.append(made)
    inner = await lab.box(network="back")
    server = Server(None, "tcp", 47996, "0.0.0.0")
    try:
        run_inside(both.fd, command, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        run_inside(inner.fd, command, "ip", "route", "add", "default", "via", made.endpoint.ip)
        assert run_inside(both.fd, ask_tcp, "10.89.34.1", 47996)
        assert str(run_inside(inner.fd, ask_tcp, "10.89.34.1", 47996, 0.5)).startswith("error")
    finally:
        server.close()
