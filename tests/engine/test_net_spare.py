"""Namespaces made ahead: a container gets the same as ever, and those that nobody used go with their engine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from core.errors import Conflict, Unavailable
from core.kernel import netns
from core.model import EndpointSpec, NetworkSpec, Subnet
from core.names import make_id
from core.net import Net
from tests.engine.netlab import Box, Lab, command, lab, link_names, netinst, ping, private_host, run_inside, soon
from tests.engine.ranges import range4
from tests.patience import patience
from tests.world import made_ahead

__all__ = ["lab", "netinst", "private_host"]
pytestmark = [pytest.mark.real, pytest.mark.usefixtures("private_host")]
HOUSE = Path(__file__).resolve().parents[2]


def ends(lab: Lab) -> set[str]:
    return {name for name in link_names() if name.startswith(lab.inst.link_prefix)}


async def filled(lab: Lab, count: int = 2) -> set[str]:
    end = time.monotonic() + patience(20)
    while len(there := made_ahead(lab.inst)) != count:
        assert time.monotonic() < end, f"{there} wait"
        await asyncio.sleep(0.01)
    return there


async def attach(lab: Lab, network: str, want: EndpointSpec, name: str = "eth0") -> Box:
    cid = make_id()
    box = Box(cid, await lab.net.attach(network, cid, want, name=name))
    lab.boxes.append(box)
    return box


# What differs from one interface to the next: numbers, names, addresses, times.
_OWN = frozenset(
    "ifindex link_index ifname address link_netnsid parentbus parentdev stats64 stats prefsrc local broadcast id "
    "no".split()
)


def _plain(found: Any) -> Any:
    if isinstance(found, dict):
        return {
            key: _plain(value)
            for key, value in found.items()
            if key not in _OWN and not key.endswith(("_id", "_port", "timer"))
        }
    return [_plain(one) for one in found] if isinstance(found, list) else found


def look(box: Box) -> dict[str, Any]:
    """All that ip and sysctl show of both ends of the wire."""
    inside = ("nsenter", f"--net=/proc/{os.getpid()}/fd/{box.fd}")
    end = box.attachment.endpoint
    found: dict[str, Any] = {
        "addresses": json.loads(command(*inside, "ip", "-j", "-d", "address")),
        "routes": json.loads(command(*inside, "ip", "-j", "route")),
        "routes6": json.loads(command(*inside, "ip", "-j", "-6", "route")),
        "limit": command(*inside, "tc", "qdisc", "show", "dev", end.name).split(" refcnt")[0].split("8001:")[-1],
        "host": json.loads(command("ip", "-j", "-d", "link", "show", end.interface)),
    }
    found = _plain(found)
    [eth] = json.loads(command(*inside, "ip", "-j", "link", "show", end.name))
    assert eth["address"] == end.mac
    conf = command(*inside, "sysctl", "-a", "-r", r"^net\.ipv[46]\.(conf|neigh)\.(eth0|default|lo)\.").splitlines()
    found["sysctl"] = [line for line in conf if "stable_secret" not in line]
    return found


def alike(one: Box, other: Box) -> None:
    """They look the same, once what the kernel tells late of an interface (that it is up) has come."""
    soon(lambda: look(one) == look(other), 5)
    mine, theirs = look(one), look(other)
    assert mine["addresses"]
    for key, seen in mine.items():
        assert theirs[key] == seen, key


@pytest.mark.parametrize("case", ["plain", "dual", "isolated", "narrow", "limited"])
async def test_a_container_cannot_tell(lab: Lab, case: str) -> None:
    subnets = [Subnet(f"{range4(40)}.0/24")] + ([Subnet("fd00:77:61::/64")] if case == "dual" else [])
    options = {
        "isolated": {"com.docker.network.bridge.enable_icc": "false"},
        "narrow": {"com.docker.network.driver.mtu": "1280"},
    }
    spec = NetworkSpec("one", subnets=tuple(subnets), ipv6=case == "dual", options=options.get(case, {}))
    gateway = (await lab.net.create_network(spec)).subnets[0].gateway
    want = EndpointSpec("one")
    if case == "limited":
        want = EndpointSpec("one", rate=1_000_000, sysctls={"net.ipv4.conf.IFNAME.log_martians": "1"})
    fresh = await attach(lab, "one", want)
    lab.net.watch()
    await lab.box()  # of a network with another MTU: the first spares have that one
    spares = await filled(lab)
    used = await attach(lab, "one", want)
    assert fresh.attachment.endpoint.interface not in spares
    assert used.attachment.endpoint.interface in spares
    alike(fresh, used)
    assert run_inside(used.fd, ping, gateway)
    assert run_inside(used.fd, ping, fresh.ip, 0.5) == ("error:TimeoutError" if case == "isolated" else True)
    assert used.attachment.endpoint.interface not in made_ahead(lab.inst)
    await filled(lab)


async def test_only_engines_that_stay_keep_some(lab: Lab) -> None:
    box = await lab.box()
    await asyncio.sleep(0.3)
    assert ends(lab) == {box.attachment.endpoint.interface}


async def test_another_name_gets_a_fresh_one(lab: Lab) -> None:
    lab.net.watch()
    await lab.box()
    spares = await filled(lab)
    box = await attach(lab, "bridge", EndpointSpec("bridge"), name="wan0")
    assert box.attachment.endpoint.interface not in spares
    assert "wan0" in command("nsenter", f"--net=/proc/{os.getpid()}/fd/{box.fd}", "ip", "link")


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_somebody_takes_one_away(lab: Lab, elsewhere: bool) -> None:
    """The namespace may have been given to the container by then: it gets another pair in there."""
    lab.net.watch()
    first = await lab.box()
    homes: list[int] = []
    with netns.fresh() as other:
        pass
    try:
        for name in await filled(lab):
            way = ("set", name, "netns", f"/proc/{os.getpid()}/fd/{other}") if elsewhere else ("del", name)
            subprocess.run(("ip", "link", *way), check=True)
        made = await lab.net.attach("bridge", cid := make_id(), home=homes.append)
        box = Box(cid, made)
        lab.boxes.append(box)
        assert os.fstat(homes[0]).st_ino == os.fstat(box.fd).st_ino
        assert run_inside(box.fd, ping, first.ip)
    finally:
        for fd in (other, *homes):
            os.close(fd)
    assert len(lab.store.run.read("SELECT * FROM endpoint")) == 2
    assert len(lab.store.run.read("SELECT * FROM lease")) == 2


async def test_another_engine_lets_them_be(lab: Lab) -> None:
    lab.net.watch()
    box = await lab.box()
    spares = await filled(lab)
    other = Net(lab.inst, lab.store)
    try:
        assert await other.recover({box.id}) == []
    finally:
        await other.close()
    assert made_ahead(lab.inst) == spares


async def test_nothing_is_left_after_close(lab: Lab) -> None:
    other = Net(lab.inst, lab.store)
    other.watch()
    cid = make_id()
    made = await other.attach("bridge", cid)
    await filled(lab)
    await other.close()
    assert soon(lambda: ends(lab) == {made.endpoint.interface})
    os.close(made.netns_fd)
    await lab.net.detach(cid)


_HOLDER = """
import asyncio, sys
from pathlib import Path
from core.names import make_id
from core.net import Net
from core.store.db import Store
from core.store.paths import find_instance

