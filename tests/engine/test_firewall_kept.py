"""Other people's hands on the firewall: it is put right while no engine is open, and chains that drop what is routed
are told to let our bridges pass. Each test has a host of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from core.kernel import netns
from core.local import LocalEngine
from core.model import ContainerSpec, EndpointSpec, LogOptions, NetworkSpec, PortMapping, RestartPolicy, Subnet
from core.store.paths import Instance
from core.supervise.keeper import Keeper
from core.supervise.loop import Loop
from core.supervise.protocol import Launch
from tests.engine.netlab import (
    OUTSIDE,
    OUTSIDE6,
    UPLINK,
    UPLINK6,
    Lab,
    Server,
    ask_tcp,
    command,
    lab,
    netinst,
    outside,
    private_host,
    run_inside,
)
from tests.patience import patience

__all__ = ["lab", "netinst", "outside", "private_host"]
pytestmark = [pytest.mark.real, pytest.mark.usefixtures("private_host")]
DUAL = NetworkSpec("dual", ipv6=True, subnets=(Subnet("10.89.33.0/24"), Subnet("fd00:89:33::/64")))

# What `ufw enable` leaves of the way through FORWARD (ufw 0.36: before.rules, user.rules; policy DROP), by nft's names.
UFW = """
table FAMILY filter {
    chain ufwP-before-forward {
        ct state related,established counter accept
    }
    chain ufwP-user-forward { }
    chain ufwP-after-forward { }
    chain ufwP-reject-forward { }
    chain FORWARD {
        type filter hook forward priority 0; policy drop;
        counter jump ufwP-before-forward
        counter jump ufwP-user-forward
        counter jump ufwP-after-forward
        counter jump ufwP-reject-forward
    }
    chain INPUT {
        type filter hook input priority 0; policy drop;
        ct state related,established counter accept
        iifname lo accept
        meta l4proto { icmp, ipv6-icmp } accept
    }
}
"""
# An admin's own: everything is accepted that nobody refuses, and the last rule refuses the rest.
CLOSED = """
table FAMILY filter {
    chain FORWARD {
        type filter hook forward priority 0; policy accept;
        ct state related,established counter accept
        counter reject
    }
}
"""
# The skeleton of firewalld's table (1.3, FirewallBackend=nftables).
FIREWALLD = """
table inet firewalld {
    chain filter_FORWARD {
        type filter hook forward priority 10; policy accept;
        ct state { established, related } accept
        iifname "lo" accept
        ct state invalid drop
        reject with icmpx admin-prohibited
    }
}
"""


def load(text: str) -> None:
    subprocess.run(("nft", "-f", "-"), input=text, text=True, check=True)


def both(text: str) -> str:
    return "".join(text.replace("FAMILY", f).replace("ufwP", p) for f, p in (("ip", "ufw"), ("ip6", "ufw6")))


@pytest.mark.parametrize("rules", [both(UFW), both(CLOSED), FIREWALLD], ids=["ufw", "reject", "firewalld"])
async def test_beside_another_firewall(lab: Lab, outside: int, rules: str) -> None:
    """In and out, in both versions of IP; what is not published stays closed."""
    load(rules)
    await lab.net.create_network(DUAL)
    box = await lab.box(PortMapping(80), network="dual")
    servers = [Server(outside, "tcp", 8000, address) for address in ("", "::")]
    for address in ("", "::"):
        box.serve("tcp", 80, address)
        box.serve("tcp", 81, address)
    try:
        assert run_inside(outside, ask_tcp, UPLINK, box.port(80)) == OUTSIDE
        assert run_inside(outside, ask_tcp, UPLINK6, box.port(80)) == OUTSIDE6
        assert run_inside(box.fd, ask_tcp, OUTSIDE, 8000) == UPLINK
        assert run_inside(box.fd, ask_tcp, OUTSIDE6, 8000) == UPLINK6
        for address in (box.ip, box.ip6):
            assert str(run_inside(outside, ask_tcp, address, 81, 0.5)).startswith("error")
    finally:
        for server in servers:
            server.close()
    await lab.end(box)
    before = command("nft", "list", "ruleset")
    assert lab.inst.nft_table in before
    await lab.net.remove_network("dual")
    await lab.net.restore()
    assert not [line for line in command("nft", "list", "ruleset").splitlines() if "comment" in line]


DOCKER = """
table ip filter {
    chain DOCKER-USER { }
    chain DOCKER { ip daddr 172.31.255.2 tcp dport 80 accept; }
    chain FORWARD {
        type filter hook forward priority 0; policy drop;
        counter jump DOCKER-USER
        ct state related,established counter accept
        oifname docker0 counter jump DOCKER
        iifname docker0 oifname != docker0 counter accept
    }
}
table ip nat {
    chain PREROUTING {
        type nat hook prerouting priority -100;
        fib daddr type local tcp dport 8088 dnat to 172.31.255.2:80
    }
}
"""


async def test_dockers_closed_ports_stay_closed(lab: Lab, outside: int) -> None:
    """Our bridges are let pass before Docker's own rules, but not to Docker's containers, of which it says what is
    open; nor do Docker's get to ours."""
    load(DOCKER)
    with netns.fresh() as theirs:
        pass
    path = f"/proc/{os.getpid()}/fd/{theirs}"
    for words in (
        "link add docker0 type bridge",
        "address add 172.31.255.1/24 dev docker0",
        "link set docker0 up",
        f"link add vethd type veth peer name eth0 netns {path}",
        "link set vethd master docker0 up",
    ):
        subprocess.run(("ip", *words.split()), check=True)
    for words in ("address add 172.31.255.2/24 dev eth0", "link set eth0 up", "route add default via 172.31.255.1"):
        run_inside(theirs, command, "ip", *words.split())
    servers = [Server(theirs, "tcp", port) for port in (80, 81)]
    try:
        box = await lab.box(PortMapping(80))
        for port in (80, 81):
            box.serve("tcp", port)
        gateway = box.attachment.endpoint.gateway
        assert run_inside(outside, ask_tcp, UPLINK, box.port(80)) == OUTSIDE
        assert str(run_inside(box.fd, ask_tcp, "172.31.255.2", 81, 0.5)).startswith("error")
        assert run_inside(box.fd, ask_tcp, gateway, 8088) == "172.31.255.1"
        assert str(run_inside(theirs, ask_tcp, box.ip, 81, 0.5)).startswith("error")
        assert run_inside(theirs, ask_tcp, "172.31.255.1", box.port(80)) == "172.31.255.2"
        load(f"flush chain inet {lab.inst.nft_table} forward")
        assert run_inside(box.fd, ask_tcp, "172.31.255.2", 81)  # the test would see it
    finally:
        for server in servers:
            server.close()
        subprocess.run(("ip", "link", "del", "docker0"), check=True)
        os.close(theirs)


