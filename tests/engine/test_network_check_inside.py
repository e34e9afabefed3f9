"""``network check`` where a link of the container itself is broken, its names, or who listens there."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from dataclasses import replace

import pytest

from core.model import ContainerSpec, NetStep, PortMapping
from tests.engine.netlab import OUTSIDE, outside, private_host
from tests.engine.test_network_check import Town, each, foreign, sh, town
from tests.patience import patience

__all__ = ["outside", "private_host", "town"]

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("private_host")]


async def test_links_of_the_container(town: Town) -> None:
    await each(
        town,
        ("ip link set eth0 down", "ip link set eth0 up;ip route add default via 10.89.6.1", "interface", "is down"),
        (f"ip address del {town.ip}/24 dev eth0;ip address add 10.89.6.77/24 dev eth0",
         f"ip address del 10.89.6.77/24 dev eth0;ip address add {town.ip}/24 dev eth0;"
         "ip route replace default via 10.89.6.1", "address", f"does not have {town.ip}/24, but 10.89.6.77/24"),
        ("ip route del default", "ip route add default via 10.89.6.1", "default route", "no IPv4 default route"),
        ("ip route replace default via 10.89.6.9", "ip route replace default via 10.89.6.1", "default route",
         "by 10.89.6.9 on eth0, not by 10.89.6.1"),
        ("ip neigh replace 10.89.6.1 lladdr 02:00:00:00:00:99 dev eth0 nud permanent",
         "ip neigh del 10.89.6.1 dev eth0", "gateway", "10.89.6.1 does not answer"),
        inside=True,
    )  # fmt: skip


async def test_a_gateway_that_answers_no_ping_is_no_broken_link(town: Town) -> None:
    foreign(f'iifname "{town.bridge}" icmp type echo-request drop', policy="accept", hook="input")
    (step,) = [step for step in await town.check() if step.status != "ok"]
    assert (step.name, step.status) == ("gateway", "warning")


async def test_mtu(town: Town) -> None:
    async def warned() -> list[str]:
        return [f"{s.subject} {s.name}: {s.found}" for s in await town.check() if s.status != "ok"]

    sh("ip", "link", "set", town.bridge, "mtu", "1280")
    assert await warned() == [f"network web mtu: {town.bridge} has 1280, and was made with 1500"]
    sh("ip", "link", "set", town.bridge, "mtu", "1500")
    town.enter("ip", "link", "set", "eth0", "mtu", "9000")
    assert await warned() == ["container box mtu: eth0 has 9000, the network 1500: large packets are lost"]
    town.enter("ip", "link", "set", "eth0", "mtu", "1500")
    uplink = next(line.split()[4] for line in subprocess.check_output(("ip", "route"), text=True).splitlines()
                  if line.startswith("default"))  # fmt: skip
    sh("ip", "link", "set", uplink, "mtu", "1400")
    (text,) = await warned()
    assert f"1500 is more than the 1400 of {uplink}" in text


async def test_the_resolver_and_those_behind_it(town: Town) -> None:
    steps = {step.name: step for step in await town.check()}
    assert steps["dns"].found == "127.0.0.11 knows box"
    town.dns.close()
    step = await town.first()
    assert (step.subject, step.name) == ("container box", "dns outside")
    assert f"asked from this host, {OUTSIDE}: connection refused" in step.found


async def test_name_servers_outside(town: Town) -> None:
    """On the default network a container asks the servers itself."""
    spec = ContainerSpec(town.image, "plain", ("sleep", "1000"), network="bridge", dns=(OUTSIDE,))
    await town.engine.start((await town.engine.create(spec)).id)
    assert ("dns", f"{OUTSIDE} answers") in [(step.name, step.found) for step in await town.check("plain")]
    foreign("udp dport 53 drop", policy="accept")
    step = await town.first("bridge")
    assert (step.name, f"{OUTSIDE} answers this host" in step.found) == ("dns", True)
    sh("nft", "delete", "table", "inet", "foreign")
    other = replace(spec, name="lost", dns=("198.51.100.9", OUTSIDE))
    await town.engine.start((await town.engine.create(other)).id)
    (step,) = [step for step in await town.check("lost") if step.status != "ok"]
    assert (step.name, step.status) == ("dns", "warning")
    await town.run("lost", "sh", "-c", "yes nameserver evil.test | head -c 99999 >/etc/resolv.conf")
    (step,) = [step for step in await town.check("lost") if step.status != "ok"]
    assert (step.name, step.found) == ("dns", "its resolv.conf names no server")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("sleep 1000", "nothing listens on 80/tcp in the container"),
        ("httpd -p 127.0.0.1:80 -h /tmp; sleep 1000", "80/tcp listens on 127.0.0.1: only for itself"),
        ("httpd -p 8080 -h /tmp; sleep 1000", "nothing listens on 80/tcp in the container, but on 8080"),
    ],
)
async def test_who_listens(town: Town, script: str, words: str) -> None:
    spec = ContainerSpec(town.image, "other", ("sh", "-c", script), network="web", ports=(PortMapping(80),))
    box = await town.engine.start((await town.engine.create(replace(spec, dns=(OUTSIDE,)))).id)
    async with asyncio.timeout(patience(20)):
        while words not in (step := await town.first("other")).found:
            await asyncio.sleep(0.02)
    assert (step.subject, step.name) == ("container other", f"port {box.ports[0].host_port}/tcp")


async def test_a_listener_that_ended_and_one_that_nobody_reaches(town: Town) -> None:
    foreign(f"ip daddr {town.ip} tcp dport 80 drop", policy="accept", hook="postrouting")
    step = await town.first()
    assert (step.name, "does not accept: no answer" in step.found) == (f"port {town.host_port}/tcp", True)
    sh("nft", "delete", "table", "inet", "foreign")
    gone = "while busybox grep -q ':0050 .* 0A ' /proc/net/tcp /proc/net/tcp6; do busybox sleep 0.05; done"
    await town.run("box", "sh", "-c", f"busybox killall httpd; {gone}")
    step = await town.first()
    assert (step.name, "nothing listens" in step.found) == (f"port {town.host_port}/tcp", True)


async def test_a_program_that_hangs(town: Town) -> None:
    """It listens, and does not accept: the kernel does until there is no more room."""
    await town.engine.pause("box")
    held = [socket.socket() for _ in range(30)]
    try:
        for one in held:
            one.setblocking(False)
            one.connect_ex((town.ip, 80))
        async with asyncio.timeout(patience(20)):
            steps: list[NetStep] = []
            while len(steps) < 2:  # the queue is full a moment after the last call
                steps = [step for step in await town.check("box") if step.status != "ok"]
    finally:
        for one in held:
            one.close()
        await town.engine.unpause("box")
    paused, port = steps
    assert (paused.status, paused.found) == ("warning", "it is paused: its programs answer nobody")
    assert (port.status, "accepts nobody" in port.found) == ("broken", True)
    assert {step.status for step in await town.check("box")} == {"ok"}
