"""Networks when things go wrong: half-made places, kill −9 and cancellation in the middle, many at once. The
oracle runs after each test (tests/world.py)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from dataclasses import replace

import pytest

from core.engine import Engine
from core.errors import WharfError
from core.model import Container, ContainerSpec, EndpointSpec, NetworkSpec, State, Subnet
from core.store.paths import Instance
from tests.engine.netlab import lab, netinst
from tests.engine.ranges import range4
from tests.engine.test_networks import inside, up
from tests.patience import patience
from tests.victims import victims
from tests.world import assert_world

__all__ = ["lab", "netinst"]
pytestmark = pytest.mark.real
FRONT = NetworkSpec("front", subnets=(Subnet(f"{range4(1)}.0/24"),))
TINY = NetworkSpec("tiny", subnets=(Subnet(f"{range4(4)}.0/29", ip_range=f"{range4(4)}.4/31"),))


async def test_the_second_network_fails(engine: Engine, busybox_image: str, inst: Instance) -> None:
    """Everything of the first goes back; the error is that of the second."""
    await engine.create_network(FRONT)
    await engine.create_network(TINY)
    for _ in range(2):
        await up(engine, busybox_image, EndpointSpec("tiny"))
    spec = ContainerSpec(
        busybox_image,
        command=("sleep", "9"),
        network="front",
        networks=(EndpointSpec("front", ip=f"{range4(1)}.77"), EndpointSpec("tiny")),
    )
    box = await engine.create(spec)
    with pytest.raises(WharfError, match="no free address"):
        await engine.start(box.id)
    assert (await engine.container(box.id)).state is State.CREATED
    assert_world(inst)
    # The address of the first is free again.
    await engine.remove(box.id)
    cid = await up(engine, busybox_image, EndpointSpec("front", ip=f"{range4(1)}.77"))
    with pytest.raises(WharfError, match="no free address"):
        await engine.connect(cid, EndpointSpec("tiny"))
    assert [end.network for end in (await engine.container(cid)).endpoints] == ["front"]
    assert "eth1" not in await inside(engine, cid, "ip", "link")
    assert_world(inst)


async def test_a_parent_that_has_gone(engine: Engine, busybox_image: str, inst: Instance) -> None:
    name = f"gone{os.getpid() % 100000}"
    subprocess.run(("ip", "link", "add", name, "type", "bridge"), check=True)
    await engine.create_network(FRONT)
    await engine.create_network(NetworkSpec("lan", "macvlan", (Subnet("198.18.9.0/24"),), options={"parent": name}))
    subprocess.run(("ip", "link", "del", name), check=True)
    with pytest.raises(WharfError, match=f"the interface {name}, does not exist"):
        await up(engine, busybox_image, EndpointSpec("front"), EndpointSpec("lan"))
    assert_world(inst)


async def test_a_container_that_ends_while_it_is_connected(engine: Engine, busybox_image: str, inst: Instance) -> None:
    await engine.create_network(FRONT)
    for pause in (0.0, 0.002, 0.005, 0.01, 0.02):
        cid = await up(engine, busybox_image)

        async def end(cid: str = cid, pause: float = pause) -> None:
            await asyncio.sleep(pause)
            await engine.kill(cid)

        results = await asyncio.gather(engine.connect(cid, EndpointSpec("front")), end(), return_exceptions=True)
        assert all(not isinstance(one, BaseException) or isinstance(one, WharfError) for one in results)
        await engine.wait(cid)
        await engine.remove(cid, force=True)
    assert_world(inst)


async def _ready(engine: Engine, image: str, cid: str, verb: str) -> None:
    """What the verb begins with: an earlier try may have got far enough."""
    there = [end.network for end in (await engine.container(cid)).endpoints]
    if verb == "disconnect" and "front" not in there:
        await engine.connect(cid, EndpointSpec("front"))
    elif verb == "connect" and "front" in there:
        await engine.disconnect("front", cid)
    known = [network.name for network in await engine.networks()]
    if verb == "create" and "more" in known:
        await engine.remove_network("more")
    elif verb == "remove" and "more" not in known:
        await engine.create_network(NetworkSpec("more", subnets=(Subnet(f"{range4(6)}.0/24"),)))
        await engine.remove(await up(engine, image, EndpointSpec("more")), force=True)  # its bridge is there


@pytest.mark.parametrize("verb", ["connect", "disconnect", "create", "remove"])
async def test_killed_at_each_step(engine: Engine, busybox_image: str, inst: Instance, verb: str) -> None:
    """Before each request to the kernel and each transaction, until the verb gets through."""
    await engine.create_network(FRONT)
    cid = await up(engine, busybox_image)
    with victims("tests.engine_victim") as forked:
        for step in range(1, 60):
            await _ready(engine, busybox_image, cid, verb)
            code = await asyncio.to_thread(forked.run, inst.root, inst.run, cid, verb, step)
            await engine.recover()
            box = await engine.container(cid)
            assert box.state is State.RUNNING
            there = await inside(engine, cid, "ip", "-o", "link")
            assert [end.name for end in box.endpoints] == [n for n in ("eth0", "eth1") if f"{n}@" in there]
            assert_world(inst)
            if code == 0:
                break
            assert code == 77
    assert code == 0
    assert step > 3


async def test_cancelled_at_each_await(engine: Engine, busybox_image: str, inst: Instance) -> None:
    """A connect that is given up leaves the container as it was, or connected."""
    await engine.create_network(FRONT)
    cid = await up(engine, busybox_image)
    for turns in range(0, 60, 3):
        task = asyncio.ensure_future(engine.connect(cid, EndpointSpec("front")))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        ends = [end.network for end in (await engine.container(cid)).endpoints]
        there = await inside(engine, cid, "ip", "-o", "link")
        assert ("eth1@" in there) == ("front" in ends)
        if "front" in ends:
            await engine.disconnect("front", cid)
        assert_world(inst)


async def test_two_hundred_at_once_have_their_own_addresses(engine: Engine, busybox_image: str, inst: Instance) -> None:
    await engine.create_network(NetworkSpec("wide", subnets=(Subnet(f"{range4(16)}.0/22"),)))
    names = [f"b{number}" for number in range(200)]
    spec = ContainerSpec(busybox_image, command=("sleep", "1000"), network="wide")
    boxes = await asyncio.gather(*(_run(engine, spec, name) for name in names))
    assert len({end.ip for box in boxes for end in box.endpoints}) == 200
    assert len({end.mac for box in boxes for end in box.endpoints}) == 200
    assert_world(inst, patience(60))
    await asyncio.gather(*(engine.remove(box.id, force=True) for box in boxes))


async def _run(engine: Engine, spec: ContainerSpec, name: str) -> Container:
    return await engine.start((await engine.create(replace(spec, name=name))).id)
