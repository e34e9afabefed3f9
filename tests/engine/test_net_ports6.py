"""Ports and networks of IPv6: reached from everywhere they should be, by nobody else; spoofing; isolation."""

from __future__ import annotations

import ipaddress
import socket
import subprocess

import pytest

from core.errors import Conflict, InvalidArgument, PortTaken
from core.model import NetworkSpec, PortMapping, Subnet
from core.model.network import ICC, MASQUERADE, PUBLISH_ADDRESS
from core.net.ruleset import Port
from core.net.serving import orders
from tests.engine.netlab import (
    OUTSIDE,
    OUTSIDE6,
    UPLINK,
    UPLINK6,
    Lab,
    Server,
    ask_tcp,
    ask_udp,
    command,
    flows_of,
    lab,
    netinst,
    outside,
    private_host,
    run_inside,
)
from tests.engine.ranges import range4, range6

__all__ = ["lab", "netinst", "outside", "private_host"]
pytestmark = [pytest.mark.real, pytest.mark.usefixtures("private_host")]
DUAL = NetworkSpec("dual", ipv6=True, subnets=(Subnet(f"{range4(31)}.0/24"), Subnet(f"{range6(31)}::/64")))
OTHER = NetworkSpec("other", ipv6=True, subnets=(Subnet(f"{range4(32)}.0/24"), Subnet(f"{range6(32)}::/64")))
GATEWAY6 = f"{range6(31)}::1"


def failed(answer: object) -> bool:
    return str(answer).startswith("error")


async def test_published_on_both_versions(lab: Lab, outside: int) -> None:
    await lab.net.create_network(DUAL)
    box = await lab.box(PortMapping(80), PortMapping(53, 0, "udp"), network="dual")
    assert box.published
    assert [p.host_ip for p in box.published.ports] == ["", "::"] * 2
    assert len({p.host_port for p in box.published.ports if p.protocol == "tcp"}) == 1
    for address in ("", "::"):
        box.serve("tcp", 80, address)
        box.serve("udp", 53, address)
    port, udp = box.port(80), box.port(53, "udp")
    # The caller's own address arrives, of either version; from a neighbour or itself, the gateway's (hairpin).
    assert run_inside(outside, ask_tcp, UPLINK, port) == OUTSIDE
    assert run_inside(outside, ask_tcp, UPLINK6, port) == OUTSIDE6
    assert run_inside(outside, ask_udp, UPLINK6, udp) == OUTSIDE6
    assert run_inside(None, ask_tcp, UPLINK6, port) == UPLINK6
    other = await lab.box(network="dual")
    for caller in (box.fd, other.fd):
        assert run_inside(caller, ask_tcp, GATEWAY6, port) == GATEWAY6
        assert run_inside(caller, ask_tcp, UPLINK6, port) == GATEWAY6
    assert flows_of(str(ipaddress.ip_address(box.ip6).exploded))
    await lab.end(box)
    assert not flows_of(str(ipaddress.ip_address(box.ip6).exploded))
    assert failed(run_inside(outside, ask_tcp, UPLINK6, port, 0.5))


async def test_bound_to_one_address_of_ipv6(lab: Lab, outside: int) -> None:
    await lab.net.create_network(DUAL)
    box = await lab.box(PortMapping(80, host_ip=UPLINK6), network="dual")
    box.serve("tcp", 80, "::")
    port = box.port(80)
    assert run_inside(outside, ask_tcp, UPLINK6, port) == OUTSIDE6
    assert failed(run_inside(box.fd, ask_tcp, GATEWAY6, port, 0.5))
    # The other version, and other addresses of the same, are free for others.
    every = await lab.box(PortMapping(80, port, host_ip="0.0.0.0"), network="dual")
    assert every.published
    assert [p.host_ip for p in every.published.ports] == [""]
    with pytest.raises(PortTaken, match="container"):
        await lab.box(PortMapping(80, port, host_ip="::"), network="dual")


async def test_a_container_without_ipv6(lab: Lab) -> None:
    box = await lab.box(PortMapping(80, host_ip="::1"))
    assert box.published
    assert box.published.ports[0].host_ip == "::1"
    for host_ip in ("::", "2001:db8::7"):
        with pytest.raises(InvalidArgument, match="no IPv6 address"):
            await lab.net.publish(box.id, box.ends, [PortMapping(81, host_ip=host_ip)])


async def test_taken_by_a_process_of_ipv6(lab: Lab) -> None:
    await lab.net.create_network(DUAL)
    with socket.socket(socket.AF_INET6) as theirs:
        theirs.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        theirs.bind(("::1", 0))
        theirs.listen()
        port = theirs.getsockname()[1]
        with pytest.raises(PortTaken, match=r"\[::\]:.* is taken") as caught:
            await lab.box(PortMapping(80, port), network="dual")
        assert "(process " in caught.value.why
    assert not lab.store.run.read("SELECT * FROM port")


