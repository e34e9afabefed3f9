"""Live connections, counters of interfaces, and the map: by the engine, and as a user types it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.engine import Engine
from core.errors import NotFound
from core.kernel import netns, sockdiag
from core.model import Connection, ContainerSpec, EndpointSpec, ExecSpec, NetworkSpec, PortMapping, State, Subnet
from core.net import sockets
from core.store.paths import Instance
from tests.engine.netlab import OUTSIDE, UPLINK, Server, keeper_held, outside, private_host
from tests.engine.test_cli import Wharf, wharf
from tests.engine.test_network_check import listening
from tests.patience import patience

__all__ = ["outside", "private_host", "wharf"]
pytestmark = [pytest.mark.real, pytest.mark.usefixtures("private_host")]
ECHO = "nc -ll -p 7 -e cat"
WEB = NetworkSpec("web", subnets=(Subnet("10.89.8.0/24"),))


async def up(engine: Engine, image: str, name: str, script: str, *ports: PortMapping, network: str = "web") -> str:
    spec = ContainerSpec(image, name, ("sh", "-c", script), network=network, ports=ports)
    return (await engine.start((await engine.create(spec)).id)).id


@contextmanager
def talk(host: str, port: int, data: bytes = b"x" * 1000) -> Iterator[socket.socket]:
    """A connection to an echo server that has sent and got back ``data``."""
    with socket.create_connection((host, port), patience(20)) as peer:
        peer.sendall(data)
        left = len(data)
        while left:
            left -= len(peer.recv(left))
        yield peer


async def until(engine: Engine, ref: str, **wanted: object) -> Connection:
    """The one connection of a container that has these values, when it has come."""
    async with asyncio.timeout(patience(20)):
        while True:
            found = await engine.connections([ref])
            fits = [one for one in found if all(getattr(one, key) == value for key, value in wanted.items())]
            if fits:
                return fits[0]
            await asyncio.sleep(0.02)


async def test_both_ends_of_a_connection(engine: Engine, busybox_image: str) -> None:
    await engine.create_network(WEB)
    server = await up(engine, busybox_image, "server", ECHO)
    await listening(engine, "server", 7)
    ip = (await engine.container(server)).endpoints[0].ip
    script = f"(echo hello; sleep 1000) | nc {ip} 7"
    client = await up(engine, busybox_image, "client", script)
    asked = await until(engine, "client", state="established", received=6)
    assert (asked.container, asked.remote, asked.remote_ip, asked.remote_port) == (client, "server", ip, 7)
    assert (asked.protocol, asked.process, asked.sent, asked.via) == ("tcp", "nc", 6, "")
    assert os.readlink(f"/proc/{asked.pid}/ns/net") == os.readlink(
        f"/proc/{(await engine.container(client)).pid}/ns/net"
    )
    (answered,) = await engine.connections(["server"])
    assert (answered.remote, answered.local_port, answered.remote_port) == ("client", 7, asked.local_port)
    assert (answered.sent, answered.received, answered.process) == (6, 6, "cat")
    # Nobody named: those of all; what waits for callers is told when asked for.
    assert {one.container for one in await engine.connections()} == {server, client}
    waiting = [one for one in await engine.connections(["server"], all=True) if one.state == "listen"]
    assert [(one.local_port, one.process) for one in waiting] == [(7, "nc")]
    with pytest.raises(NotFound):
        await engine.connections(["nobody"])
    again = await until(engine, "client", state="established")
    assert again.key == asked.key
    assert again.time > asked.time
    # One that is over likewise.
    session = await engine.exec(client, ExecSpec(("timeout", "1", "nc", ip, "7")))
    await asyncio.wait_for(session.wait(), patience(20))
    await session.close()
    async with asyncio.timeout(patience(20)):
        while "time-wait" not in [one.state for one in await engine.connections(all=True)]:
            await asyncio.sleep(0.02)
    assert "time-wait" not in [one.state for one in await engine.connections()]


async def test_callers_of_published_ports_are_shown_as_they_are(
    engine: Engine, busybox_image: str, outside: int
) -> None:
    await engine.create_network(WEB)
    box = await up(engine, busybox_image, "server", ECHO, PortMapping(7))
    await listening(engine, "server", 7)
    port = (await engine.container(box)).ports[0].host_port
    with talk("127.0.0.1", port) as peer:
        one = await until(engine, "server", received=1000)
        assert (one.remote, one.remote_ip, one.remote_port) == ("host", "127.0.0.1", peer.getsockname()[1])
        assert (one.via, one.sent) == (f"127.0.0.1:{port}", 1000)
    held, tell = os.pipe()
    pid = os.fork()
    if pid == 0:  # the machine outside
        try:
            netns.enter(outside)
            with talk(UPLINK, port, b"y" * 500):
                os.read(held, 1)
        finally:
            os._exit(0)
    try:
        one = await until(engine, "server", received=500)
        assert (one.remote, one.remote_ip, one.via) == ("", OUTSIDE, f"{UPLINK}:{port}")
    finally:
        os.write(tell, b"!")
        os.waitpid(pid, 0)
        os.close(held)
        os.close(tell)


async def test_what_a_container_began_outside(engine: Engine, busybox_image: str, outside: int) -> None:
    """The address that it has there; of UDP the bytes, where the host counts."""
    Path("/proc/sys/net/netfilter/nf_conntrack_acct").write_text("1")
    await engine.create_network(WEB)
    subprocess.run(("ip", "route", "add", "default", "via", OUTSIDE), check=True)
    server = Server(outside, "dns", 53)
    try:
        await up(engine, busybox_image, "client", f"while :; do nslookup a.test {OUTSIDE}; sleep 0.2; done")
        one = await until(engine, "client", protocol="udp", remote_ip=OUTSIDE, state="answered")
    finally:
        server.close()
    assert one.remote_port == 53
    assert one.via.startswith(f"{UPLINK}:")
    # A question for a.test: 24 bytes, and headers of 28.
    assert one.sent
    assert one.sent % 52 == 0
    assert one.received


async def test_without_inet_diag_there_is_proc(engine: Engine, busybox_image: str) -> None:
    """The two readers agree about the sockets of a container."""
    await engine.create_network(WEB)
    cid = await up(engine, busybox_image, "server", ECHO + " & httpd -p 127.0.0.1:8; wait")
    for port in (7, 8):
        await listening(engine, "server", port)
    pid = (await engine.container(cid)).pid

    def both() -> tuple[set[sockdiag.Socket], set[sockdiag.Socket]]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waiting:
            waiting.bind(("", 9))
            return compare()

    def compare() -> tuple[set[sockdiag.Socket], set[sockdiag.Socket]]:
        plain = {one._replace(sent=None, received=None, waiting=0, room=0) for one in sockdiag.sockets()}
        return plain, set(sockets.from_proc())

    diag, proc = await asyncio.to_thread(netns.within, pid, both)
    assert diag == proc
    assert {("tcp", 7), ("tcp", 8), ("udp", 9)} <= {(one.protocol, one.local_port) for one in diag}


async def test_the_hosts_network_shows_its_own_sockets_only(engine: Engine, busybox_image: str) -> None:
    await up(engine, busybox_image, "server", "nc -ll -p 7077 -e cat", network="host")
    await listening(engine, "server", 7077)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        found = await engine.connections(["server"], all=True)
        assert [(one.local_port, one.process) for one in found] == [(7077, "nc")]


async def test_who_shares_a_network_shows_its_own_sockets_only(engine: Engine, busybox_image: str) -> None:
    await engine.create_network(WEB)
    owner = await up(engine, busybox_image, "owner", ECHO)
    for name, port, pid in (("guest", 8, "private"), ("bare", 9, "host")):
        spec = ContainerSpec(
            busybox_image, name, ("nc", "-ll", "-p", str(port), "-e", "cat"), network=f"container:{owner}", pid=pid
        )
        await engine.start((await engine.create(spec)).id)
        await listening(engine, name, port)
        assert [one.local_port for one in await engine.connections([name], all=True)] == [port]
    found = await engine.connections(["owner"], all=True)
    assert sorted((one.local_port, one.process) for one in found) == [(7, "nc"), (8, "nc"), (9, "nc")]


async def test_counters_of_interfaces_are_the_containers(engine: Engine, busybox_image: str) -> None:
    await engine.create_network(WEB)
    await engine.create_network(NetworkSpec("back", subnets=(Subnet("10.89.9.0/24"),)))
    both = (EndpointSpec("web"), EndpointSpec("back"))
    spec = ContainerSpec(busybox_image, "server", ("sh", "-c", ECHO), network="web", networks=both)
    box = await engine.start((await engine.create(spec)).id)
    await listening(engine, "server", 7)
    before = {one.network: one for one in await engine.interfaces()}
    assert [(one.name, one.host) for one in before.values()] == [(end.name, end.interface) for end in box.endpoints]
    with talk(box.endpoints[1].ip, 7, b"z" * 50_000):
        pass
    now = {one.network: one for one in await engine.interfaces(["server"])}
    assert now["back"].rx_bytes - before["back"].rx_bytes > 50_000
    assert now["back"].tx_bytes - before["back"].tx_bytes > 50_000
    assert now["web"].rx_bytes - before["web"].rx_bytes < 10_000
    # As the container itself reads them, when all of it has arrived.
    async with asyncio.timeout(patience(20)):
        while _counted(box.pid, "eth1") != (now["back"].rx_bytes, now["back"].rx_packets, now["back"].tx_bytes):
            now = {one.network: one for one in await engine.interfaces()}


def _counted(pid: int, name: str) -> tuple[int, int, int]:
    """Bytes and packets received, bytes sent: proc_pid_net(5)."""
    words = next(line.split() for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines() if f"{name}:" in line)
    return int(words[1]), int(words[2]), int(words[9])


async def test_the_map(engine: Engine, busybox_image: str) -> None:
    await engine.create_network(WEB)
    web = await up(
        engine, busybox_image, "server", "sleep 1000", PortMapping(80), PortMapping(53, 0, "udp", "127.0.0.1")
    )
    await up(engine, busybox_image, "guest", "sleep 1000", network=f"container:{web}")
    await up(engine, busybox_image, "alone", "sleep 1000", network="none")
    await engine.create(ContainerSpec(busybox_image, "idle", ("true",), network="web", ports=(PortMapping(81, 8081),)))
    found = {one.network.name: one for one in await engine.network_map()}
    assert [place.name for place in found["web"].places] == ["server", "guest", "idle"]
    server, guest, idle = found["web"].places
    assert server.endpoint
    assert server.endpoint.ip == (await engine.container(web)).endpoints[0].ip
    assert {one.port.container_port for one in server.ports} == {80, 53}
    assert {one.port.container_port: one.reach.scope for one in server.ports if one.reach}[53] == "host"
    assert guest.shares == "server"
    assert (idle.state, idle.endpoint, [one.port.host_port for one in idle.ports]) == (State.CREATED, None, [8081])
    assert [place.name for place in found["none"].places] == ["alone"]


async def test_on_the_command_line(wharf: Wharf, engine: Engine) -> None:
    """Every line fits into 80 columns."""
    wharf.env = {**wharf.env, "COLUMNS": "80"}
    await wharf.ok("network", "create", "--subnet", "10.89.8.0/24", "web")
    await wharf.background("a-server-with-a-long-name", "--network", "web", "-p", "7", script=ECHO)
    await wharf.background("client", "--network", "name=web,alias=db")
    await listening(engine, "a-server-with-a-long-name", 7)
    box = await engine.container("a-server-with-a-long-name")
    with talk("127.0.0.1", box.ports[0].host_port):
        await until(engine, box.id, received=1000)
        text = await wharf.ok("network", "conn", "a-server-with-a-long-name")
        head, line = text.splitlines()
        assert head.split() == ["LOCAL", "REMOTE", "STATE", "PROCESS", "SENT", "RCVD"]
        assert re.fullmatch(r"7/tcp +host:\d+ +established +cat/\d+ +1kB +1kB", line)
        listed = await wharf.ok("network", "connections", "-a", "--format", "{{.Name}} {{.Local}} {{.State}} {{.Via}}")
        assert f"{box.name} {box.endpoints[0].ip}:7 established 127.0.0.1:{box.ports[0].host_port}\n" in listed
        assert f"{box.name} *:7 listen \n" in listed
    shown = [line.split()[0] for line in (await wharf.ok("network", "--help")).splitlines() if line.startswith("  ")]
    assert {"ls", "rm", "connections", "inspect"} < set(shown)
    texts = [
        await wharf.ok("network", "stats", "--no-stream"),
        await wharf.ok("network", "connections", "--all"),
        await wharf.ok("network", "map"),
    ]
    assert "NAME             NETWORK  IFACE  RX/S  TX/S" in texts[0]
    assert f"└─ *:{box.ports[0].host_port} → 7/tcp" in texts[2]
    assert "db" in texts[2]
    for text in texts:
        assert all(len(row) <= 80 for row in text.splitlines()), text
    assert json.loads(await wharf.ok("network", "map", "--format", "json", "web"))[0]["network"]["name"] == "web"


async def test_rates_on_the_command_line(wharf: Wharf, engine: Engine) -> None:
    await wharf.background("server", "-p", "7", script=ECHO)
    await listening(engine, "server", 7)
    port = (await engine.container("server")).ports[0].host_port
    over = threading.Event()

    def send() -> None:
        while not over.is_set():
            with talk("127.0.0.1", port, b"x" * 20_000):
                over.wait(0.05)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with talk("127.0.0.1", port) as kept:
            rates = await wharf.ok("network", "stats", "--no-stream", "--format", "{{.RxRate}} {{.TxRate}}", "server")
            assert all(re.fullmatch(r"[0-9.]+(kB|MB)", word) for word in rates.split()), rates
            form = "{{.Remote}} {{.ReceivedRate}} {{.SentRate}}"
            process = await wharf.start("network", "connections", "--watch", "--format", form, "server")
            assert process.stdout
            wanted = f"host:{kept.getsockname()[1]} "
            async with asyncio.timeout(patience(20)):
                while True:
                    kept.sendall(b"x" * 5000)
                    line = (await process.stdout.readline()).decode()
                    if line.startswith(wanted) and "--" not in line and " 0B" not in line:
                        break
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
    finally:
        over.set()
        await asyncio.to_thread(sender.join)


async def test_check_on_the_command_line(wharf: Wharf, inst: Instance) -> None:
    wharf.env = {**wharf.env, "COLUMNS": "80"}
    await wharf.ok("network", "create", "--subnet", "10.89.8.0/24", "web")
    await wharf.background("box", "--network", "web", "-p", "127.0.0.1:8080:80")
    done = await wharf("network", "check", "web")
    assert (done.code, done.err) == (1, "")
    assert all(len(row) <= 80 for row in done.out.splitlines())
    assert "first broken: container box, port 127.0.0.1:8080/tcp: nothing listens on 80/tcp" in done.out
    assert "fix: Is the program up? wharf logs box" in done.out
    with keeper_held(inst):
        subprocess.run(("nft", "flush", "ruleset"), check=True)
        quiet = (await wharf("network", "check", "-q", "web")).out
        assert quiet.startswith("network web\n  broken   firewall ")
        assert (
            "firewall             our nftables table is whole"
            in (await wharf("network", "check", "--repair", "web")).out
        )
    steps = json.loads((await wharf("network", "check", "--format", "json", "box")).out)
    assert {step["status"] for step in steps} <= {"ok", "warning", "broken", "skipped"}
    assert (await wharf("network", "check", "none")).code == 0
    gone = await wharf("network", "check", "nowhere")
    assert (gone.code, gone.err.count("\n")) == (1, 1)
