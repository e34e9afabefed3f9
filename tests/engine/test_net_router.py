"""A host that was no router routes for its containers only; one that was goes on as before."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.kernel import netns
from core.model import NetworkSpec, PortMapping
from core.ops import diagnose_host
from core.ops.doctor import doctor
from core.store.paths import find_instance
from tests.engine.netlab import (
    OUTSIDE,
    OUTSIDE6,
    UPLINK,
    Lab,
    Server,
    ask_tcp,
    command,
    lab,
    link_names,
    netinst,
    outside,
    private_host,
    run_inside,
)

__all__ = ["lab", "netinst", "outside", "private_host"]
pytestmark = [pytest.mark.real, pytest.mark.usefixtures("private_host", "servers")]
BEHIND, BEHIND6 = "203.0.113.2", "2001:db8:113::2"  # TEST-NET-3, RFC 3849: a machine on the host's other side


def sh(*argv: str) -> None:
    subprocess.run(argv, check=True)


def routes(on: bool) -> None:
    for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        sh("sysctl", "-qw", f"{key}={int(on)}")


@pytest.fixture
def behind(outside: int) -> Iterator[int]:
    """A second machine, on another interface of the host; each has the host as its router."""
    with netns.fresh() as fd:
        pass
    path = f"/proc/{os.getpid()}/fd/{fd}"
    sh("ip", "link", "add", "far0", "type", "veth", "peer", "name", "up0", "netns", path)
    enter = ("nsenter", f"--net={path}")
    for argv in (
        ("sysctl", "-qw", "net.ipv6.conf.far0.accept_dad=0"),
        (*enter, "sysctl", "-qw", "net.ipv6.conf.up0.accept_dad=0"),
        ("ip", "address", "add", "203.0.113.1/24", "dev", "far0"),
        ("ip", "address", "add", "2001:db8:113::1/64", "dev", "far0", "nodad"),
        ("ip", "link", "set", "far0", "up"),
        (*enter, "ip", "address", "add", f"{BEHIND}/24", "dev", "up0"),
        (*enter, "ip", "address", "add", f"{BEHIND6}/64", "dev", "up0", "nodad"),
        (*enter, "ip", "link", "set", "up0", "up"),
        (*enter, "ip", "route", "add", "default", "via", "203.0.113.1"),
        (*enter, "ip", "route", "add", "default", "via", "2001:db8:113::1"),
    ):
        sh(*argv)
    yield fd
    sh("ip", "link", "del", "far0")
    os.close(fd)


async def said(lab: Lab) -> list[str]:
    """What `network check` and `doctor` tell of it."""
    network = next(one for one in await lab.net.describe() if one.name == "bridge")
    side = await lab.net.look("look at the network", lambda host: diagnose_host.look(host, network))
    steps = [step.found for step in diagnose_host.links_of(network, side) if step.name == "forwarding"]
    return steps + [check.found for check in doctor(lab.inst) if check.name == "forward guard"]


def reached(caller: int, *hosts: str) -> bool:
    """Each server on port 8000 answers."""
    return not any(str(run_inside(caller, ask_tcp, host, 8000)).startswith("error") for host in hosts)


def kept_from(caller: int, *hosts: str) -> bool:
    """None does."""
    return all(str(run_inside(caller, ask_tcp, host, 8000, 1.0)).startswith("error") for host in hosts)


@pytest.fixture
def servers(outside: int, behind: int) -> Iterator[None]:
    made = [Server(behind, "tcp", 8000, address) for address in (BEHIND, BEHIND6)]
    made += [Server(outside, "tcp", 8000, address) for address in (OUTSIDE, OUTSIDE6)]
    yield
    for server in made:
        server.close()


async def test_it_does_not_become_a_router_for_its_neighbours(lab: Lab, outside: int, behind: int) -> None:
    routes(False)
    box = await lab.box(PortMapping(80))
    box.serve("tcp", 80)
    assert command("sysctl", "-n", "net.ipv4.ip_forward") == "1\n"
    assert kept_from(outside, BEHIND)
    assert kept_from(behind, OUTSIDE)
    assert [words.rpartition("to and from ")[2] for words in await said(lab)] == [
        "bridges only (forward_guard)", "bridges only",
    ]  # fmt: skip
    assert not await lab.net.restore()  # it is whole
    # What containers send and get passes as ever.
    assert reached(box.fd, OUTSIDE, BEHIND)
    assert run_inside(outside, ask_tcp, UPLINK, box.port(80)) == OUTSIDE
    # IPv6 is another matter, until a network needs it.
    sh("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
    assert reached(outside, BEHIND6)
    sh("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0")
    await lab.net.create_network(NetworkSpec("six", ipv6=True))
    six = await lab.box(network="six")
    assert command("sysctl", "-n", "net.ipv6.conf.all.forwarding") == "1\n"
    assert kept_from(outside, BEHIND6)
    assert reached(six.fd, OUTSIDE6, BEHIND6)


async def test_a_router_stays_one(lab: Lab, outside: int, behind: int) -> None:
    routes(True)
    await lab.box()
    assert reached(outside, BEHIND, BEHIND6)
    assert await said(lab) == ["the host routes"]


async def test_a_router_between_some_interfaces_stays_one(lab: Lab, outside: int, behind: int) -> None:
    """As systemd-networkd makes it: the setting for all is off."""
    routes(False)
    names = [name for name in link_names() if name.startswith("out")] + ["far0"]
    for name in names:
        sh("sysctl", "-qw", f"net.ipv4.conf.{name}.forwarding=1")
    assert reached(outside, BEHIND)
    await lab.box()
    assert reached(outside, BEHIND)
    assert await said(lab) == ["the host routes"]


async def test_the_setting_counts_from_the_next_start_on(
    lab: Lab, outside: int, behind: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes(False)
    monkeypatch.setenv("WHARF_CONFIG", str(tmp_path / "config.toml"))
    for setting, passes in (("true", False), ("false", True), ("true", False)):
        (tmp_path / "config.toml").write_text(f"forward_guard = {setting}\n")
        lab.net._host.look_again()  # a second has passed
        await lab.box()
        assert (reached if passes else kept_from)(outside, BEHIND)
    command("nft", "flush", "ruleset")
    for box in list(lab.boxes):
        await lab.end(box)
    assert await lab.net.restore()  # of a host that is a router by our doing, without containers too
    assert kept_from(outside, BEHIND)


async def test_a_later_engine_knows_and_the_admin_decides(
    lab: Lab, outside: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes(False)
    await lab.box()
    command("nft", "delete", "table", "inet", lab.inst.nft_table)
    assert reached(outside, BEHIND)
    later = Lab(lab.inst)
    assert await later.net.restore()
    assert kept_from(outside, BEHIND)
    # Another instance keeps it up when this one goes.
    other = Lab(find_instance(tmp_path / "other", tmp_path / "other-run"))
    box = await other.box()
    assert reached(box.fd, BEHIND)
    await later.net.close()
    later.store.close()
    await lab.end(lab.boxes[0])
    await lab.net.remove_all()
    assert kept_from(outside, BEHIND)
    (tmp_path / "config.toml").write_text("forward_guard = false\n")
    monkeypatch.setenv("WHARF_CONFIG", str(tmp_path / "config.toml"))
    assert await other.net.restore()
    assert reached(outside, BEHIND)
    await other.close()


async def test_bridges_of_others_that_come_later(lab: Lab, outside: int, behind: int) -> None:
    """Nobody of us is there to see them come: Docker's, or those of virtual machines."""
    routes(False)
    await lab.box()
    sh("ip", "link", "add", "virbr7", "type", "bridge")
    sh("ip", "link", "set", "far0", "master", "virbr7")
    for argv in (("flush", "dev", "far0"), ("add", "203.0.113.1/24", "dev", "virbr7")):
        sh("ip", "address", *argv)
    sh("ip", "link", "set", "virbr7", "up")
    assert reached(outside, BEHIND)
    assert reached(behind, OUTSIDE)
    sh("ip", "link", "del", "virbr7")