async def test_the_usual_address(lab: Lab, outside: int) -> None:
    """What the network's option says, where a mapping names no address."""
    await lab.net.create_network(NetworkSpec("shy", options={PUBLISH_ADDRESS: UPLINK}))
    box = await lab.box(PortMapping(80), PortMapping(81, host_ip="127.0.0.1"), network="shy")
    assert box.published
    assert [p.host_ip for p in box.published.ports] == [UPLINK, "127.0.0.1"]
    box.serve("tcp", 80)
    assert run_inside(outside, ask_tcp, UPLINK, box.port(80)) == OUTSIDE


async def test_no_way_in(lab: Lab) -> None:
    await lab.net.create_network(NetworkSpec("closed", internal=True))
    box = await lab.box(network="closed")
    with pytest.raises(Conflict, match="closed") as caught:
        await lab.net.publish(box.id, box.ends, [PortMapping(80)])
    assert caught.value.fix


async def test_the_network_by_which_it_answers_gets_the_ports(lab: Lab, outside: int) -> None:
    for spec in (NetworkSpec("closed", internal=True), DUAL, OTHER):
        await lab.net.create_network(spec)
    box = await lab.box(network="closed")
    for number, name in enumerate(("other", "dual"), 1):
        made = await lab.net.attach(name, box.id, name=f"eth{number}", namespace=box.fd, default=name == "other")
        box.others.append(made)
    box.published = await lab.net.publish(box.id, box.ends, [PortMapping(80)])
    assert {r["container_ip"] for r in lab.store.run.read("SELECT container_ip FROM port")} == {
        box.others[0].endpoint.ip,
        box.others[0].endpoint.ip6,
    }
    box.serve("tcp", 80)
    assert run_inside(outside, ask_tcp, UPLINK, box.port(80)) == OUTSIDE


async def test_networks_are_apart(lab: Lab) -> None:
    await lab.net.create_network(DUAL)
    await lab.net.create_network(OTHER)
    mine, theirs = await lab.box(network="dual"), await lab.box(PortMapping(80), network="other")
    for address in ("", "::"):
        theirs.serve("tcp", 80, address)
    for address in (theirs.ip, theirs.ip6):
        assert run_inside(mine.fd, ask_tcp, address, 80, 0.5) == "error:TimeoutError"
    # By the published port, as anybody; what leaves a network of local addresses bears the host's.
    assert run_inside(mine.fd, ask_tcp, GATEWAY6, theirs.port(80)) == theirs.attachment.endpoint.gateway6
    neighbour = await lab.box(network="other")
    assert run_inside(neighbour.fd, ask_tcp, theirs.ip6, 80) == neighbour.ip6


async def test_direct_routes_to_ipv6_are_dropped(lab: Lab, outside: int) -> None:
    await lab.net.create_network(DUAL)
    box = await lab.box(PortMapping(81), network="dual")
    box.serve("tcp", 80, "::")
    assert run_inside(outside, ask_tcp, box.ip6, 80, 0.5) == "error:TimeoutError"
    assert run_inside(None, ask_tcp, box.ip6, 80) == GATEWAY6


@pytest.mark.parametrize("masquerade", [True, False])
async def test_masquerade(lab: Lab, outside: int, masquerade: bool) -> None:
    options = {} if masquerade else {MASQUERADE: "false"}
    await lab.net.create_network(NetworkSpec("dual", ipv6=True, subnets=DUAL.subnets, options=options))
    for net in DUAL.subnets:
        run_inside(outside, command, "ip", "route", "add", net.subnet, "via", UPLINK6 if net.version == 6 else UPLINK)
    box = await lab.box(network="dual")
    servers = [Server(outside, "tcp", 8000, address) for address in ("", "::")]
    try:
        assert run_inside(box.fd, ask_tcp, OUTSIDE, 8000) == (UPLINK if masquerade else box.ip)
        assert run_inside(box.fd, ask_tcp, OUTSIDE6, 8000) == (UPLINK6 if masquerade else box.ip6)
    finally:
        for server in servers:
            server.close()


async def test_no_speaking_with_neighbours(lab: Lab) -> None:
    """Neither over the bridge nor by way of the host, in either version."""
    await lab.net.create_network(NetworkSpec("dual", ipv6=True, subnets=DUAL.subnets, options={ICC: "false"}))
    mine, theirs = await lab.box(network="dual"), await lab.box(PortMapping(80), network="dual")
    for address in ("", "::"):
        theirs.serve("tcp", 80, address)
    for address in (theirs.ip, theirs.ip6):
        assert failed(run_inside(mine.fd, ask_tcp, address, 80, 0.5))
    for address, gateway in ((theirs.ip, f"{range4(31)}.1"), (theirs.ip6, GATEWAY6)):
        run_inside(mine.fd, command, "ip", "route", "add", address, "via", gateway)
        assert failed(run_inside(mine.fd, ask_tcp, address, 80, 0.5))


