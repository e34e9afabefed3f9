"""``wharf network …`` as a user types it, and the drivers' options seen in the kernel."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from core.engine import Engine
from core.errors import Unsupported
from core.model import NetworkSpec, Subnet
from tests.engine.netlab import ping, run_inside
from tests.engine.ranges import range4
from tests.engine.test_cli import Wharf, wharf

__all__ = ["wharf"]
pytestmark = pytest.mark.real


async def test_from_creation_to_removal(wharf: Wharf) -> None:
    made = (await wharf.ok("network", "create", "--subnet", f"{range4(5)}.0/24", "--label", "tier=web", "web")).strip()
    assert len(made) == 64
    assert await wharf.ok("network", "ls", "-q", "--no-trunc", "-f", "label=tier=web") == f"{made}\n"
    assert await wharf.ok("network", "ls", "-q", "-f", "dangling=true", "-f", "driver=bridge") == f"{made[:12]}\n"
    await wharf.background("one", "--network", f"name=web,ip={range4(5)}.9,alias=first")
    await wharf.background("two")
    await wharf.ok("network", "connect", "--ip", f"{range4(5)}.10", "web", "two")
    (seen,) = json.loads(await wharf.ok("network", "inspect", "web"))
    assert {one["Name"]: one["IPv4Address"] for one in seen["Containers"].values()} == {
        "one": f"{range4(5)}.9/24",
        "two": f"{range4(5)}.10/24",
    }
    (box,) = json.loads(await wharf.ok("inspect", "two"))
    assert sorted(box["NetworkSettings"]["Networks"]) == ["bridge", "web"]
    assert box["NetworkSettings"]["Networks"]["web"]["IPAMConfig"] == {"IPv4Address": f"{range4(5)}.10"}
    assert await wharf.ok("ps", "-q", "-f", "network=web", "-f", "name=two") != ""
    done = await wharf("network", "rm", "web", "nowhere")
    assert done.code == 1
    assert "attached: one, two" in done.err
    assert "no such network: nowhere" in done.err
    await wharf.ok("network", "disconnect", "web", "two")
    await wharf.ok("rm", "-f", "one")
    assert await wharf.ok("network", "prune", "-f") == "Deleted Networks:\nweb\n"
    await wharf.ok("network", "rm", "-f", "web")
    assert "(say --force)" in (await wharf("network", "prune")).err


async def test_refusals_say_what_to_do(wharf: Wharf) -> None:
    for words, says in (
        (("create", "-d", "overlay", "x"), "there are bridge, macvlan and ipvlan"),
        (("create", "--subnet", f"{range4(5)}.0/24", "--gateway", "10.9.9.9", "x"), "is in no --subnet"),
        (("create", "--ipam-opt", "a=b", "x"), "none is known"),
        (("create", "--subnet", "10.7.0.9/24", "x"), "Did you mean 10.7.0.0/24?"),
        (("create", "--subnet", "x/24", "x"), "no range of addresses"),
        (("rm", "bridge"), "always there"),
        (("connect", "bridge", "nobody"), "no such container"),
        (("ls", "-f", "colour=red"), "there is no key"),
    ):
        done = await wharf("network", *words)
        assert done.code in (1, 125)
        assert says in done.err
        assert done.err.count("\n") == 1


@pytest.fixture
def parent() -> Iterator[tuple[str, int]]:
    """An interface of this host, and a namespace at its other end: a wire to another machine."""
    from core.kernel import netns

    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    with netns.fresh() as fd:
        pass
    name, path = f"par{os.getpid() % 100000}", f"/proc/{os.getpid()}/fd/{fd}"
    for argv in (
        ("ip", "link", "add", name, "type", "veth", "peer", "name", "lan0", "netns", path),
        ("ip", "link", "set", name, "up"),
        ("nsenter", f"--net={path}", "ip", "address", "add", "198.18.7.1/24", "dev", "lan0"),
        ("nsenter", f"--net={path}", "ip", "link", "set", "lan0", "up"),
    ):
        subprocess.run(argv, check=True)
    yield name, fd
    subprocess.run(("ip", "link", "del", name), check=True)
    os.close(fd)


async def test_macvlan_is_a_host_of_the_parents_network(wharf: Wharf, engine: Engine, parent: tuple[str, int]) -> None:
    name, lan = parent
    words = ("-d", "macvlan", "--subnet", "198.18.7.0/24", "--ip-range", "198.18.7.64/26", "-o", f"parent={name}")
    await wharf.ok("network", "create", *words, "-o", "host_shim=198.18.7.64", "lan")
    await wharf.background("box", "--network", "lan")
    (end,) = (await engine.container("box")).endpoints
    assert end.ip == "198.18.7.65"  # the first one is the host's own
    assert end.interface == ""
    assert "default via 198.18.7.1 dev eth0" in await wharf.ok("exec", "box", "ip", "route")
    assert await asyncio.to_thread(run_inside, lan, ping, end.ip) is True
    assert await asyncio.to_thread(run_inside, None, ping, end.ip) is True  # by the shim
    await wharf.ok("network", "disconnect", "lan", "box")
    assert "eth0" not in await wharf.ok("exec", "box", "ip", "link")
    await wharf.ok("network", "rm", "lan")


async def test_a_driver_that_the_kernel_lacks_is_named(engine: Engine, parent: tuple[str, int]) -> None:
    spec = NetworkSpec("x", "ipvlan", (Subnet("198.18.7.0/24"),), options={"parent": parent[0]})
    link = f"ipv{os.getpid() % 100000}"
    has_it = subprocess.run(("ip", "link", "add", link, "link", parent[0], "type", "ipvlan"), check=False).returncode
    if has_it == 0:
        subprocess.run(("ip", "link", "del", link), check=True)
        pytest.skip("this kernel has ipvlan")
    with pytest.raises(Unsupported, match="CONFIG_IPVLAN"):
        await engine.create_network(spec)


async def test_settings_of_one_interface(wharf: Wharf) -> None:
    await wharf.ok("network", "create", "-o", "com.docker.network.driver.mtu=1280", "web")
    options = "driver-opt=com.docker.network.endpoint.ifname=up0"
    sysctls = "driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1"
    await wharf.background("box", "--network", f"name=web,mac-address=02:11:22:33:44:55,{options},{sysctls}")
    shown = await wharf.ok("exec", "box", "ip", "link", "show", "up0")
    assert "02:11:22:33:44:55" in shown
    assert "mtu 1280" in shown
    assert await wharf.ok("exec", "box", "cat", "/proc/sys/net/ipv4/conf/up0/log_martians") == "1\n"
    assert await wharf.ok("exec", "box", "cat", "/proc/sys/net/ipv4/conf/lo/log_martians") == "0\n"


async def test_what_it_may_send_is_limited(wharf: Wharf, engine: Engine) -> None:
    """2 MB at 8 Mbit/s take two seconds, less what may burst; without the limit some milliseconds."""
    await wharf.background("slow", "--rate", "8mbit")
    gateway = (await engine.container("slow")).endpoints[0].gateway
    received = 0
    begun = time.monotonic()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        while data := await reader.read(65536):
            received += len(data)
        writer.close()

    server = await asyncio.start_server(take, gateway, 0)
    port = server.sockets[0].getsockname()[1]
    line = f"dd if=/dev/zero bs=64k count=32 2>/dev/null | nc {gateway} {port}"
    await wharf.ok("exec", "slow", "sh", "-c", line)
    server.close()
    await server.wait_closed()
    assert received == 2 << 20
    assert time.monotonic() - begun > 1.5
