"""The first process is on its way while the network is made: what it may not see of that, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest
import pytest_asyncio

from core import errors
from core.engine import Engine
from core.model import ContainerSpec, EndpointSpec, NetworkSpec, PortMapping, State, Subnet
from core.net import Net
from core.net.host import Attachment
from core.store.paths import Instance
from core.supervise import client
from tests.conftest import needs_root
from tests.engine.test_lifecycle import output, until
from tests.patience import patience
from tests.ports import free_port
from tests.world import assert_world, made_ahead

pytestmark = needs_root


@pytest_asyncio.fixture(params=["with a spare", "without"])
async def staying(request: pytest.FixtureRequest, engine: Engine, inst: Instance, busybox_image: str) -> Engine:
    """An engine that has namespaces ready, or none."""
    if request.param == "with a spare":
        await engine.recover()
        box = await engine.create(ContainerSpec(busybox_image, command=("sleep", "1000")))
        await engine.start(box.id)
        await engine.remove(box.id, force=True)

        async def filled() -> bool:
            return len(made_ahead(inst)) == 2

        await until(filled)
    return engine


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the containers whose first process began ahead."""
    found: list[str] = []
    ahead = client.Launching.ahead

    async def tell(self: client.Launching, named: list[tuple[str, int]]) -> None:
        found.append(self._id)
        await ahead(self, named)

    monkeypatch.setattr(client.Launching, "ahead", tell)
    return found


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Places on networks are there half a second late; set once the first process is on its way before that."""
    begun, attach, ahead = asyncio.Event(), Net.attach, client.Launching.ahead

    async def late(self: Net, *words: object, **more: object) -> Attachment:
        made = await attach(self, *words, **more)  # type: ignore[arg-type]
        await asyncio.wait_for(begun.wait(), patience(30))
        await asyncio.sleep(0.5)
        return made

    async def tell(self: client.Launching, named: list[tuple[str, int]]) -> None:
        await ahead(self, named)
        begun.set()

    monkeypatch.setattr(Net, "attach", late)
    monkeypatch.setattr(client.Launching, "ahead", tell)
    return begun


async def test_the_command_finds_all_of_it(
    staying: Engine, busybox_image: str, inst: Instance, slow: asyncio.Event
) -> None:
    """Addresses of every network, routes, names, hosts, settings of its interfaces and a published port."""
    for name, subnet in (("front", "10.77.1.0/24"), ("back", "10.77.2.0/24")):
        await staying.create_network(NetworkSpec(name, subnets=(Subnet(subnet),)))
    script = (
        "ip -o -4 addr | awk '/10.77/ {print $4}'; ip route | grep -c default; cat /etc/hosts | grep -c 10.77; "
        "cat /proc/sys/net/ipv4/conf/eth0/log_martians; nslookup me 127.0.0.11 | grep -c 10.77; nc -l -p 7 -e echo hi"
    )
    port = free_port()
    spec = ContainerSpec(
        busybox_image, command=("sh", "-c", script), name="me", network="front",
        networks=(EndpointSpec("front", sysctls={"net.ipv4.conf.IFNAME.log_martians": "1"}), EndpointSpec("back")),
        ports=(PortMapping(7, port),),
    )  # fmt: skip
    box = await staying.create(spec)
    await staying.start(box.id)
    assert slow.is_set()

    async def answers() -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            answer = await reader.read()
        except OSError:
            return False
        writer.close()
        return answer == b"hi\n"

    await until(answers)
    assert await staying.wait(box.id) == 0
    found = await output(staying, box.id)
    ips = [end.ip for end in (await staying.container(box.id)).endpoints] or ["10.77.1.2", "10.77.2.2"]
    assert sorted(found[:2]) == sorted(f"{ip}/24" for ip in ips)
    assert found[2:5] == ["1", "2", "1"]
    assert int(found[5]) >= 1
    await staying.remove(box.id)
    for name in ("front", "back"):
        await staying.remove_network(name)
    assert_world(inst)


@pytest.mark.parametrize("spec", [{"init": True}, {"tty": True}, {"userns": "auto"}, {"ipc": "shareable"}])
async def test_containers_of_another_kind(
    staying: Engine, busybox_image: str, inst: Instance, slow: asyncio.Event, spec: dict[str, object]
) -> None:
    words = ("sh", "-c", "ip -o -4 addr show eth0 | grep -c inet; sleep 1000")
    box = await staying.create(ContainerSpec(busybox_image, command=words, **spec))  # type: ignore[arg-type]
    await staying.start(box.id)
    assert slow.is_set()

    async def told() -> bool:
        return [text.strip() for text in await output(staying, box.id)] == ["1"]

    await until(told)
    await staying.remove(box.id, force=True)
    assert_world(inst)


async def test_a_network_that_cannot_be_made(
    staying: Engine, busybox_image: str, inst: Instance, told: list[str]
) -> None:
    """Its first process is on its way by then, and goes; nothing with its address stays."""
    refused = (EndpointSpec("bridge", sysctls={"net.ipv4.conf.IFNAME.log_martians": "banana"}),)
    box = await staying.create(
        ContainerSpec(busybox_image, command=("touch", "/ran"), network="bridge", networks=refused)
    )
    with pytest.raises(errors.Unavailable, match="network"):
        await staying.start(box.id)
    assert told == [box.id]
    assert not [name for name in on_bridges(inst) if name not in made_ahead(inst)]
    assert not list((inst.container_dir(box.id) / "upper").iterdir())
    assert_world(inst)
    await staying.remove(box.id)


async def test_an_address_that_is_taken(staying: Engine, busybox_image: str, inst: Instance) -> None:
    one = await staying.create(ContainerSpec(busybox_image, command=("sleep", "1000")))
    await staying.start(one.id)
    ip = (await staying.container(one.id)).endpoints[0].ip
    network = (EndpointSpec("bridge", ip=ip),)
    other = await staying.create(
        ContainerSpec(busybox_image, command=("touch", "/ran"), network="bridge", networks=network)
    )
    with pytest.raises(errors.Conflict, match="in use"):
        await staying.start(other.id)
    assert not list((inst.container_dir(other.id) / "upper").iterdir())
    assert_world(inst)
    await staying.remove(one.id, force=True)
    await staying.start(other.id)
    assert await staying.wait(other.id) == 0
    await staying.remove(other.id)
    assert_world(inst)


async def test_in_anothers_pid_namespace_it_begins_when_all_is_there(
    staying: Engine, busybox_image: str, inst: Instance, told: list[str]
) -> None:
    """Others would see it wait with the host's root."""
    one = await staying.create(ContainerSpec(busybox_image, command=("sleep", "1000"), ipc="shareable"))
    await staying.start(one.id)
    told.clear()
    for field, begins in (("pid", False), ("ipc", True)):
        spec = ContainerSpec(busybox_image, command=("sleep", "1000"), **{field: f"container:{one.id}"})  # type: ignore[arg-type]
        box = await staying.create(spec)
        await staying.start(box.id)
        pids = [(await staying.container(each)).pid for each in (one.id, box.id)]
        assert len({os.readlink(f"/proc/{pid}/ns/{field}") for pid in pids}) == 1
        assert (box.id in told) == begins
        await staying.remove(box.id, force=True)
    await staying.remove(one.id, force=True)
    assert_world(inst)


