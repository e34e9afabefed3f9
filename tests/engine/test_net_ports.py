"""Published ports: reached from everywhere they should be, by nobody else, and nothing is left when they go."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from core.errors import InvalidArgument, PortTaken
from core.model import PortMapping
from core.net import firewall, ruleset
from core.store.paths import find_instance
from tests.engine.netlab import (
    COMES,
    OUTSIDE,
    UPLINK,
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

__all__ = ["lab", "netinst", "outside", "private_host"]
pytestmark = [pytest.mark.real, pytest.mark.usefixtures("private_host")]


def elements(lab: Lab, name: str) -> list[object]:
    """What the nft binary sees in a map or set."""
    text = command("nft", "-j", "list", "table", "inet", lab.inst.nft_table)
    for item in json.loads(text)["nftables"]:
        for kind in ("map", "set"):
            if item.get(kind, {}).get("name") == name:
                found: list[object] = item[kind].get("elem", [])
                return found
    raise AssertionError(f"no set {name}")


async def test_reached_from_host_and_outside(lab: Lab, outside: int) -> None:
    box = await lab.box(PortMapping(80))
    box.serve("tcp", 80)
    port = box.port(80)
    gateway = box.attachment.endpoint.gateway
    # By 127.0.0.1 the container could not answer: masqueraded. By the host's own address the caller stays as it is.
    assert run_inside(None, ask_tcp, "127.0.0.1", port) == gateway
    assert run_inside(None, ask_tcp, UPLINK, port) == UPLINK
    # From outside the client's own address arrives (CVE-2021-20199).
    assert run_inside(outside, ask_tcp, UPLINK, port) == OUTSIDE


async def test_udp_from_host_and_outside(lab: Lab, outside: int) -> None:
    box = await lab.box(PortMapping(53, protocol="udp"), PortMapping(53, protocol="tcp"))
    box.serve("udp", 53)
    port = box.port(53, "udp")
    assert run_inside(None, ask_udp, "127.0.0.1", port) == box.attachment.endpoint.gateway
    assert run_inside(outside, ask_udp, UPLINK, port) == OUTSIDE


async def test_hairpin_and_neighbour(lab: Lab) -> None:
    """A container calls the published port, of itself and of its neighbour, by the host's address."""
    box, other = await lab.box(PortMapping(80)), await lab.box()
    box.serve("tcp", 80)
    gateway = box.attachment.endpoint.gateway
    assert run_inside(box.fd, ask_tcp, gateway, box.port(80)) == gateway
    assert run_inside(other.fd, ask_tcp, gateway, box.port(80)) == gateway


async def test_between_instances_only_by_published_ports(lab: Lab, tmp_path: Path) -> None:
    other = Lab(find_instance(tmp_path / "o", tmp_path / "or"))
    try:
        box, caller = await lab.box(PortMapping(80)), await other.box()
        box.serve("tcp", 80)
        own = caller.attachment.endpoint.gateway
        assert run_inside(caller.fd, ask_tcp, own, box.port(80)) == box.attachment.endpoint.gateway
        assert run_inside(caller.fd, ask_tcp, box.ip, 80, 0.5) == "error:TimeoutError"
    finally:
        await other.close()