async def main():
    inst = find_instance(Path(sys.argv[1]), Path(sys.argv[2]))
    net = Net(inst, Store.open(inst))
    net.watch()
    await net.attach("bridge", make_id())
    await asyncio.sleep(1000)

asyncio.run(main())
"""


async def test_killed_with_some_in_its_hands(lab: Lab) -> None:
    holder = subprocess.Popen((sys.executable, "-c", _HOLDER, lab.inst.root, lab.inst.run), cwd=HOUSE)
    try:
        await filled(lab)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert soon(lambda: not ends(lab))
    assert netns.administered()


async def test_one_made_for_a_small_mtu(lab: Lab) -> None:
    """Below 1280 an interface has no IPv6 to forbid; a larger MTU must not bring it back as it is by default."""
    options = {"com.docker.network.driver.mtu": "1000"}
    await lab.net.create_network(NetworkSpec("small", options=options))
    await lab.net.create_network(NetworkSpec("usual", options={"com.docker.network.driver.mtu": "1500"}))
    fresh = await attach(lab, "usual", EndpointSpec("usual"))
    lab.net.watch()
    narrow = await attach(lab, "small", EndpointSpec("small"))
    spares = await filled(lab)
    used = await attach(lab, "usual", EndpointSpec("usual"))
    assert used.attachment.endpoint.interface in spares
    alike(fresh, used)
    assert await filled(lab)
    again = await attach(lab, "small", EndpointSpec("small"))
    alike(narrow, again)
    assert run_inside(again.fd, ping, narrow.ip)


async def test_closed_in_the_middle_of_an_attach(lab: Lab) -> None:
    box = await lab.box()
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    for pause in (0.0, 0.001, 0.003, 0.006, 0.01, 0.02):
        other = Net(lab.inst, lab.store)
        other.watch()
        cid = make_id()
        under_way = asyncio.ensure_future(other.attach("bridge", cid))
        await asyncio.sleep(pause)
        await asyncio.gather(other.close(), under_way, return_exceptions=True)
        await asyncio.sleep(0.05)
        if not under_way.exception():
            os.close(under_way.result().netns_fd)
        await lab.net.detach(cid)
    assert soon(lambda: ends(lab) == {box.attachment.endpoint.interface}), ends(lab)
    assert not complaints


async def test_what_was_refused_costs_none(lab: Lab) -> None:
    lab.net.watch()
    box = await lab.box()
    await filled(lab)
    for _ in range(4):
        with pytest.raises(Conflict):
            await attach(lab, "bridge", EndpointSpec("bridge", ip=box.ip))
    await filled(lab)


async def test_a_failure_inside_leaves_no_end_on_the_bridge(lab: Lab) -> None:
    """The next container may get the address at once."""
    lab.net.watch()
    box = await lab.box()
    await filled(lab)
    wrong = EndpointSpec("bridge", sysctls={"net.ipv4.conf.IFNAME.log_martians": "no number"})
    with pytest.raises(Unavailable):
        await attach(lab, "bridge", wrong)
    master = (await lab.net.ensure("bridge")).bridge
    ports = json.loads(command("ip", "-j", "link", "show", "master", master))
    assert [port["ifname"] for port in ports if port] == [box.attachment.endpoint.interface]
    assert len(lab.store.run.read("SELECT * FROM endpoint")) == 1
    assert (await lab.box()).ip