async def test_given_up_in_between(
    staying: Engine, busybox_image: str, inst: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ahead = asyncio.Event(), client.Launching.ahead

    async def tell(self: client.Launching, named: list[tuple[str, int]]) -> None:
        await ahead(self, named)
        begun.set()
        await asyncio.sleep(0.3)

    monkeypatch.setattr(client.Launching, "ahead", tell)
    box = await staying.create(ContainerSpec(busybox_image, command=("touch", "/ran")))
    start = asyncio.create_task(staying.start(box.id))
    await asyncio.wait_for(begun.wait(), patience(30))
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not list((inst.container_dir(box.id) / "upper").iterdir())
    assert_world(inst)
    await staying.remove(box.id)


@pytest.mark.parametrize("who", ["process", "monitor", "launcher"])
async def test_killed_in_between(
    staying: Engine, busybox_image: str, inst: Instance, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """Another monitor begins anew; without a launcher it goes on."""
    ahead, killed = client.Launching.ahead, False

    async def tell(self: client.Launching, named: list[tuple[str, int]]) -> None:
        nonlocal killed
        await ahead(self, named)
        found: list[int] = []

        async def there() -> bool:
            found[:] = {
                "process": lambda: [pid for one in monitors(box.id) for pid in children(one)],
                "monitor": lambda: monitors(box.id),
                "launcher": lambda: [parent(pid) for pid in monitors(box.id)],
            }[who]()
            return bool(found)

        await until(there)
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        killed = True

    monkeypatch.setattr(client.Launching, "ahead", tell)
    box = await staying.create(ContainerSpec(busybox_image, command=("sleep", "1000")))
    if who == "process":
        with pytest.raises(errors.StartFailed, match="first process"):
            await staying.start(box.id)
    else:
        assert (await staying.start(box.id)).state is State.RUNNING
    assert killed
    assert_world(inst)
    await staying.remove(box.id, force=True)
    assert_world(inst)


def monitors(cid: str) -> list[int]:
    """It has its title once the first process is on its way."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(b"wharf-monitor " + cid.encode()):
                found.append(int(path.parent.name))
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def on_bridges(inst: Instance) -> list[str]:
    """Host ends that are ports of a bridge."""
    return [path.name for path in Path("/sys/class/net").glob(f"{inst.link_prefix}*") if (path / "brport").exists()]
