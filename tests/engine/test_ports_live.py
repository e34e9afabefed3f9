"""Ports of a container that is there already: published and closed while it runs, while connections live, and kept over
restarts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from core.cli import main
from core.engine import Engine
from core.errors import Conflict, InvalidArgument, NotFound, PortTaken, Unsupported
from core.local import LocalEngine
from core.model import ContainerSpec, EndpointSpec, NetworkSpec, PortMapping, RestartPolicy, Subnet
from core.ops import ports as verbs
from core.store.paths import Instance
from core.supervise import client
from tests.engine.ranges import range4
from tests.engine.test_lifecycle import until
from tests.engine.test_network_check import listening
from tests.patience import patience
from tests.ports import free_port
from tests.world import assert_world

pytestmark = pytest.mark.real
ECHO = ("nc", "-ll", "-p", "7000", "-e", "cat")


def neighbours() -> int:
    """Of two free ports that follow one another, the first."""
    one, other = free_port(), free_port()
    while other != one + 1:
        one, other = other, free_port()
    return one


async def says(port: int, word: str = "hello") -> str:
    """What the echo behind the port answers; "" for nothing."""
    try:
        async with asyncio.timeout(patience(20)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"{word}\n".encode())
            answer = (await reader.readline()).decode().strip()
            writer.close()
            return answer
    except (OSError, TimeoutError):
        return ""


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            return True
        except OSError:
            return False


async def echo(engine: Engine, image: str, **fields: object) -> str:
    box = await engine.create(ContainerSpec(image, command=ECHO, **fields))  # type: ignore[arg-type]
    await engine.start(box.id)
    await listening(engine, box.id, 7000)
    return box.id


async def test_added_and_removed_while_a_connection_lives(engine: Engine, busybox_image: str, inst: Instance) -> None:
    first = free_port()
    cid = await echo(engine, busybox_image, ports=(PortMapping(7000, first),))
    reader, writer = await asyncio.open_connection("127.0.0.1", first)
    second = free_port()
    box = await engine.publish_ports(cid, [PortMapping(7000, second), PortMapping(7000, 0, host_ip="127.0.0.1")])
    assert [p.host_port for p in box.ports][:2] == [first, second]
    assert all([await says(port.host_port) == "hello" for port in box.ports])
    assert not is_free(second)
    assert_world(inst)
    box = await engine.unpublish_ports(cid, [PortMapping(0, second), PortMapping(0, box.ports[2].host_port)])
    assert [p.host_port for p in box.ports] == [first]
    assert box.spec.ports == (PortMapping(7000, first),)
    assert not await says(second)
    assert is_free(second)
    assert_world(inst)
    # All the while this one went on; closing its port ends it.
    writer.write(b"still here\n")
    assert await asyncio.wait_for(reader.readline(), patience(20)) == b"still here\n"
    with pytest.raises(NotFound, match=f"port {second}/tcp"):  # so that one of UDP alone is not taken for it
        await engine.unpublish_ports(cid, [PortMapping(0, second)])
    await engine.unpublish_ports(cid, [PortMapping(7000)])
    writer.write(b"and now\n")
    with contextlib.suppress(OSError, TimeoutError):
        assert await asyncio.wait_for(reader.readline(), 1) == b""
    writer.close()
    flows = Path("/proc/net/nf_conntrack").read_text()
    assert f"dport={first} " not in "".join(line for line in flows.splitlines() if "ESTABLISHED" in line)
    assert (await engine.container(cid)).ports == ()


async def test_kept_over_restarts(engine: Engine, busybox_image: str, inst: Instance) -> None:
    cid = await echo(engine, busybox_image, restart=RestartPolicy("always"))
    port = free_port()
    await engine.publish_ports(cid, [PortMapping(7000, port)])
    pid = (await engine.container(cid)).pid
    os.kill(pid, signal.SIGKILL)  # an automatic restart, by its monitor

    async def again() -> bool:
        return (await engine.container(cid)).pid not in (0, pid)

    await until(again)
    await listening(engine, cid, 7000)
    assert await says(port) == "hello"
    assert not is_free(port)
    await engine.restart(cid, timeout=0)
    await listening(engine, cid, 7000)
    assert await says(port) == "hello"
    # The monitor is killed: its successor has the reservation from the launcher.
    state = client.read_state(inst, cid)
    assert state is not None
    os.kill(state.monitor_pid, signal.SIGKILL)

    async def replaced() -> bool:
        now = client.read_state(inst, cid)
        return now is not None and now.monitor_pid != state.monitor_pid

    await until(replaced)
    assert not is_free(port)
    await engine.unpublish_ports(cid, [PortMapping(0, port)])
    assert is_free(port)


async def test_free_when_it_is_stopped(engine: Engine, busybox_image: str) -> None:
    """Also for another container, and for any program: whoever is told of the end does not have to try again."""
    port = free_port()
    spec = ContainerSpec(busybox_image, command=("sleep", "1000"), ports=(PortMapping(7000, port),))
    for verb in ("stop", "remove", "restart"):
        box = await engine.start((await engine.create(spec)).id)
        assert not is_free(port)
        if verb == "remove":
            await engine.remove(box.id, force=True)
            assert is_free(port)
            continue
        await engine.stop(box.id, timeout=0)
        assert is_free(port)
        if verb == "restart":
            await engine.restart(box.id, timeout=0)


async def test_of_a_stopped_container(engine: Engine, busybox_image: str) -> None:
    port = free_port()
    box = await engine.create(ContainerSpec(busybox_image, command=ECHO))
    assert (await engine.publish_ports(box.id, [PortMapping(7000, port), PortMapping(53, 0, "udp")])).ports == ()
    await engine.unpublish_ports(box.id, [PortMapping(53, protocol="udp")])
    await engine.start(box.id)
    await listening(engine, box.id, 7000)
    assert await says(port) == "hello"
    assert [p.protocol for p in (await engine.container(box.id)).ports] == ["tcp"]


async def test_what_is_refused(engine: Engine, busybox_image: str, inst: Instance) -> None:
    port = free_port()
    cid = await echo(engine, busybox_image, name="one", ports=(PortMapping(7000, port),))
    other = await echo(engine, busybox_image, name="two")
    with pytest.raises(PortTaken, match="container one publishes it"):
        await engine.publish_ports(other, [PortMapping(1), PortMapping(2, port)])
    with pytest.raises(Conflict, match="already"):
        await engine.publish_ports(cid, [PortMapping(7000, port)])
    with pytest.raises(InvalidArgument, match="published twice"):
        await engine.publish_ports(cid, [PortMapping(7001, port, host_ip="127.0.0.1")])
    with pytest.raises(NotFound, match="does not publish"):
        await engine.unpublish_ports(cid, [PortMapping(0, 1)])
    host = await engine.create(ContainerSpec(busybox_image, command=ECHO, network="host"))
    with pytest.raises(InvalidArgument, match="--network host"):
        await engine.publish_ports(host.id, [PortMapping(80)])
    await engine.create_network(NetworkSpec("closed", internal=True))
    with pytest.raises(Conflict, match="closed"):
        await engine.create(ContainerSpec(busybox_image, command=ECHO, network="closed", ports=(PortMapping(80),)))
    assert (await engine.container(other)).ports == ()
    assert (await engine.container(other)).spec.ports == ()
    assert_world(inst)


async def test_nothing_half_open(
    engine: Engine, busybox_image: str, inst: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monitor does not take the reservation, or the row cannot be written: all as it was."""
    cid = await echo(engine, busybox_image)
    port = free_port()

    async def fails(*args: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(client, "reserve", fails)
        with pytest.raises(Exception, match="No space"):
            await engine.publish_ports(cid, [PortMapping(7000, port)])
    with monkeypatch.context() as broken:
        broken.setattr(verbs.records, "save_networks", fails)
        with pytest.raises(Exception, match="No space"):
            await engine.publish_ports(cid, [PortMapping(7000, port)])
    assert is_free(port)
    assert_world(inst)
    await engine.publish_ports(cid, [PortMapping(7000, port)])
    assert await says(port) == "hello"


async def leads_to(inst: Instance) -> str:
    """The network of the only container with a port, by the table."""
    argv = ("nft", "-j", "list", "map", "inet", inst.nft_table, "publish_any")
    text = (await asyncio.to_thread(subprocess.run, argv, capture_output=True, check=True)).stdout
    ((_, value),) = json.loads(text)["nftables"][1]["map"]["elem"]
    return str(value["concat"][0]).rpartition(".")[0]


async def test_ports_follow_the_networks(engine: Engine, busybox_image: str, inst: Instance) -> None:
    """They lead to where the container answers from, whatever networks come and go."""
    await engine.create_network(NetworkSpec("side", subnets=(Subnet(f"{range4(41)}.0/24"),)))
    port = free_port()
    cid = await echo(engine, busybox_image, ports=(PortMapping(7000, port),))
    await engine.connect(cid, EndpointSpec("side", priority=9))
    assert await says(port) == "hello"
    assert await leads_to(inst) == range4(41)
    await engine.disconnect("bridge", cid)
    assert await says(port) == "hello"
    assert_world(inst)
    box = await engine.disconnect("side", cid)
    assert box.ports == ()
    assert box.spec.ports == (PortMapping(7000, port),)
    assert is_free(port)
    assert_world(inst)


async def test_two_thousand_at_once(engine: Engine, busybox_image: str, inst: Instance) -> None:
    # Below those that the kernel gives out by itself, and those of free_port: nobody else takes one of them by chance.
    first = 12_000 + os.getpid() % 4 * 2000
    ports = tuple(PortMapping(5000 + n, first + n, "udp") for n in range(2000))
    box = await engine.create(ContainerSpec(busybox_image, command=("sleep", "1000"), ports=ports))
    assert len((await engine.start(box.id)).ports) == 2000
    assert_world(inst)
    held = os.listdir(f"/proc/{client.read_state(inst, box.id).monitor_pid}/fd")  # type: ignore[union-attr]
    assert 500 < len(held) < 700  # as many are reserved as every process of the house can hold
    other = await engine.create(
        ContainerSpec(busybox_image, command=("true",), ports=(PortMapping(1, ports[-1].host_port, "udp"),))
    )
    with pytest.raises(PortTaken, match=box.name):  # of those that are not, the table knows as well
        await engine.start(other.id)


async def test_command_line(
    engine: Engine, busybox_image: str, inst: Instance, capsys: pytest.CaptureFixture[str]
) -> None:
    port, other, base = free_port(), free_port(), neighbours()
    await echo(engine, busybox_image, name="web", ports=(PortMapping(7000, port),))
    root = ("--root", str(inst.root), "--run", str(inst.run))

    async def wharf(*words: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(main, [*root, *words])
        done = capsys.readouterr()
        return code, done.out, done.err

    assert await wharf("port", "web") == (0, f"7000/tcp -> 0.0.0.0:{port}\n", "")
    code, out, _ = await wharf("port", "add", "web", f"127.0.0.1:{other}:7000", "9/sctp")
    assert code == 0
    assert out.splitlines()[0] == f"127.0.0.1:{other}->7000/tcp"
    assert (await wharf("port", "web", "7000"))[1].splitlines() == [f"0.0.0.0:{port}", f"127.0.0.1:{other}"]
    assert (await wharf("port", "web", "81"))[0] == 1
    assert (await wharf("port", "rm", "web", str(port), ":9/sctp"))[0] == 0
    assert await wharf("port", "web") == (0, f"7000/tcp -> 127.0.0.1:{other}\n", "")
    assert (await wharf("port", "add", "web", f"{base}-{base + 1}:7000-7001"))[0] == 0
    assert await wharf("port", "rm", "web", f"{base}-{base + 1}") == (0, "", "")  # a range as well
    code, _, err = await wharf("port", "rm", "web", "1")
    assert code == 1
    assert "does not publish" in err


_KILLED = """
import asyncio, os, sys
from pathlib import Path
from core.local import LocalEngine
from core.model import PortMapping
from core.ops import ports, records
from core.supervise import client

async def main():
    root, run, cid, where, verb, port = sys.argv[1:]
    engine = await LocalEngine.open(Path(root), Path(run))
    module, name = {"reserve": (client, "reserve"), "save": (records, "save_networks")}[where]
    async def killed(*args, **more):
        os.kill(os.getpid(), 9)
    setattr(module, name, killed)
    await getattr(engine, verb)(cid, [PortMapping(7000, int(port))])

asyncio.run(main())
"""


@pytest.mark.parametrize("where", ["reserve", "save"])
@pytest.mark.parametrize("verb", ["publish_ports", "unpublish_ports"])
async def test_killed_in_the_middle(inst: Instance, archive: Path, where: str, verb: str) -> None:
    """By SIGKILL before the monitor has the reservation, or before the row: the next engine goes back to the row."""
    engine = await LocalEngine.open(inst.root, inst.run)
    async for _ in engine.load(archive):
        pass
    port = free_port()
    cid = await echo(engine, "busybox:test", ports=(PortMapping(7000, port),) if verb == "unpublish_ports" else ())
    await engine.close()
    argv = (sys.executable, "-c", _KILLED, str(inst.root), str(inst.run), cid, where, verb, str(port))
    process = await asyncio.create_subprocess_exec(*argv)
    assert await process.wait() == -9
    engine = await LocalEngine.open(inst.root, inst.run)
    try:
        box = await engine.container(cid)
        assert_world(inst)
        if verb == "unpublish_ports" and where == "save":  # nothing was begun
            assert [p.host_port for p in box.ports] == [port]
            assert await says(port) == "hello"
            await engine.unpublish_ports(cid, [PortMapping(7000)])
        assert (await engine.container(cid)).ports == ()
        assert not await says(port)
        assert is_free(port)
    finally:
        await engine.close()


async def test_a_monitor_of_another_version(
    engine: Engine, busybox_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs on as it was while the program is renewed: what it need not know of goes on, the rest is said."""
    number, more = free_port(), free_port()
    cid = await echo(engine, busybox_image, ports=(PortMapping(7000, number),))
    ask = client._ask_monitor

    async def of_tomorrow(inst: Instance, cid: str, message: dict[str, object], *rest: object) -> None:
        await ask(inst, cid, {**message, "op": f"{message['op']} of another version"})

    monkeypatch.setattr(client, "_ask_monitor", of_tomorrow)
    with pytest.raises(Unsupported, match="another version of wharf has started it") as refused:
        await engine.publish_ports(cid, [PortMapping(7000, more)])
    assert not refused.value.cleanup
    assert await says(number)
    await engine.unpublish_ports(cid, [PortMapping(7000, number)])
    found = await engine.container(cid)
    assert (found.ports, found.spec.ports) == ((), ())
    assert not await says(number)