async def test_bound_to_loopback(lab: Lab, outside: int) -> None:
    box = await lab.box(PortMapping(80, host_ip="127.0.0.1"))
    box.serve("tcp", 80)
    port = box.port(80)
    assert run_inside(None, ask_tcp, "127.0.0.1", port) == box.attachment.endpoint.gateway
    assert str(run_inside(outside, ask_tcp, UPLINK, port, 0.5)).startswith("error")
    assert str(run_inside(None, ask_tcp, UPLINK, port, 0.5)).startswith("error")
    # A neighbour that sends to 127.0.0.1 over the wire, to a host with route_localnet on its uplink (CVE-2020-8558).
    uplink = _interface_of(UPLINK)
    subprocess.run(("sysctl", "-qw", f"net.ipv4.conf.{uplink}.route_localnet=1"), check=True)
    run_inside(outside, command, "sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    run_inside(outside, command, "ip", "address", "del", "127.0.0.1/8", "dev", "lo")
    run_inside(outside, command, "ip", "route", "add", "127.0.0.1/32", "via", UPLINK, "src", OUTSIDE)
    assert str(run_inside(outside, ask_tcp, "127.0.0.1", port, 0.5)).startswith("error")
    subprocess.run(("nft", "flush", "chain", "inet", lab.inst.nft_table, "raw"), check=True)
    assert run_inside(outside, ask_tcp, "127.0.0.1", port) == OUTSIDE  # the attack works where that rule is missing


def _interface_of(address: str) -> str:
    line = next(line for line in command("ip", "-o", "addr").splitlines() if f" {address}/" in line)
    return line.split()[1]


async def test_bound_to_one_address(lab: Lab, outside: int) -> None:
    box = await lab.box(PortMapping(80, host_ip=UPLINK))
    box.serve("tcp", 80)
    assert run_inside(outside, ask_tcp, UPLINK, box.port(80)) == OUTSIDE
    assert run_inside(None, ask_tcp, UPLINK, box.port(80)) == UPLINK
    assert str(run_inside(None, ask_tcp, "127.0.0.1", box.port(80), 0.5)).startswith("error")


async def test_same_port_on_two_addresses(lab: Lab, outside: int) -> None:
    one = await lab.box(PortMapping(80, host_ip="127.0.0.1"))
    port = one.port(80)
    two = await lab.box(PortMapping(80, port, host_ip=UPLINK))
    one.serve("tcp", 80)
    two.serve("tcp", 80)
    assert run_inside(None, ask_tcp, "127.0.0.1", port) == one.attachment.endpoint.gateway
    assert run_inside(outside, ask_tcp, UPLINK, port) == OUTSIDE
    with pytest.raises(PortTaken):
        await lab.box(PortMapping(80, port))


async def test_many_ports_in_one_go(lab: Lab) -> None:
    box = await lab.box()
    wanted = tuple(PortMapping(1000 + i, 21000 + i) for i in range(1000))
    box.published = await lab.net.publish(box.id, box.ends, wanted)
    assert len(elements(lab, "publish_any")) == 1000
    box.serve("tcp", 1999)
    assert run_inside(None, ask_tcp, "127.0.0.1", 21999) == box.attachment.endpoint.gateway
    await lab.end(box)
    assert elements(lab, "publish_any") == []


async def test_first_free_port_of_a_range(lab: Lab) -> None:
    """`-p 24180-24183:80`: one is a container's, one a process's; then there is none left."""
    wanted = PortMapping(80, 24180, host_port_last=24183)
    with socket.socket() as foreign:
        foreign.bind(("", 24181))
        foreign.listen()
        boxes = [await lab.box(wanted) for _ in range(3)]
        assert [box.port(80) for box in boxes] == [24180, 24182, 24183]
        with pytest.raises(PortTaken, match="24180-24183/tcp are all taken"):
            await lab.box(wanted)
    boxes[1].serve("tcp", 80)
    assert run_inside(None, ask_tcp, "127.0.0.1", 24182)


async def test_five_thousand_ports(lab: Lab) -> None:
    box = await lab.box()
    box.published = await lab.net.publish(box.id, box.ends, [PortMapping(n, 20000 + n) for n in range(1, 5001)])
    assert len(elements(lab, "publish_any")) == 5000
    assert len(box.published.sockets) == 512
    box.serve("tcp", 5000)
    assert run_inside(None, ask_tcp, "127.0.0.1", 25000) == box.attachment.endpoint.gateway
    other = await lab.box()
    with pytest.raises(PortTaken, match="container"):  # no socket holds that one; the table does
        await lab.net.publish(other.id, other.ends, [PortMapping(1, 24999)])
    await lab.end(box)
    assert elements(lab, "publish_any") == []


async def test_sctp(lab: Lab) -> None:
    """An element as for any; a socket where the kernel has those of that protocol."""
    box = await lab.box(PortMapping(9899, 24899, "sctp"), PortMapping(80, 0, "sctp"))
    assert box.published
    ports = sorted(port.host_port for port in box.published.ports)
    assert 24899 in ports
    assert [["sctp", port] for port in ports] == sorted(key["concat"] for key, _ in elements(lab, "publish_any"))
    other = await lab.box()
    with pytest.raises(PortTaken, match="container"):
        await lab.net.publish(other.id, other.ends, [PortMapping(1, 24899, "sctp", "127.0.0.1")])
    await lab.net.publish(other.id, other.ends, [PortMapping(1, 24899, "tcp")])
    assert not await lab.net.restore()


async def test_address_of_the_configuration(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outside: int
) -> None:
    file = tmp_path / "config.toml"
    file.write_text('publish_address = "127.0.0.1"\n')
    monkeypatch.setenv("WHARF_CONFIG", str(file))
    box = await lab.box(PortMapping(80), PortMapping(80, host_ip="0.0.0.0"))
    assert box.published
    here, everywhere = box.published.ports
    assert (here.host_ip, everywhere.host_ip) == ("127.0.0.1", "")
    box.serve("tcp", 80)
    assert run_inside(None, ask_tcp, "127.0.0.1", here.host_port)
    assert str(run_inside(outside, ask_tcp, UPLINK, here.host_port, 0.5)).startswith("error")
    assert run_inside(outside, ask_tcp, UPLINK, everywhere.host_port) == OUTSIDE
    file.write_text('publish_address = "home"\n')
    with pytest.raises(InvalidArgument, match="line 1: publish_address is no IP address"):
        await lab.box(PortMapping(81))


async def test_random_ports_are_ephemeral_and_unique(lab: Lab) -> None:
    low, high = (int(word) for word in command("sysctl", "-n", "net.ipv4.ip_local_port_range").split())
    boxes = [await lab.box(PortMapping(80), PortMapping(80, protocol="udp")) for _ in range(20)]
    tcp = [box.port(80) for box in boxes]
    udp = [box.port(80, "udp") for box in boxes]
    assert len(set(tcp)) == len(set(udp)) == 20
    assert all(low <= port <= high for port in tcp + udp)


async def test_taken_by_a_container(lab: Lab) -> None:
    box = await lab.box(PortMapping(80))
    port = box.port(80)
    with lab.store.disk.write() as con:
        con.execute("INSERT INTO container VALUES (?, 'web', '', 0, '', '', '')", (box.id,))
    other = await lab.box()
    for host_ip in ("", "127.0.0.1"):
        with pytest.raises(PortTaken, match=r"web publishes it") as caught:
            await lab.net.publish(other.id, other.ends, [PortMapping(81), PortMapping(80, port, host_ip=host_ip)])
        assert caught.value.exit_code == 125
        assert f":{port}/tcp" in caught.value.what
    # All or none: the first of the two is not there either, in database or kernel, and its reservation is closed.
    assert len(lab.store.run.read("SELECT * FROM port")) == 1
    assert len(elements(lab, "publish_any")) == 1
    await lab.end(box)
    other.published = await lab.net.publish(other.id, other.ends, [PortMapping(80, port)])


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_taken_by_a_process(lab: Lab, family: int) -> None:
    with socket.socket(family) as foreign:
        foreign.bind(("", 0))
        foreign.listen()
        port = foreign.getsockname()[1]
        name = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
        with pytest.raises(PortTaken) as caught:
            await lab.box(PortMapping(80, port))
        assert f"{name} (process {os.getpid()})" in caught.value.why
    assert not lab.store.run.read("SELECT * FROM port")


async def test_reservation_keeps_others_out(lab: Lab) -> None:
    box = await lab.box(PortMapping(80), PortMapping(53, protocol="udp"))
    with socket.socket() as late:
        late.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            late.bind(("", box.port(80)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as late:
        late.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            late.bind(("", box.port(53, "udp")))


async def test_port_of_a_service_that_just_stopped(lab: Lab) -> None:
    """Its TIME_WAIT connections are not in the way."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            served, _ = listener.accept()
            served.close()  # this side closes first, and keeps the state
            client.recv(1)
    box = await lab.box(PortMapping(80, port))
    box.serve("tcp", 80)
    assert run_inside(None, ask_tcp, "127.0.0.1", port)


@pytest.mark.parametrize(
    ("mapping", "error"),
    [
        (PortMapping(0), InvalidArgument),
        (PortMapping(80, 65536), InvalidArgument),
        (PortMapping(80, protocol="icmp"), InvalidArgument),
        (PortMapping(80, host_ip="somewhere"), InvalidArgument),
        (PortMapping(80, host_ip="203.0.113.9"), InvalidArgument),
        (PortMapping(80, host_ip="2001:db8::9"), InvalidArgument),
    ],
)
async def test_bad_mappings(lab: Lab, mapping: PortMapping, error: type[Exception]) -> None:
    box = await lab.box()
    with pytest.raises(error) as caught:
        await lab.net.publish(box.id, box.ends, [PortMapping(8080), mapping])
    assert getattr(caught.value, "fix", "")
    assert not lab.store.run.read("SELECT * FROM port")


async def test_unpublished_udp_flow_ends(lab: Lab, outside: int) -> None:
    """A client that keeps its source port must reach the new container behind the port, not the old one's address."""
    first = await lab.box(PortMapping(53, protocol="udp"))
    first.serve("udp", 53)
    port = first.port(53, "udp")
    assert run_inside(outside, ask_udp, UPLINK, port, COMES, 40000) == OUTSIDE
    assert flows_of(first.ip)
    await lab.end(first)
    assert not flows_of(first.ip)
    second = await lab.box(PortMapping(53, port, "udp"))
    second.serve("udp", 53)
    assert run_inside(outside, ask_udp, UPLINK, port, COMES, 40000) == OUTSIDE
    assert flows_of(second.ip)


async def test_udp_flow_from_before_the_publish(lab: Lab, outside: int) -> None:
    """A client that was already sending to the port when nothing was published there."""
    box = await lab.box()
    box.serve("udp", 53)
    assert str(run_inside(outside, ask_udp, UPLINK, 24053, 0.2, 40001)).startswith("error")
    box.published = await lab.net.publish(box.id, box.ends, [PortMapping(53, 24053, "udp")])
    assert run_inside(outside, ask_udp, UPLINK, 24053, COMES, 40001) == OUTSIDE


async def test_foreign_flow_to_the_same_port_lives(lab: Lab, outside: int) -> None:
    """Publishing port N must not cut a container's connection to port N of another machine."""
    box = await lab.box()
    server = Server(outside, "udp", 24054)
    try:
        assert run_inside(box.fd, ask_udp, OUTSIDE, 24054) == UPLINK
        before = flows_of(box.ip)
        assert before
        other = await lab.box(PortMapping(1, 24054, "udp"))
        assert other.published
        assert len(flows_of(box.ip)) == len(before)
    finally:
        server.close()


async def test_elements_as_nft_sees_them(lab: Lab) -> None:
    box = await lab.box(PortMapping(80, 24080), PortMapping(53, 24053, "udp", "127.0.0.1"))
    assert elements(lab, "publish_any") == [[{"concat": ["tcp", 24080]}, {"concat": [box.ip, 80]}]]
    assert elements(lab, "publish_ip") == [[{"concat": ["127.0.0.1", "udp", 24053]}, {"concat": [box.ip, 53]}]]
    assert elements(lab, "on_loopback") == [{"concat": ["127.0.0.1", "udp", 24053]}]
    assert elements(lab, "bridges") == [lab.inst.bridge]


async def test_nothing_is_accepted_without_the_table(lab: Lab) -> None:
    """While the table is away a client's packets are dropped, so that it tries again; nobody else answers."""
    box = await lab.box(PortMapping(80))
    box.serve("tcp", 80)
    subprocess.run(("nft", "delete", "table", "inet", lab.inst.nft_table), check=True)
    assert run_inside(None, ask_tcp, "127.0.0.1", box.port(80), 0.5) == "error:TimeoutError"
    assert await lab.net.restore()
    assert run_inside(None, ask_tcp, "127.0.0.1", box.port(80))


async def test_unpublish_is_idempotent_without_the_table(lab: Lab) -> None:
    box = await lab.box(PortMapping(80), PortMapping(81))
    subprocess.run(("nft", "delete", "table", "inet", lab.inst.nft_table), check=True)
    await lab.end(box)
    assert not lab.store.run.read("SELECT * FROM port")


async def test_one_element_missing_on_unpublish(lab: Lab) -> None:
    box = await lab.box(PortMapping(80, 24081), PortMapping(81, 24082))
    argv = ("nft", "delete", "element", "inet", lab.inst.nft_table, "publish_any", "{ tcp . 24081 }")
    subprocess.run(argv, check=True)
    await lab.end(box)
    assert elements(lab, "publish_any") == []


def test_contents_are_derived_from_rows_alone() -> None:
    port = firewall.Port("tcp", "", 8080, "10.0.0.2", 80)
    first, second = (firewall.contents([], [port]) for _ in range(2))
    assert first == second
    assert len(first[ruleset.V4.any]) == 1


async def test_publishing_makes_a_flushed_table_anew(lab: Lab) -> None:
    box = await lab.box(PortMapping(80))
    box.serve("tcp", 80)
    subprocess.run(("nft", "delete", "table", "inet", lab.inst.nft_table), check=True)
    more = await lab.net.publish(box.id, box.ends, [PortMapping(80)])
    for port in (box.port(80), more.ports[0].host_port):
        assert run_inside(None, ask_tcp, "127.0.0.1", port)
    more.close()
    assert not await lab.net.restore()
