"""``network check`` where each link is broken for real, on a host of the test's own; it names that link first."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from core.engine import Engine
from core.errors import NotFound
from core.model import ContainerSpec, ExecSpec, NetStep, NetworkSpec, PortMapping, Subnet
from core.store.paths import Instance
from tests.engine.netlab import OUTSIDE, OUTSIDE6, Server, keeper_held, outside, private_host
from tests.patience import patience

__all__ = ["outside", "private_host"]
pytestmark = [pytest.mark.real, pytest.mark.usefixtures("private_host")]
HTTP = "httpd -p 80 -h /tmp; sleep 1000"


def sh(*argv: str) -> None:
    subprocess.run(argv, check=True)


@dataclass
class Town:
    """A network ``web`` with a server ``box`` on it; the host has a router outside."""

    engine: Engine
    inst: Instance
    image: str
    bridge: str
    veth: str
    ip: str
    pid: int
    host_port: int
    dns: Server

    async def check(self, ref: str = "web") -> list[NetStep]:
        return [step async for step in self.engine.check_network(ref)]

    async def first(self, ref: str = "web") -> NetStep:
        """The first broken link."""
        steps = await self.check(ref)
        return next(step for step in steps if step.status == "broken")

    async def run(self, ref: str, *argv: str) -> None:
        """In the container, to its end."""
        session = await self.engine.exec(ref, ExecSpec(argv))
        assert await session.wait() == 0
        await session.close()

    def enter(self, *argv: str) -> None:
        """In the container's network namespace, with the host's programs."""
        sh("nsenter", "-t", str(self.pid), "-n", *argv)


async def listening(engine: Engine, ref: str, port: int) -> None:
    """Once the container's server is there."""
    async with asyncio.timeout(patience(20)):
        while port not in [one.local_port for one in await engine.connections([ref], all=True)]:
            await asyncio.sleep(0.02)


@pytest_asyncio.fixture
async def town(engine: Engine, inst: Instance, busybox_image: str, outside: int) -> AsyncIterator[Town]:
    sh("ip", "route", "add", "default", "via", OUTSIDE)
    network = await engine.create_network(NetworkSpec("web", subnets=(Subnet("10.89.6.0/24"),)))
    spec = ContainerSpec(
        busybox_image, "box", ("sh", "-c", HTTP), network="web", ports=(PortMapping(80),), dns=(OUTSIDE,)
    )
    box = await engine.start((await engine.create(spec)).id)
    dns = Server(outside, "dns", 53)
    try:
        await listening(engine, "box", 80)
        (end,) = box.endpoints
        port = box.ports[0].host_port
        yield Town(engine, inst, busybox_image, network.bridge, end.interface, end.ip, box.pid, port, dns)
    finally:
        dns.close()
    sh("nft", "flush", "ruleset")
    await engine.recover()


async def test_all_is_well(town: Town) -> None:
    for ref in ("web", "box"):
        steps = await town.check(ref)
        assert {step.status for step in steps} == {"ok"}, steps
        names = [step.name for step in steps]
        assert names[:4] == ["network", "bridge", "bridge address", "mtu"]
        assert names[-3:] == [f"port {town.host_port}/tcp"] * 3
    with pytest.raises(NotFound, match="networks are"):
        await town.check("nowhere")


Break = tuple[str, str, str, str]  # what breaks it, what mends it, the link, words of the finding


async def each(town: Town, *breaks: Break, inside: bool = False) -> None:
    """Break, look, mend; at the end all is well again."""
    names = {"BR": town.bridge, "VETH": town.veth, "IP": town.ip, "OUT": OUTSIDE, "PORT": str(town.host_port)}

    def do(line: str) -> None:
        for one in line.split(";"):
            words = [names.get(word, word) for word in one.split()]
            (town.enter if inside else sh)(*words)

    for broken, mend, link, words in breaks:
        do(broken)
        step = await town.first()
        assert (step.name, words in step.found) == (link, True), (broken, step)
        assert step.fix, step
        if mend:
            do(mend)
        else:
            await town.engine.recover()
    assert [step for step in await town.check() if step.status == "broken"] == []


async def test_links_of_the_host(town: Town) -> None:
    await each(
        town,
        ("ip link set BR down", "ip link set BR up", "bridge", "is down"),
        ("ip address flush dev BR", "ip address add 10.89.6.1/24 dev BR", "bridge address", "10.89.6.1/24"),
        ("ip link set VETH nomaster", "ip link set VETH master BR", "veth", "a port of no bridge"),
        ("ip link set VETH down", "ip link set VETH up", "veth", "is down"),
        (
            "ip route add 10.89.6.0/28 via OUT",
            "ip route del 10.89.6.0/28",
            "route",
            "the host reaches 10.89.6.0/24 by out",
        ),
        (
            "sysctl -qw net.ipv4.ip_forward=0",
            "sysctl -qw net.ipv4.ip_forward=1",
            "forwarding",
            "net.ipv4.ip_forward is 0",
        ),
        ("ip link del VETH", "", "veth", "is gone"),
    )


