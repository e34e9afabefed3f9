"""Who reaches a published port: what is told, beside what a caller finds."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest

from core.model import PortMapping, Reach
from core.net import reach
from core.net.reach import Address, Scene
from core.net.serving import on_localhost6
from tests.engine.netlab import UPLINK, Lab, ask_tcp, lab, netinst, outside, private_host, run_inside

__all__ = ["lab", "netinst", "outside", "private_host"]
pytestmark = pytest.mark.real


async def told(lab: Lab, port: PortMapping) -> Reach:
    return reach.reach(await lab.net.scene(), "box", port, "172.16.0.2:80")


def nft(*lines: str) -> None:
    subprocess.run(("nft", "-f", "-"), input="\n".join(lines), text=True, check=True)


async def test_loopback_is_this_host_alone(private_host: None, lab: Lab, outside: int) -> None:
    box = await lab.box(PortMapping(80, host_ip="127.0.0.1"))
    box.serve("tcp", 80)
    assert box.published
    (port,) = box.published.ports
    found = await told(lab, port)
    assert found.scope == "host"
    assert found.addresses == ("127.0.0.1 (lo)",)
    assert f"127.0.0.1 . tcp . {port.host_port}" in found.rule
    assert run_inside(None, ask_tcp, "127.0.0.1", port.host_port) != "error:died"
    assert str(run_inside(outside, ask_tcp, UPLINK, port.host_port, 0.5)).startswith("error:")


async def test_all_addresses_are_the_lan(private_host: None, lab: Lab, outside: int) -> None:
    box = await lab.box(PortMapping(80))
    box.serve("tcp", 80)
    assert box.published
    port = box.published.ports[0]
    found = await told(lab, port)
    assert found.scope == "lan"
    assert any(text.startswith(UPLINK) for text in found.addresses)
    assert not found.warnings
    assert run_inside(outside, ask_tcp, UPLINK, port.host_port) == "198.51.100.2"
    # The element that is named is the one that leads there.
    listed = subprocess.run(("nft", "list", "map", "inet", lab.inst.nft_table, "publish_any"), **PIPE).stdout
    assert f"tcp . {port.host_port}" in listed
    assert f"tcp . {port.host_port} of map publish_any" in found.rule


PIPE = {"capture_output": True, "text": True, "check": True}


async def test_a_host_that_does_not_route(private_host: None, lab: Lab, outside: int) -> None:
    box = await lab.box(PortMapping(80))
    box.serve("tcp", 80)
    assert box.published
    port = box.published.ports[0]
    subprocess.run(("sysctl", "-qw", "net.ipv4.ip_forward=0"), check=True)
    found = await told(lab, port)
    assert found.scope == "host"
    assert "net.ipv4.ip_forward" in found.rule
    assert str(run_inside(outside, ask_tcp, UPLINK, port.host_port, 0.5)).startswith("error:")


async def test_a_foreign_policy_that_drops_what_is_routed(private_host: None, lab: Lab, outside: int) -> None:
    box = await lab.box(PortMapping(80))
    box.serve("tcp", 80)
    assert box.published
    port = box.published.ports[0]
    nft("table inet mine { chain routed { type filter hook forward priority 10; policy drop; }; }")
    found = await told(lab, port)
    assert found.scope == "host"
    assert "inet mine routed" in found.rule
    assert str(run_inside(outside, ask_tcp, UPLINK, port.host_port, 0.5)).startswith("error:")
    nft("delete table inet mine")
    assert (await told(lab, port)).scope == "lan"


async def test_an_input_policy_does_not_keep_it_closed(private_host: None, lab: Lab, outside: int) -> None:
    """What an admin believes to be closed is open: the warning, and the proof."""
    box = await lab.box(PortMapping(80))
    box.serve("tcp", 80)
    assert box.published
    port = box.published.ports[0]
    nft(
        "table ip filter { chain INPUT { type filter hook input priority 0; policy drop; }; chain ufw-user-input { }; }"
    )
    found = await told(lab, port)
    assert found.scope == "lan"
    assert "ufw would not let it in" in found.warnings[0]
    assert run_inside(outside, ask_tcp, UPLINK, port.host_port) == "198.51.100.2"


async def test_without_our_table_nobody(private_host: None, lab: Lab) -> None:
    box = await lab.box(PortMapping(80))
    assert box.published
    subprocess.run(("nft", "flush", "ruleset"), check=True)
    found = await told(lab, box.published.ports[0])
    assert found.scope == "nobody"
    assert lab.inst.nft_table in found.rule


SCENE = Scene(
    (Address("127.0.0.1", "lo", "host"), Address("::1", "lo", "host"), Address("203.0.113.9", "eth0", "everyone"),
     Address("2001:db8::9", "eth0", "everyone"), Address("10.0.0.4", "eth1", "lan")),
    {4: True, 6: False}, "wharf", True, (), frozenset(),
)  # fmt: skip


@pytest.mark.parametrize(
    ("host_ip", "scope", "count"),
    [
        ("", "everyone", 3),
        ("10.0.0.4", "lan", 1),
        ("203.0.113.9", "everyone", 1),
        ("10.0.0.5", "nobody", 0),
        ("::", "host", 1),  # no IPv6 forwarding
        ("::1", "host", 1),
    ],
)
def test_by_address(host_ip: str, scope: str, count: int) -> None:
    found = reach.reach(SCENE, "box", PortMapping(80, 8080, host_ip=host_ip), "x")
    assert (found.scope, len(found.addresses)) == (scope, count)


def test_what_the_proxy_serves_on_localhost6() -> None:
    every = PortMapping(80, 8080)
    six, own = replace(every, host_ip="::"), replace(every, host_ip="::1")
    other = replace(six, protocol="udp")
    assert on_localhost6(every, [every, other])
    assert not on_localhost6(every, [every, six])
    assert on_localhost6(six, [every, six])
    assert not on_localhost6(every, [every, own])
    assert not on_localhost6(own, [every, own])
    assert not on_localhost6(replace(every, protocol="sctp"), [])
    assert not on_localhost6(replace(every, host_ip="10.0.0.4"), [])
    assert "::1 (lo)" in reach.reach(SCENE, "box", every, "x", proxied=True).addresses
    assert "::1 (lo)" not in reach.reach(SCENE, "box", every, "x").addresses


def test_the_widest_of_several() -> None:
    scenes = [reach.reach(SCENE, "box", PortMapping(80, 8080, host_ip=ip), "x") for ip in ("10.0.0.4", "127.0.0.1")]
    assert reach.widest(scenes) == "lan"
    assert reach.widest([]) == ""
