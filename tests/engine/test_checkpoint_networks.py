"""Checkpoints of containers on networks of one's own: addresses, names and ports are there again with the processes."""

from __future__ import annotations

import pytest

from core.engine import Engine
from core.model import CheckpointOptions, ContainerSpec, EndpointSpec, NetworkSpec, Subnet
from core.store.paths import Instance
from tests.criu import needs_criu
from tests.engine.ranges import range4, range6
from tests.engine.test_dns import ask_inside

FRONT = NetworkSpec("front", subnets=(Subnet(f"{range4(1)}.0/24"),))
DUAL = NetworkSpec("dual", ipv6=True, subnets=(Subnet(f"{range4(3)}.0/24"), Subnet(f"{range6(3)}::/64")))


@pytest.mark.parametrize("established", [False, True])
async def test_addresses_and_names_are_those_of_before(
    engine: Engine, busybox_image: str, inst: Instance, established: bool
) -> None:
    needs_criu()
    for network in (FRONT, DUAL):
        await engine.create_network(network)
    ends = EndpointSpec("front"), EndpointSpec("dual")
    spec = ContainerSpec(busybox_image, command=("sleep", "1000"), network="front", networks=ends)
    first = (await engine.start((await engine.create(spec)).id)).id
    box = await engine.start((await engine.create(spec)).id)
    had = [(end.network, end.ip, end.ip6) for end in box.endpoints]
    await engine.checkpoint(box.id, "one", options=CheckpointOptions(tcp_established=established))
    await engine.remove(first, force=True)  # its addresses are the next that are free
    again = await engine.restore(box.id, "one")
    assert [(end.network, end.ip, end.ip6) for end in again.endpoints] == had
    assert await ask_inside(inst, box.id, again.name) == [[end.ip for end in again.endpoints]] * 2
    await engine.remove(box.id, force=True)