async def test_a_bridge_that_is_gone_is_mended_by_recovery(town: Town) -> None:
    await each(
        town,
        ("ip link del BR", "", "bridge", "is gone"),
        ("ip address flush dev BR", "", "bridge address", "does not have 10.89.6.1/24"),
    )


async def test_a_network_that_nobody_is_on_yet_breaks_nothing(town: Town) -> None:
    """Its part of the table is made with its bridge, later."""
    await town.engine.create_network(NetworkSpec("later", subnets=(Subnet("10.89.9.0/24"),)))
    assert {step.status for step in await town.check()} == {"ok"}
    sh("nft", "add", "element", "inet", town.inst.nft_table, "bridges", "{ stray0 }")
    assert (await town.first()).name == "firewall"


async def test_one_interface_that_does_not_forward(town: Town) -> None:
    key = f"net.ipv4.conf.{town.bridge}.forwarding"
    await each(town, (f"sysctl -qw {key}=0", f"sysctl -qw {key}=1", "forwarding", "the host does not route"))


def foreign(
    *rules: str, policy: str = "drop", hook: str = "forward", table: str = "inet foreign", chain: str = "c"
) -> None:
    """A table of somebody else's."""
    lines = [
        f"add table {table}",
        f"add chain {table} {chain} {{ type filter hook {hook} priority 0; policy {policy}; }}",
    ]
    lines += [f"add rule {table} {chain} {rule}" for rule in rules]
    subprocess.run(("nft", "-f", "-"), input="\n".join(lines), text=True, check=True)


@pytest.mark.parametrize(
    ("words", "says"), [("flush ruleset", "is not there"), ("flush map inet {} publish_any", "elements are missing")]
)
async def test_our_table(town: Town, words: str, says: str) -> None:
    with keeper_held(town.inst):
        await each(town, (f"nft {words.format(town.inst.nft_table)}", "", "firewall", says))


async def test_tables_of_others(town: Town) -> None:
    foreign()
    step = await town.first()
    assert (step.subject, step.name) == ("network web", "forward policy")
    assert "table inet foreign, chain c drops everything" in step.found
    # As an administrator would have it, who did not think of containers: only packets can tell.
    sh("nft", "delete", "table", "inet", "foreign")
    foreign("ct state established accept", 'iifname "eth9" accept')
    step = await town.first()
    assert (step.subject, step.name) == ("container box", "way out")
    assert "table inet foreign, chain c drops by policy" in step.found
    assert f"iifname {town.bridge} accept" in step.fix
    sh("nft", "delete", "table", "inet", "foreign")
    # The same without a policy: the last rule.
    foreign("ct state established accept", "counter reject", policy="accept")
    step = await town.first()
    assert "table inet foreign, chain c refuses by its last rule" in step.found
    sh("nft", "delete", "table", "inet", "foreign")
    # Names the bridge, and drops all the same.
    foreign(f'iifname "{town.bridge}" oifname "out*" drop', policy="accept")
    step = await town.first()
    assert (step.name, "answers this host but not the container" in step.found) == ("way out", True)
    sh("nft", "delete", "table", "inet", "foreign")
    # What our accepts are for: they are not there, for nobody was watching.
    with keeper_held(town.inst):
        foreign(table="ip filter", chain="FORWARD")
        step = await town.first()
        assert (step.name, "our accepts are not in it" in step.found) == ("forward policy", True)
        await town.engine.recover()
    assert {step.status for step in await town.check()} == {"ok"}


async def test_the_older_iptables(town: Town) -> None:
    if subprocess.run(("iptables-legacy", "-P", "FORWARD", "DROP"), capture_output=True, check=False).returncode:
        pytest.skip("needs iptables-legacy, and a kernel that has it")
    step = await town.first()
    assert (step.name, "iptables-legacy: FORWARD drops by policy" in step.found) == ("way out", True)
    sh("iptables-legacy", "-P", "FORWARD", "ACCEPT")
    assert {step.status for step in await town.check()} == {"ok"}