async def mended(inst: Instance, whole: str) -> bool:
    """Does the table become what it was?"""
    end = time.monotonic() + patience(10)
    while table(inst) != whole:
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.02)
    return True


def table(inst: Instance) -> str:
    text = command("nft", "-s", "list", "table", "inet", inst.nft_table)
    return "\n".join(sorted(line.strip(" \t,") for line in text.splitlines()))


async def launch(inst: Instance, archive: Path) -> None:
    """A container with ports on a network of both versions of IP; then the engine is closed."""
    engine = await LocalEngine.open(inst.root, inst.run)
    async for _ in engine.load(archive):
        pass
    await engine.create_network(DUAL)
    ports = (PortMapping(80, 28080), PortMapping(53, 28053, "udp", "127.0.0.1"))
    spec = ContainerSpec("busybox:test", command=("sleep", "1000"), network="dual", ports=ports)
    await engine.start((await engine.create(spec)).id)
    await engine.close()


async def test_kept_while_no_engine_is_open(inst: Instance, archive: Path) -> None:
    await launch(inst, archive)
    whole = table(inst)
    assert "28080" in whole
    for damage in (
        "flush ruleset",
        f"delete table inet {inst.nft_table}",
        f"flush table inet {inst.nft_table}",
        f"flush chain inet {inst.nft_table} prerouting",
        f"delete table inet {inst.nft_table}; add table inet {inst.nft_table}",
    ):
        load(damage.replace("; ", "\n"))
        assert await mended(inst, whole), damage
        await asyncio.sleep(0.3)


@pytest.mark.skipif(not shutil.which("iptables"), reason="needs iptables")
async def test_chains_of_others_while_no_engine_is_open(inst: Instance, archive: Path) -> None:
    await launch(inst, archive)
    for program, family in (("iptables", "ip"), ("ip6tables", "ip6")):
        for words in (("-P", "FORWARD", "DROP"), ("-F", "FORWARD")):
            subprocess.run((program, *words), check=True)
            end = time.monotonic() + patience(10)
            while command("nft", "list", "chain", family, "filter", "FORWARD").count(f"{inst.nft_table} ") < 2:
                assert time.monotonic() < end, (program, words)
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.3)


async def test_a_new_network_of_dockers_while_no_engine_is_open(inst: Instance, archive: Path) -> None:
    await launch(inst, archive)
    subprocess.run(("ip", "link", "add", "br-0123456789ab", "type", "bridge"), check=True)
    load(DOCKER)  # as Docker does, after the bridge
    end = time.monotonic() + patience(10)
    while "br-0123456789ab" not in command("nft", "list", "set", "inet", inst.nft_table, "neighbours"):
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
    subprocess.run(("ip", "link", "del", "br-0123456789ab"), check=True)


async def test_changes_of_our_own_start_nothing(inst: Instance, archive: Path) -> None:
    """Starts and ends of containers, ports and networks are no damage: no clean-up process is made for them."""
    await launch(inst, archive)
    engine = await LocalEngine.open(inst.root, inst.run)
    spec = ContainerSpec("busybox:test", command=("sleep", "1000"), ports=(PortMapping(80),))
    started = asyncio.create_task(_cleanups(inst, 3.0))
    for _ in range(3):
        box = await engine.start((await engine.create(spec)).id)
        await engine.publish_ports(box.id, [PortMapping(81)])
        await engine.connect(box.id, EndpointSpec("dual"))
        await engine.remove(box.id, force=True)
    assert await started == set()
    await engine.close()


async def _cleanups(inst: Instance, seconds: float) -> set[str]:
    """Pids of clean-up processes for the firewall that were there during that time."""
    found: set[str] = set()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        lines = await asyncio.to_thread(command, "pgrep", "-f", f"{inst.root} {inst.run} firewall")
        found |= set(lines.split())
        await asyncio.sleep(0.02)
    return found


def test_a_clean_up_that_cannot_be_started_ends_nobody(private_host: None) -> None:
    """Its program has gone, as in the midst of an update: the launcher stays, and tries again."""
    loop = Loop()
    texts = dict.fromkeys(set(Launch._fields[:11]) - {"lower"}, "")
    launch = Launch(
        **texts,
        lower=(),
        log=LogOptions(),
        restart=RestartPolicy(),
        attributes={},
        cleanup=("/nonexistent/wharf",),
        firewall="wharf_gone",
    )
    keeper = Keeper(loop)
    keeper.attend(launch)
    for verb in ("add", "delete"):
        subprocess.run(("nft", verb, "table", "inet", "wharf_gone"), check=True)
    loop.after(1.0, loop.stop)  # by its own clock: before the time of the next try
    loop.run()
    loop.close()
    assert keeper._tries == 1
