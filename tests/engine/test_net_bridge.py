"""A container's place on the bridge: reach, isolation, addresses, and nothing left afterwards."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import Conflict, InUse, InvalidArgument, NotFound, Unavailable
from core.kernel import netns
from core.model import NetworkSpec, Subnet
from core.names import make_id
from core.net.host import Host
from core.store.paths import Instance, find_instance
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
    left_over,
    netinst,
    outside,
    ping,
    private_host,
    run_inside,
    soon,
)
from tests.engine.ranges import range4
from tests.patience import patience

__all__ = ["lab", "netinst", "outside", "private_host"]
pytestmark = pytest.mark.real


def _addresses() -> list[str]:
    return [line.split()[3] for line in command("ip", "-o", "addr").splitlines() if " inet" in line]


def _read(path: str) -> str:
    return Path(path).read_text().strip()


async def test_gateway_neighbour_and_outside(lab: Lab, outside: int) -> None:
    one, two = await lab.box(), await lab.box()
    gateway = one.attachment.endpoint.gateway
    assert run_inside(one.fd, ping, gateway) is True
    two.serve("tcp", 80)
    assert run_inside(one.fd, ask_tcp, two.ip, 80) == one.ip
    assert run_inside(None, ask_tcp, two.ip, 80) == gateway
    server = Server(outside, "tcp", 8000)
    try:
        # Masqueraded: the outside machine has no route to the container's subnet that it would use.
        assert run_inside(one.fd, ask_tcp, OUTSIDE, 8000) == UPLINK
    finally:
        server.close()


async def test_namespace_as_docker_would_make_it(lab: Lab) -> None:
    box = await lab.box()
    info = box.attachment.endpoint
    # lo keeps ::1; nothing on eth0 but the one IPv4 address, no link-local one either.
    assert set(run_inside(box.fd, _addresses)) - {"::1/128"} == {"127.0.0.1/8", f"{info.ip}/{info.prefix_len}"}
    assert run_inside(box.fd, command, "ip", "route").splitlines()[0].startswith(f"default via {info.gateway}")
    assert run_inside(box.fd, _read, "/proc/sys/net/ipv6/conf/eth0/accept_ra") == "0"
    assert run_inside(box.fd, _read, "/proc/sys/net/ipv6/conf/eth0/disable_ipv6") == "1"
    assert info.mac == "02:42:" + ":".join(f"{int(part):02x}" for part in info.ip.split("."))
    assert info.mac in run_inside(box.fd, command, "ip", "link", "show", "eth0")


async def test_mtu_follows_the_default_route(lab: Lab) -> None:
    box = await lab.box()
    words = command("ip", "route", "show", "default").split()
    expected = _read(f"/sys/class/net/{words[words.index('dev') + 1]}/mtu") if words else "1500"
    for name in (lab.inst.bridge, box.attachment.endpoint.interface):
        assert _read(f"/sys/class/net/{name}/mtu") == expected
    assert f"mtu {expected} " in run_inside(box.fd, command, "ip", "link", "show", "eth0")


async def test_pyroute2_sees_the_same(lab: Lab) -> None:
    """Our own codec against another reader of the kernel."""
    box = await lab.box()

    def look() -> tuple[dict[str, object], bool]:
        from pyroute2 import IPRoute

        with IPRoute() as ip:
            index = ip.link_lookup(ifname=box.attachment.endpoint.interface)[0]
            link = ip.get_links(index)[0]
            bridge = ip.get_links(ip.link_lookup(ifname=lab.inst.bridge)[0])[0]
            port = dict(link.get_attr("IFLA_LINKINFO")["attrs"])["IFLA_INFO_SLAVE_DATA"]
            found = {
                "kind": link.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_KIND"),
                "master": link.get_attr("IFLA_MASTER") == bridge["index"],
                "state": link["state"],
                "mac": bridge.get_attr("IFLA_ADDRESS"),
            }
            return found, bool(port.get_attr("IFLA_BRPORT_MODE"))

    found, hairpin = await asyncio.to_thread(look)
    gateway = box.attachment.endpoint.gateway
    mac = "02:42:" + ":".join(f"{int(part):02x}" for part in gateway.split("."))
    assert found == {"kind": "veth", "master": True, "state": "up", "mac": mac}
    assert hairpin


async def test_none_has_only_loopback(lab: Lab) -> None:
    fd = await lab.net.new_netns()
    try:
        assert [a for a in run_inside(fd, _addresses) if ":" not in a] == ["127.0.0.1/8"]
        assert run_inside(fd, ping, "127.0.0.1") is True
        assert str(run_inside(fd, ping, UPLINK)).startswith("error")
    finally:
        os.close(fd)


async def test_two_instances_are_isolated(lab: Lab, tmp_path: Path) -> None:
    inst = find_instance(tmp_path / "other", tmp_path / "other-run")
    other = Lab(inst)
    try:
        mine, theirs = await lab.box(), await other.box()
        networks = [(await side.net.describe())[0].subnet for side in (lab, other)]
        assert networks[0] != networks[1]
        theirs.serve("tcp", 80)
        mine.serve("tcp", 80)
        assert run_inside(mine.fd, ask_tcp, theirs.ip, 80, 0.5) == "error:TimeoutError"
        assert run_inside(theirs.fd, ask_tcp, mine.ip, 80, 0.5) == "error:TimeoutError"
    finally:
        await other.close()
    assert soon(lambda: not left_over(inst)), left_over(inst)


async def test_direct_route_from_outside_is_dropped(lab: Lab, outside: int) -> None:
    box = await lab.box()
    box.serve("tcp", 80)
    assert run_inside(outside, ask_tcp, box.ip, 80, 0.5) == "error:TimeoutError"
    assert str(run_inside(outside, ping, box.ip, 0.5)).startswith("error")


async def test_host_loopback_is_out_of_reach(lab: Lab) -> None:
    """route_localnet is on for the bridge; the raw chain must keep containers from what listens on 127.0.0.1."""
    box = await lab.box()
    server = Server(None, "tcp", 47999, "127.0.0.1")
    try:
        assert _read(f"/proc/sys/net/ipv4/conf/{lab.inst.bridge}/route_localnet") == "1"
        run_inside(box.fd, command, "sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
        gateway = box.attachment.endpoint.gateway
        run_inside(box.fd, command, "ip", "address", "del", "127.0.0.1/8", "dev", "lo")
        run_inside(box.fd, command, "ip", "route", "add", "127.0.0.0/8", "via", gateway)
        assert run_inside(None, ask_tcp, "127.0.0.1", 47999) == "127.0.0.1"
        assert str(run_inside(box.fd, ask_tcp, "127.0.0.1", 47999, 0.5)).startswith("error")
        # The same attack gets through without that rule: the test would see it.
        subprocess.run(("nft", "flush", "chain", "inet", lab.inst.nft_table, "raw"), check=True)
        assert run_inside(box.fd, ask_tcp, "127.0.0.1", 47999) == box.ip
        assert await lab.net.restore()
    finally:
        server.close()


async def test_detach_leaves_nothing(lab: Lab) -> None:
    box = await lab.box()
    box.serve("tcp", 80)
    assert run_inside(None, ask_tcp, box.ip, 80)
    assert flows_of(box.ip)
    end = box.attachment.endpoint.interface
    await lab.end(box)
    await lab.net.detach(box.id)  # a second time does nothing
    assert not flows_of(box.ip)
    for table in ("lease", "endpoint", "port"):
        assert not lab.store.run.read(f"SELECT * FROM {table}")
    assert soon(lambda: not Path(f"/sys/class/net/{end}").exists())


async def test_detach_cuts_off_at_once(lab: Lab) -> None:
    """Also while something still holds the namespace."""
    box = await lab.box()
    await lab.net.detach(box.id)
    assert str(run_inside(box.fd, ping, box.attachment.endpoint.gateway, 0.3)) != "True"
    assert _read(f"/sys/class/net/{box.attachment.endpoint.interface}/operstate") == "down"


async def test_attach_again_replaces_what_was_left(lab: Lab) -> None:
    box = await lab.box()
    again = await lab.net.attach("bridge", box.id)
    try:
        assert again.endpoint.ip != box.ip
        assert run_inside(again.netns_fd, ping, again.endpoint.gateway) is True
        assert len(lab.store.run.read("SELECT * FROM endpoint")) == 1
    finally:
        os.close(again.netns_fd)


async def test_addresses_asked_for(lab: Lab) -> None:
    network = await lab.net.ensure("bridge")
    base = network.subnet.rpartition(".")[0]
    box = await lab.box(ip=f"{base}.77")
    assert box.ip == f"{base}.77"
    with pytest.raises(Conflict, match="in use"):
        await lab.box(ip=f"{base}.77")
    for wrong in ("10.255.0.9", f"{base}.0", f"{base}.1", "nonsense"):
        with pytest.raises(InvalidArgument):
            await lab.box(ip=wrong)
    with pytest.raises(NotFound):
        await lab.net.attach("nowhere", make_id())
    assert len(lab.store.run.read("SELECT * FROM lease")) == 1


async def test_addresses_come_round(lab: Lab) -> None:
    """Next-fit: an address that was given back is not the next to be given out."""
    first = await lab.box()
    await lab.end(first)
    second = await lab.box()
    assert second.ip != first.ip
    last = lab.store.run.read("SELECT offset FROM cursor")[0]["offset"]
    with lab.store.run.write() as con:
        con.execute("UPDATE cursor SET offset = 4093")
    high, low = await lab.box(), await lab.box()
    assert int(high.ip.rpartition(".")[2]) == 254
    assert last >= 2
    assert low.ip == first.ip


async def test_network_is_full(lab: Lab) -> None:
    small = await lab.net.create_network(
        NetworkSpec("small", subnets=(Subnet(f"{range4(7)}.0/29", ip_range=f"{range4(7)}.4/30"),))
    )
    made = [await lab.box(network="small") for _ in range(3)]
    assert [box.ip for box in made] == [f"{range4(7)}.4", f"{range4(7)}.5", f"{range4(7)}.6"]
    with pytest.raises(Conflict, match="no free address"):
        await lab.box(network=small.id)
    for box in made:
        await lab.end(box)
    assert (await lab.box(network="small")).ip == f"{range4(7)}.4"


_MANY = """
import asyncio, os, sys
from pathlib import Path
from core.model import NetworkSpec, Subnet
from core.names import make_id
from core.net.host import Host
from core.net import Net
from core.store.db import Store
from core.store.paths import Instance