async def test_both_versions_of_ip(town: Town) -> None:
    sh("ip", "-6", "route", "add", "default", "via", OUTSIDE6)
    ranges = (Subnet("10.89.8.0/24"), Subnet("fd00:89:8::/64"))
    await town.engine.create_network(NetworkSpec("dual", ipv6=True, subnets=ranges))
    bound = (PortMapping(80), PortMapping(80, 0, "tcp", "::1"), PortMapping(7, 0, "sctp"), PortMapping(80, 0, "udp"))
    spec = ContainerSpec(town.image, "both", ("sh", "-c", HTTP), network="dual", ports=bound[:3], dns=(OUTSIDE,))
    await town.engine.start((await town.engine.create(spec)).id)
    await listening(town.engine, "both", 80)
    steps = await town.check("both")
    assert {step.status for step in steps} == {"ok", "skipped"}, steps
    assert [step.found for step in steps if step.name in ("gateway", "bridge address", "default route")] == [
        "10.89.8.1/24", "fd00:89:8::1/64", "by 10.89.8.1", "by fd00:89:8::1", "10.89.8.1 answers",
        "fd00:89:8::1 answers",
    ]  # fmt: skip
    assert [step.found for step in steps if step.name == "way out"] == [
        f"{OUTSIDE}, the host's router, answers", f"{OUTSIDE6}, the host's router, answers",
    ]  # fmt: skip
    again = "killall httpd; until httpd -h /tmp -p {} 2>/dev/null; do sleep 0.1; done"
    await town.run("both", "sh", "-c", again.format("0.0.0.0:80"))
    seen = [step for step in await town.check("both") if "80/tcp" in step.found]
    assert [(step.status, "not on IPv6" in step.found) for step in seen] == [
        ("ok", False), ("broken", True), ("ok", False),
    ]  # fmt: skip
    await town.run("both", "sh", "-c", again.format("80"))
    accepted = [step.found.rpartition(":")[0] for step in steps if "accepts connections" in step.found]
    assert accepted == ["127.0.0.1", "[fd00:89:8::1]", "[::1]"]
    sh("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0")
    step = await town.first("dual")
    assert (step.name, step.found) == ("forwarding", "net.ipv6.conf.all.forwarding is 0: the host does not route")
    sh("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
    await town.engine.publish_ports("both", bound[3:])
    step = await town.first("both")
    assert "nothing listens on 80/udp" in step.found


async def test_networks_where_less_is_right(town: Town) -> None:
    engine = town.engine
    await engine.create_network(NetworkSpec("back", subnets=(Subnet("10.89.7.0/24"),), internal=True))

    async def start(name: str, network: str, **more: object) -> None:
        spec = ContainerSpec(town.image, name, ("sleep", "1000"), network=network, **more)  # type: ignore[arg-type]
        await engine.start((await engine.create(spec)).id)

    await start("inner", "back")
    await start("alone", "none")
    await start("open", "host")
    await start("guest", "container:inner")
    await engine.create(ContainerSpec(town.image, "idle", ("sleep", "1000"), network="web"))
    for ref, words in (
        ("inner", "internal: that nothing gets out, or in, is right"),
        ("back", "internal: that nothing gets out, or in, is right"),
        ("alone", "that nothing gets out is right"),
        ("none", "that nothing gets out is right"),
        ("open", "the interfaces of this host itself"),
        ("host", "the interfaces of this host itself"),
        ("guest", "it uses the network of inner"),
        ("idle", "it does not run"),
    ):
        steps = await town.check(ref)
        assert any(words in step.found for step in steps), (ref, steps)
        assert {step.status for step in steps} <= {"ok", "skipped"}, (ref, steps)


async def test_a_host_with_several_routers(town: Town) -> None:
    """Two in one route; and one to nowhere, which is no way out."""
    sh("ip", "route", "replace", "default", "nexthop", "via", OUTSIDE, "nexthop", "via", "198.51.100.3")
    assert ("way out", f"{OUTSIDE}, the host's router, answers") in [(s.name, s.found) for s in await town.check()]
    sh("ip", "route", "del", "default")
    sh("ip", "route", "add", "unreachable", "default")
    (step,) = [step for step in await town.check() if step.name == "way out"]
    assert (step.status, step.found) == ("skipped", "this host itself has no IPv4 default route")


async def test_macvlan(town: Town) -> None:
    parent = next(name for _, name in socket.if_nameindex() if name.startswith("out"))
    subnet = Subnet("198.51.100.0/24", gateway=OUTSIDE, ip_range="198.51.100.64/26")
    await town.engine.create_network(NetworkSpec("lan", "macvlan", (subnet,), options={"parent": parent}))
    spec = ContainerSpec(town.image, "sliced", ("sleep", "1000"), network="lan", dns=(OUTSIDE,))
    await town.engine.start((await town.engine.create(spec)).id)
    steps = await town.check("sliced")
    assert {step.status for step in steps} <= {"ok", "skipped"}, steps
    assert any("does not reach its containers" in step.found for step in steps)
    assert ("gateway", f"{OUTSIDE} answers") in [(step.name, step.found) for step in steps]
    (counted,) = await town.engine.interfaces(["sliced"])
    assert (counted.network, counted.name, counted.host) == ("lan", "eth0", "")
    assert counted.rx_packets
    assert counted.tx_bytes
    sh("ip", "link", "set", parent, "down")
    step = await town.first("lan")
    assert (step.name, step.found) == ("parent", f"{parent} is down")
    sh("ip", "link", "set", parent, "up")
    await town.engine.remove("sliced", force=True)
    await town.engine.remove_network("lan")