async def test_an_internal_network_ends_at_its_bridge(lab: Lab, outside: int) -> None:
    await lab.net.create_network(NetworkSpec("closed", ipv6=True, internal=True, subnets=DUAL.subnets))
    box, public = await lab.box(network="closed"), await lab.box(PortMapping(80))
    public.serve("tcp", 80)
    servers = [Server(None, "tcp", 47998, address) for address in ("0.0.0.0", "::")]
    servers += [Server(outside, "tcp", 8000, address) for address in ("", "::")]
    try:
        for gateway in (f"{range4(31)}.1", GATEWAY6):
            run_inside(box.fd, command, "ip", "route", "add", "default", "via", gateway)
            assert run_inside(box.fd, ask_tcp, gateway, 47998)  # its own gateway is the host, as ever
        for address in (UPLINK, UPLINK6, public.attachment.endpoint.gateway):
            assert failed(run_inside(box.fd, ask_tcp, address, 47998, 0.5)), address
        for address in (OUTSIDE, OUTSIDE6):
            assert failed(run_inside(box.fd, ask_tcp, address, 8000, 0.5))
        assert failed(run_inside(box.fd, ask_tcp, f"{range4(31)}.1", public.port(80), 0.5))
        box.serve("tcp", 80, "::")
        assert failed(run_inside(outside, ask_tcp, box.ip6, 80, 0.5))
    finally:
        for server in servers:
            server.close()


@pytest.mark.parametrize(("stranger", "bits"), [("203.0.113.77", 32), ("2001:db8:77::7", 128), ("a neighbour", 32)])
async def test_nobody_speaks_in_anothers_name(lab: Lab, outside: int, stranger: str, bits: int) -> None:
    """What a container sends with a source that its network has not, reaches neither the host nor anybody behind."""
    await lab.net.create_network(DUAL)
    box = await lab.box(network="dual")
    stranger = stranger if "." in stranger or ":" in stranger else f"{range4(32)}.9"
    run_inside(box.fd, command, "ip", "address", "add", f"{stranger}/{bits}", "dev", "eth0")
    there = OUTSIDE6 if bits == 128 else OUTSIDE

    def seen() -> int:
        table = lab.inst.nft_table
        text = command("nft", "list", "chain", "inet", f"{table}_probe", "seen")
        return int(text.split("packets ")[1].split()[0])

    version = "ip6" if bits == 128 else "ip"
    chain = f"type filter hook prerouting priority -200; {version} saddr {stranger} counter;"
    rules = f"table inet {lab.inst.nft_table}_probe {{ chain seen {{ {chain} }}; }}"
    subprocess.run(("nft", rules), check=True)
    try:
        run_inside(box.fd, send_from, box.ip6 if bits == 128 else box.ip, there)  # it knows its gateway now
        assert failed(run_inside(box.fd, send_from, stranger, there))
        assert seen() == 0
        subprocess.run(("nft", "flush", "chain", "inet", lab.inst.nft_table, "raw"), check=True)
        run_inside(box.fd, send_from, stranger, there)
        assert seen() > 0  # the test would see it
    finally:
        subprocess.run(("nft", "delete", "table", "inet", f"{lab.inst.nft_table}_probe"), check=True)


def send_from(source: str, target: str) -> str:
    with socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((source, 0))
        sock.settimeout(0.3)
        sock.sendto(b"x", (target, 9))
        return sock.recv(10).decode()


async def test_table_is_intact_with_all_that_there_is(lab: Lab) -> None:
    for spec in (DUAL, OTHER, NetworkSpec("closed", ipv6=True, internal=True)):
        await lab.net.create_network(spec)
    await lab.box(PortMapping(80), PortMapping(81, host_ip="127.0.0.1"), network="dual")
    assert not await lab.net.restore()
    for argv in (
        ("flush", "set", "inet", lab.inst.nft_table, "local6"),
        ("flush", "map", "inet", lab.inst.nft_table, "publish_any6"),
        ("flush", "chain", "inet", lab.inst.nft_table, "postrouting"),
    ):
        subprocess.run(("nft", *argv), check=True)
        assert await lab.net.restore(), argv
        assert not await lab.net.restore(), argv


def test_what_a_proxy_has_to_serve() -> None:
    rows = [
        Port("tcp", "", 8080, "10.0.0.2", 80),
        Port("tcp", "::", 8080, "fd00::2", 80),
        Port("tcp", "::1", 8081, "10.0.0.2", 80),
        Port("tcp", "127.0.0.1", 8082, "10.0.0.2", 80),
        Port("sctp", "", 8083, "10.0.0.2", 80),
    ]
    held = {"hold tcp :: 8080": ("fd00::2", 80), "hold tcp ::1 8081": ("10.0.0.2", 80)}
    assert {order["name"]: tuple(order["target"]) for order in orders(rows, every=False)} == held
    # A container without IPv6: the proxy has to bind the port itself.
    (order,) = orders(rows[:1], every=False)
    assert (order["name"], order["bind"]) == ("own hold tcp ::1 8080", ["::1", 8080])
    assert [order["bind"] for order in orders(rows[:1], every=True)] == [["0.0.0.0", 8080], ["::", 8080]]
    assert [order["bind"] for order in orders(rows[3:], every=True)] == [["127.0.0.1", 8082]]