async def main():
    inst = Instance(Path(sys.argv[1]), Path(sys.argv[2]))
    inst.prepare()
    store = Store.open(inst)
    net = Net(inst, store)
    for _ in range(15):
        made = await net.attach("bridge", make_id())
        print(made.endpoint.ip, flush=True)
        os.close(made.netns_fd)
    await net.close()

asyncio.run(main())
"""


async def test_six_processes_from_nothing(lab: Lab) -> None:
    """They make the network, the bridge, the table and the leases at the same time: one of each, no address twice."""
    argv = (sys.executable, "-c", _MANY, str(lab.inst.root), str(lab.inst.run))
    started = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    answers = [process.communicate(timeout=patience(60))[0].split() for process in started]
    assert [process.returncode for process in started] == [0] * 6
    given = [ip for answer in answers for ip in answer]
    assert len(given) == len(set(given)) == 90
    assert command("nft", "list", "table", "inet", lab.inst.nft_table).count("dnat ip to") == 4
    assert len(lab.store.disk.read("SELECT * FROM network")) == 1
    assert len(await lab.net.recover(set())) >= 90
    assert not lab.store.run.read("SELECT * FROM lease")


async def test_remove_network(lab: Lab) -> None:
    box = await lab.box()
    with pytest.raises(InUse, match=box.id[:12]):
        await lab.net.remove_network("bridge")
    await lab.end(box)
    await lab.net.remove_network("bridge")
    assert soon(lambda: not left_over(lab.inst))
    with pytest.raises(NotFound):
        await lab.net.remove_network("bridge")


async def test_describe(lab: Lab) -> None:
    box = await lab.box()
    found = {network.name: network for network in await lab.net.describe()}
    assert found["bridge"].containers == (box.id,)
    assert found["bridge"].bridge == lab.inst.bridge
    assert (found["host"].driver, found["none"].driver) == ("host", "null")
    assert len({network.id for network in found.values()}) == 3


async def test_counters_are_the_containers_view(lab: Lab) -> None:
    boxes = [await lab.box() for _ in range(3)]
    boxes[0].serve("udp", 9000)
    for _ in range(20):
        run_inside(None, ask_udp, boxes[0].ip, 9000, COMES, 0, b"x" * 1000)
    names = [box.attachment.endpoint.interface for box in boxes]
    counted = await lab.net.counters([*names, "gone0"])
    assert set(counted) == set(names)
    received, sent = counted[names[0]]
    assert received > 20 * 1000
    assert 0 < sent < received
    inside = next(line for line in run_inside(boxes[0].fd, _read, "/proc/net/dev").splitlines() if "eth0" in line)
    assert abs(int(inside.split()[1]) - received) < 500


async def test_cancelled_attach_leaks_no_descriptor(lab: Lab) -> None:
    await lab.net.ensure("bridge")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        cid = make_id()
        task = asyncio.create_task(lab.net.attach("bridge", cid))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await lab.net.detach(cid)
    assert len(os.listdir("/proc/self/fd")) == before
    assert not lab.store.run.read("SELECT * FROM lease")


async def test_thread_is_home_after_a_failure(lab: Lab) -> None:
    """A namespace that cannot be made must not leave the worker inside it."""
    await lab.net.ensure("bridge")
    home = os.stat("/proc/self/ns/net").st_ino
    with pytest.raises(InvalidArgument):
        await lab.box(ip="192.0.2.99")
    fd = await lab.net._do(netns.current)
    try:
        assert netns.inode(fd) == home
    finally:
        os.close(fd)


async def test_subnet_moves_out_of_the_way(private_host: None, netinst: Instance) -> None:
    """A VPN took our subnet while the bridge was down: the default network finds another one."""
    made = Lab(netinst)
    try:
        before = await made.net.ensure("bridge")
        subprocess.run(("ip", "link", "del", netinst.bridge), check=True)
        subprocess.run(("ip", "route", "add", "unreachable", before.subnet), check=True)
        try:
            after = await made.net.ensure("bridge")
            assert after.subnet != before.subnet
            assert after.id == before.id
            box = await made.box()
            assert run_inside(box.fd, ping, after.gateway) is True
        finally:
            subprocess.run(("ip", "route", "del", "unreachable", before.subnet), check=True)
    finally:
        await made.close()


def test_imports_are_light() -> None:
    """Nothing outside the standard library; pyroute2 would cost a one-shot command 130 ms."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); import core.net;"
        "print('pyroute2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


async def test_no_descriptor_stays_where_the_networks_cannot_be_entered(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = await lab.box()

    def shut(self: Host, work: object) -> None:
        raise Unavailable("shut", "for everybody")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as closed:
        closed.setattr(Host, "at_home", shut)
        for work in (
            lab.net.attach("bridge", box.id, namespace=box.fd),
            lab.net.set_default(box.fd, box.ends),
            lab.net.open_resolver(box.fd),
            lab.net.unplug(box.fd, "eth0"),
        ):
            with pytest.raises(Unavailable, match="shut"):
                await work
    assert len(os.listdir("/proc/self/fd")) == before
