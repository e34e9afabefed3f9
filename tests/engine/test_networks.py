"""Networks of one's own: made, joined by several, changed while containers run, removed."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from core.engine import Engine
from core.errors import Conflict, InUse, InvalidArgument, NameTaken, NotFound, Unavailable
from core.model import ContainerSpec, EndpointSpec, ExecSpec, NetworkSpec, PortMapping, Subnet
from core.model.network import BRIDGE_NAME, PUBLISH_ADDRESS
from core.net import Net
from core.ops.settle import settle
from core.ops.wiring import Resume, wire
from core.store.paths import Instance
from tests.engine.netlab import command, run_inside
from tests.engine.ranges import range4, range6
from tests.world import assert_world

pytestmark = pytest.mark.real
FRONT = NetworkSpec("front", subnets=(Subnet(f"{range4(1)}.0/24"),))
BACK = NetworkSpec("back", subnets=(Subnet(f"{range4(2)}.0/24"),), internal=True)
DUAL = NetworkSpec("dual", ipv6=True, subnets=(Subnet(f"{range4(3)}.0/24"), Subnet(f"{range6(3)}::/64")))


async def inside(engine: Engine, cid: str, *argv: str) -> str:
    """What a command in the container prints."""
    session = await engine.exec(cid, ExecSpec(argv))
    text = b""
    while (chunk := await session.read()) is not None:
        text += chunk[1]
    await session.wait()
    await session.close()
    return text.decode()


async def up(engine: Engine, image: str, *networks: EndpointSpec, **fields: object) -> str:
    """A container that waits, on these networks."""
    first = networks[0].network if networks else ""
    spec = ContainerSpec(image, command=("sleep", "1000"), network=first, networks=networks, **fields)  # type: ignore[arg-type]
    return (await engine.start((await engine.create(spec)).id)).id


async def test_a_network_is_made_used_and_removed(engine: Engine, busybox_image: str, inst: Instance) -> None:
    made = await engine.create_network(NetworkSpec("front", labels={"tier": "web"}))
    assert made.subnet
    assert made.gateway
    with pytest.raises(NameTaken):
        await engine.create_network(NetworkSpec("front"))
    one, two = [await up(engine, busybox_image, EndpointSpec("front")) for _ in range(2)]
    other = (await engine.container(two)).endpoints[0].ip
    assert "1 packets received" in await inside(engine, one, "ping", "-c1", "-W2", other)
    assert {n.name: n.containers for n in await engine.networks()}["front"] == tuple(sorted((one, two)))
    with pytest.raises(InUse, match="attached"):
        await engine.remove_network("front")
    assert_world(inst)
    for cid in (one, two):
        await engine.remove(cid, force=True)
    await engine.remove_network("front")
    assert "front" not in [n.name for n in await engine.networks()]


async def test_several_networks_and_the_way_out(engine: Engine, busybox_image: str, inst: Instance) -> None:
    for spec in (FRONT, BACK, DUAL):
        await engine.create_network(spec)
    ends = (EndpointSpec("back"), EndpointSpec("front"), EndpointSpec("dual", priority=5, ip6=f"{range6(3)}::77"))
    cid = await up(engine, busybox_image, *ends)
    box = await engine.container(cid)
    assert [end.name for end in box.endpoints] == ["eth0", "eth1", "eth2"]
    assert box.endpoints[2].ip6 == f"{range6(3)}::77"
    assert f"default via {range4(3)}.1 dev eth2" in await inside(engine, cid, "ip", "route")
    assert f"default via {range6(3)}::1 dev eth2" in await inside(engine, cid, "ip", "-6", "route")
    assert "1 packets received" in await inside(engine, cid, "ping", "-c1", "-W2", f"{range6(3)}::1")
    await engine.disconnect("dual", cid)
    assert f"default via {range4(1)}.1 dev eth1" in await inside(engine, cid, "ip", "route")
    assert_world(inst)
    await engine.disconnect("front", cid)
    assert "default" not in await inside(engine, cid, "ip", "route")
    await engine.restart(cid, timeout=0)
    assert [end.network for end in (await engine.container(cid)).endpoints] == ["back"]


async def test_connected_while_it_runs(engine: Engine, busybox_image: str, inst: Instance) -> None:
    await engine.create_network(FRONT)
    await engine.create_network(BACK)
    cid = await up(engine, busybox_image)
    box = await engine.connect(cid, EndpointSpec("front", ip=f"{range4(1)}.9"))
    assert [end.network for end in box.endpoints] == ["bridge", "front"]
    assert f"{range4(1)}.9/24" in await inside(engine, cid, "ip", "addr", "show", "eth1")
    with pytest.raises(Conflict, match="already"):
        await engine.connect(cid, EndpointSpec("front"))
    await engine.connect(cid, EndpointSpec("back"))
    await engine.disconnect("bridge", cid)
    assert "eth0" not in await inside(engine, cid, "ip", "link")
    assert_world(inst)
    with pytest.raises(NotFound, match="not on network"):
        await engine.disconnect("bridge", cid)
    # A later start is as it was left.
    await engine.restart(cid, timeout=0)
    assert [end.network for end in (await engine.container(cid)).endpoints] == ["front", "back"]
    assert f"{range4(1)}.9/24" in await inside(engine, cid, "ip", "addr")


async def test_a_stopped_container_keeps_what_it_is_told(engine: Engine, busybox_image: str) -> None:
    await engine.create_network(FRONT)
    box = await engine.create(ContainerSpec(busybox_image, command=("sleep", "9")))
    await engine.connect(box.id, EndpointSpec("front"))
    await engine.disconnect("bridge", box.id)
    await engine.start(box.id)
    assert [end.network for end in (await engine.container(box.id)).endpoints] == ["front"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (NetworkSpec("x", driver="overlay"), "bridge, macvlan and ipvlan"),
        (NetworkSpec("host"), "means something else"),
        (NetworkSpec("x y"), "a-zA-Z0-9"),
        (NetworkSpec("x", subnets=(Subnet(f"{range4(9)}.1/24"),)), "a host in it"),
        (NetworkSpec("x", subnets=(Subnet(f"{range4(9)}.0/31"),)), "no address for a container"),
        (NetworkSpec("x", subnets=(Subnet("127.0.0.0/24"),)), "cannot have"),
        (NetworkSpec("x", subnets=(Subnet("126.0.0.0/7"),)), "cannot have"),
        (NetworkSpec("x", subnets=(Subnet("128.0.0.0/1"),)), "cannot have"),
        (NetworkSpec("x", ipv6=True, subnets=(Subnet("fe00::/7"),)), "cannot have"),
        (NetworkSpec("x", subnets=(Subnet(f"{range4(9)}.0/24", gateway=f"{range4(8)}.1"),)), "no host of"),
        (NetworkSpec("x", subnets=(Subnet(f"{range4(9)}.0/24", ip_range=f"{range4(8)}.0/25"),)), "not within"),
        (NetworkSpec("x", subnets=(Subnet("fd00::/64"),)), "not enabled"),
        (NetworkSpec("x", ipv4=False), "addresses"),
        (NetworkSpec("x", options={"com.docker.network.driver.mtu": "9"}), "between"),
        (NetworkSpec("x", driver="macvlan"), "interface of this host"),
        (NetworkSpec("x", options={"mtu": "1400"}), "com.docker.network.driver.mtu"),
        (NetworkSpec("x", driver="macvlan", options={"parent": "lo", "macvlan_mode": "bad"}), "private, vepa"),
    ],
)
async def test_what_no_network_can_be(engine: Engine, spec: NetworkSpec, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        await engine.create_network(spec)
    assert "x" not in [n.name for n in await engine.networks()]


async def test_an_overlap_says_with_what(engine: Engine) -> None:
    await engine.create_network(FRONT)
    with pytest.raises(Conflict, match="network front"):
        await engine.create_network(NetworkSpec("x", subnets=(Subnet(f"{range4(0)}.0/16"),)))
    with pytest.raises(Conflict, match="another subnet of this network"):
        await engine.create_network(
            NetworkSpec("x", subnets=(Subnet(f"{range4(6)}.0/24"), Subnet(f"{range4(6)}.0/25")))
        )
    with pytest.raises(NotFound, match="there are"):
        await engine.create_network(NetworkSpec("x", driver="macvlan", options={"parent": "nowhere"}))


async def test_reserved_addresses_are_given_to_nobody(engine: Engine, busybox_image: str) -> None:
    subnet = Subnet(f"{range4(4)}.0/29", reserved={"printer": f"{range4(4)}.2", "router": f"{range4(4)}.3"})
    await engine.create_network(NetworkSpec("tiny", subnets=(subnet,)))
    cid = await up(engine, busybox_image, EndpointSpec("tiny"))
    assert (await engine.container(cid)).endpoints[0].ip == f"{range4(4)}.4"
    with pytest.raises(InvalidArgument, match="reserved for printer"):
        await up(engine, busybox_image, EndpointSpec("tiny", ip=f"{range4(4)}.2"))


async def test_prune_leaves_what_a_stopped_container_is_to_be_on(engine: Engine, busybox_image: str) -> None:
    for spec in (FRONT, BACK, NetworkSpec("labelled", labels={"keep": "yes"})):
        await engine.create_network(spec)
    await engine.create(ContainerSpec(busybox_image, network="front", command=("sleep", "9")))
    assert [n.name for n in await engine.prune_networks(("!keep",))] == ["back"]
    assert [n.name for n in await engine.prune_networks()] == ["labelled"]


async def test_a_network_survives_its_bridge(engine: Engine, busybox_image: str) -> None:
    """What is in the row is enough: the bridge is made when it is needed."""
    made = await engine.create_network(DUAL)
    cid = await up(engine, busybox_image, EndpointSpec("dual"))
    shown = json.loads(json.dumps(await engine.inspect("dual")))
    assert shown["Id"] == made.id
    assert cid in shown["Containers"]


async def test_links_on_the_default_bridge_are_lines_in_hosts(engine: Engine, busybox_image: str) -> None:
    one = await up(engine, busybox_image, name="db")
    ip = (await engine.container(one)).endpoints[0].ip
    two = await up(engine, busybox_image, links=("db:database",))
    assert f"{ip}\tdatabase" in await inside(engine, two, "cat", "/etc/hosts")
    with pytest.raises(NotFound, match="nobody"):
        await up(engine, busybox_image, links=("nobody",))
    await engine.stop(one, timeout=0)
    with pytest.raises(Conflict, match="does not run"):
        await engine.restart(two, timeout=0)


async def test_a_link_given_with_a_connection(engine: Engine, busybox_image: str) -> None:
    await engine.create_network(FRONT)
    one = await up(engine, busybox_image, EndpointSpec("front"), name="db")
    ip = (await engine.container(one)).endpoints[0].ip
    two = await up(engine, busybox_image)
    await engine.connect(two, EndpointSpec("front", links=("db:database",)))
    assert ip in await inside(engine, two, "nslookup", "database")


async def test_hosts_has_every_address(engine: Engine, busybox_image: str) -> None:
    await engine.create_network(DUAL)
    cid = await up(engine, busybox_image, EndpointSpec("dual"), hostname="box")
    (end,) = (await engine.container(cid)).endpoints
    text = await inside(engine, cid, "cat", "/etc/hosts")
    assert f"{end.ip}\tbox" in text
    assert f"{end.ip6}\tbox" in text


async def test_what_stands_alone_is_never_one_of_several(engine: Engine, busybox_image: str, inst: Instance) -> None:
    """Not for one that is stopped either: it could not be started again."""
    await engine.create_network(FRONT)
    cid = await up(engine, busybox_image, EndpointSpec("front"))
    for _ in range(2):
        for network in ("host", "none"):
            with pytest.raises(Conflict, match=f"to network {network}"):
                await engine.connect(cid, EndpointSpec(network))
        await engine.stop(cid, timeout=0.0)
    assert [end.network for end in (await engine.container(cid)).spec.networks] == ["front"]
    await engine.start(cid)
    assert_world(inst)


async def test_an_interface_is_never_there_twice(engine: Engine, busybox_image: str) -> None:
    await engine.create_network(FRONT)
    await engine.create_network(BACK)
    cid = await up(engine, busybox_image, EndpointSpec("front", interface="lan"))
    for _ in range(2):
        with pytest.raises(InvalidArgument, match="lan"):
            await engine.connect(cid, EndpointSpec("back", interface="lan"))
        await engine.stop(cid, timeout=0.0)
    await engine.start(cid)
    await engine.remove(cid, force=True)
    cid = await up(engine, busybox_image, EndpointSpec("front"))
    with pytest.raises(InvalidArgument, match="eth0"):  # which nobody has asked for, but is there
        await engine.connect(cid, EndpointSpec("back", interface="eth0"))


async def test_the_default_network_stays_whatever_it_is_called(engine: Engine) -> None:
    network = next(one for one in await engine.networks() if one.name == "bridge")
    for ref in ("bridge", network.id, network.id[:12], "host"):
        with pytest.raises(InUse, match="always there"):
            await engine.remove_network(ref)
    assert network in await engine.networks()


@pytest.mark.parametrize("same", [False, True])
async def test_who_comes_back_from_a_checkpoint_has_its_addresses_on_every_network(
    engine: Engine, busybox_image: str, same: bool
) -> None:
    for spec in (FRONT, DUAL):
        await engine.create_network(spec)
    ends = EndpointSpec("front"), EndpointSpec("dual")
    other, cid = [await up(engine, busybox_image, *ends) for _ in range(2)]
    had = {end.network: (end.ip, end.ip6) for end in (await engine.container(cid)).endpoints}
    for each in (other, cid):
        await engine.stop(each, timeout=0)
    ctx = engine._ctx  # type: ignore[attr-defined]
    record, _ = await settle(ctx, cid)
    with ExitStack() as held:
        wiring = await wire(ctx, record, None, None, held, Resume({}, had, same_address=same))
        assert {end.network: (end.ip, end.ip6) for end in wiring.endpoints} == had
        assert wiring.netns is not None
        routes = run_inside(wiring.netns, command, "ip", "route")
        await ctx.net.detach(cid)
    assert f"default via {range4(1)}.1" in routes
    # Somebody has them now.
    await engine.start(other)
    taken = {end.network: (end.ip, end.ip6) for end in (await engine.container(other)).endpoints}
    with ExitStack() as held:
        if same:
            with pytest.raises(Conflict):
                await wire(ctx, record, None, None, held, Resume({}, taken, same_address=True))
        else:
            made = (await wire(ctx, record, None, None, held, Resume({}, taken))).endpoints
            assert not {end.ip for end in made} & {ip for ip, _ in taken.values()}
        await ctx.net.detach(cid)
    await engine.remove(other, force=True)


@pytest.mark.parametrize("name", ["all", "default", "lo", "ö" * 8, "b" * 16, "a/b", "a b", "x%d", ".."])
async def test_names_that_no_interface_can_have(engine: Engine, busybox_image: str, name: str) -> None:
    with pytest.raises(InvalidArgument, match="bridge name"):
        await engine.create_network(NetworkSpec("front", options={BRIDGE_NAME: name}))
    with pytest.raises(InvalidArgument, match="interface name"):
        await engine.create(ContainerSpec(busybox_image, networks=(EndpointSpec("bridge", interface=name),)))
    assert [one.name for one in await engine.networks()] == ["bridge", "host", "none"]


async def test_the_default_networks_bridge_is_nobody_elses(engine: Engine, inst: Instance) -> None:
    """Not before its first use either: two networks on one bridge would not be separate."""
    with pytest.raises(Conflict, match="in use"):
        await engine.create_network(NetworkSpec("front", options={BRIDGE_NAME: inst.bridge}))


async def test_an_address_to_publish_on_in_other_words(engine: Engine, busybox_image: str) -> None:
    for text in ("::ffff:127.0.0.1", "fe80::1%lo", "here"):
        with pytest.raises(InvalidArgument, match="address"):
            await engine.create_network(NetworkSpec("front", options={PUBLISH_ADDRESS: text}))
    options = {PUBLISH_ADDRESS: "0:0:0:0:0:0:0:0"}
    await engine.create_network(NetworkSpec("dual", ipv6=True, subnets=DUAL.subnets, options=options))
    cid = await up(engine, busybox_image, EndpointSpec("dual"), ports=(PortMapping(80),))
    assert [port.host_ip for port in (await engine.container(cid)).ports] == ["::"]


@pytest.mark.parametrize("step", ["move_ports", "unplug", "detach", "set_default"])
async def test_a_disconnect_that_is_broken_off_goes_to_its_end(
    engine: Engine, busybox_image: str, inst: Instance, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The row no more names ports that lead nowhere."""
    cid = await up(engine, busybox_image, EndpointSpec("bridge"), ports=(PortMapping(80),))
    with monkeypatch.context() as broken:
        real, left = getattr(Net, step), [1]

        async def once(self: Net, *args: object) -> object:
            done = await real(self, *args)
            if left:
                left.clear()
                raise Unavailable("broken off", "here")
            return done

        broken.setattr(Net, step, once)
        with pytest.raises(Unavailable, match="broken off"):
            await engine.disconnect("bridge", cid)
    found = await engine.container(cid)
    assert (found.endpoints, found.ports) == ((), ())
    assert "eth0" not in await inside(engine, cid, "ip", "link")
    assert_world(inst)
