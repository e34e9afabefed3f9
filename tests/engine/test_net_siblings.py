"""Two instances on one host: neither takes a subnet of the other's, whatever state its bridge is in."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from core.errors import Conflict
from core.model import NetworkSpec, Subnet
from core.store.paths import Instance, find_instance
from tests.engine.netlab import Lab, command, lab, left_over, netinst, private_host, soon

__all__ = ["lab", "netinst", "private_host"]
# On a host of their own: a subnet that one of the two has just given up is free for any other test's instance as well.
pytestmark = [pytest.mark.real, pytest.mark.usefixtures("private_host")]


def sh(*argv: str) -> None:
    subprocess.run(argv, check=True)


@pytest_asyncio.fixture
async def other(lab: Lab, tmp_path: Path) -> AsyncIterator[Lab]:
    made = Lab(find_instance(tmp_path / "other", tmp_path / "other-run"))
    yield made
    await made.close()
    assert soon(lambda: not left_over(made.inst))


async def choice(one: Lab) -> str:
    """The subnet that its default network gets."""
    (network,) = [network for network in await one.net.describe() if network.name == "bridge"]
    return network.subnets[0].subnet


def forget(inst: Instance, bridge: str, how: str) -> None:
    if how == "down":
        sh("ip", "link", "set", bridge, "down")
    elif how == "no bridge":
        sh("ip", "link", "del", bridge)
    else:
        sh("nft", "delete", "table", "inet", inst.nft_table)
        sh("ip", "link", "set", bridge, "down")


@pytest.mark.parametrize("how", ["down", "no bridge", "no table"])
async def test_a_subnet_of_another_instance(lab: Lab, other: Lab, how: str) -> None:
    wished = await choice(other)
    await other.net.remove_all()
    theirs = await lab.net.create_network(NetworkSpec("theirs", subnets=(Subnet(wished),), internal=True))
    await lab.box(network="theirs")
    forget(lab.inst, theirs.bridge, how)
    assert wished not in command("ip", "route", "show", "table", "main", "scope", "link", "dev", theirs.bridge)
    assert await choice(other) != wished
    part = wished.replace("/20", "/24")
    with pytest.raises(Conflict) as met:
        await other.net.create_network(NetworkSpec("mine", subnets=(Subnet(part),)))
    assert f"overlaps {wished} on {theirs.bridge}, of another instance of wharf" in met.value.why
    assert (lab.inst.nft_table in met.value.why) == (how != "no table")
    chosen = await other.net.create_network(NetworkSpec("mine"))
    assert chosen.subnets[0].subnet != wished
    await other.box(network="mine")


async def test_a_network_from_before(lab: Lab, other: Lab) -> None:
    """Both were made before either was used: the default network moves, another says what is in the way."""
    wished = await choice(other)
    await other.net.create_network(NetworkSpec("mine", subnets=(Subnet("10.231.7.0/24"),)))
    for name, subnet in (("one", wished), ("two", "10.231.7.0/25")):
        theirs = await lab.net.create_network(NetworkSpec(name, subnets=(Subnet(subnet),)))
        await lab.box(network=name)
        sh("ip", "link", "set", theirs.bridge, "down")
    await other.box()
    assert await choice(other) != wished
    with pytest.raises(Conflict, match="cannot be set up") as met:
        await other.box(network="mine")
    assert f"nft delete table inet {lab.inst.nft_table}" in met.value.fix
