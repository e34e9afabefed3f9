"""The userland proxy: of itself, and for ``[::1]`` of this host, which the kernel cannot translate."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.engine import Engine
from core.model import ContainerSpec, EndpointSpec, NetworkSpec, PortMapping, RestartPolicy
from core.store.paths import Instance
from core.supervise import proxy, proxy_udp
from core.supervise.protocol import send
from tests.engine.test_crash import state_of
from tests.engine.test_lifecycle import until
from tests.patience import patience
from tests.ports import free_port
from tests.world import assert_world

pytestmark = pytest.mark.real
ECHO = ("nc", "-ll", "-p", "7000", "-e", "cat")


class Serving:
    """A proxy in a thread, with a server behind it."""

    def __init__(self) -> None:
        self.line, theirs = socket.socketpair()
        self.server = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=proxy.serve, args=(theirs,))
        self._thread.start()
        self.port = self.listen("tcp", self.server.getsockname()[1])

    def listen(self, protocol: str, target: int, *before: int) -> int:
        """Have the proxy listen on a new port, and on no other.

        :param before: ports of ::1 that it is to try first
        """
        targets = [*(["::1", port] for port in before), ["127.0.0.1", target]]
        order: proxy.Order = {
            "name": "one",
            "protocol": protocol,
            "bind": ["127.0.0.1", 0],
            "target": targets[0],
            "or": targets[1:],
        }
        with proxy.bound(order) as made:
            if protocol == "tcp":
                made.listen(1024)  # who is faster than the proxy waits for it
            send(self.line, {"ports": [order], "given": ["one"]}, [made.fileno()])
            return int(made.getsockname()[1])

    def call(self) -> tuple[socket.socket, socket.socket]:
        """Both ends of a new connection."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=patience(20))
        self.server.settimeout(patience(20))
        far = self.server.accept()[0]
        far.settimeout(patience(20))
        return client, far

    def close(self) -> None:
        self.line.close()
        self._thread.join(patience(20))
        self.server.close()
        self.datagrams.close()
        assert not self._thread.is_alive(), "a proxy outlives its line"


@pytest.fixture
def serving() -> Iterator[Serving]:
    made = Serving()
    yield made
    made.close()


def receive(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(1 << 20), b""))


def test_both_ways_at_once_and_a_half_closed_connection(serving: Serving) -> None:
    client, far = serving.call()
    there, back = os.urandom(8 << 20), os.urandom(8 << 20)
    with client, far:

        def send_all(sock: socket.socket, data: bytes) -> None:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

        got: dict[socket.socket, bytes] = {}
        senders = [threading.Thread(target=send_all, args=pair) for pair in ((client, there), (far, back))]
        readers = [threading.Thread(target=lambda s=s: got.update({s: receive(s)})) for s in (client, far)]  # type: ignore[misc]
        for thread in senders + readers:
            thread.start()
        for thread in senders + readers:
            thread.join(patience(60))
        assert (got[far], got[client]) == (there, back)
    client, far = serving.call()
    with client, far:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert receive(far) == b"question"
        time.sleep(0.05)
        far.sendall(b"answer")
        far.shutdown(socket.SHUT_WR)
        assert receive(client) == b"answer"


def test_who_does_not_read_is_not_read_from(serving: Serving) -> None:
    client, far = serving.call()
    with client, far:
        client.setblocking(False)
        sent, quiet = 0, 0
        while quiet < 20:
            try:
                sent += client.send(bytes(1 << 16))
                quiet = 0
            except BlockingIOError:
                quiet += 1
                time.sleep(0.02)
        assert sent < 64 << 20, "the proxy takes in what nobody takes out"
        client.settimeout(patience(20))
        threading.Thread(target=client.shutdown, args=(socket.SHUT_WR,)).start()
        assert len(receive(far)) == sent


def test_a_reset_is_passed_on_and_a_refusal_too(serving: Serving) -> None:
    client, far = serving.call()
    with far:
        client.sendall(b"x")
        assert far.recv(1) == b"x"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        with pytest.raises(ConnectionResetError):
            far.recv(1)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = serving.listen("tcp", nobody.getsockname()[1])
        with (
            pytest.raises(ConnectionResetError),
            socket.create_connection(("127.0.0.1", port), timeout=patience(20)) as refused,
        ):
            refused.recv(1)


def test_who_is_refused_goes_to_the_next_address(serving: Serving) -> None:
    with (
        socket.socket(socket.AF_INET6) as shut,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as silent,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        for sock in (shut, silent):
            sock.bind(("::1", 0))
        one, other = shut.getsockname()[1], silent.getsockname()[1]
        serving.port = serving.listen("tcp", serving.server.getsockname()[1], one, one)
        mine, far = serving.call()
        with mine, far:
            mine.sendall(b"question")
            assert far.recv(100) == b"question"
            far.sendall(b"answer")
            assert mine.recv(100) == b"answer"
        silent.close()  # nobody has its port now
        serving.datagrams.settimeout(patience(20))
        client.settimeout(patience(20))
        client.connect(("127.0.0.1", serving.listen("udp", serving.datagrams.getsockname()[1], other)))
        for word in (b"one", b"two"):
            client.send(word)
            asked, caller = serving.datagrams.recvfrom(100)
            serving.datagrams.sendto(b"of " + asked, caller)
            assert client.recv(100) == b"of " + word
        # Where nobody listens, it is refused as ever, and no datagram goes round and round.
        serving.datagrams.close()
        client.send(b"three")
        port = serving.listen("tcp", one, one)
        with (
            pytest.raises(ConnectionResetError),
            socket.create_connection(("127.0.0.1", port), timeout=patience(20)) as refused,
        ):
            refused.recv(1)


def test_a_thousand_connections_and_no_descriptor_left(serving: Serving) -> None:
    before = len(os.listdir("/proc/self/fd"))
    calls = [serving.call() for _ in range(1000)]
    for number, (client, far) in enumerate(calls):
        client.sendall(b"%d" % number)
        assert far.recv(10) == b"%d" % number
    # Quiet connections hold two descriptors in the proxy, and two are ours.
    assert len(os.listdir("/proc/self/fd")) - before < 4 * 1000 + 100
    for client, far in calls:
        client.close()
        assert far.recv(1) == b""
        far.close()
    limit = time.monotonic() + patience(20)
    while len(os.listdir("/proc/self/fd")) > before + 40:  # some empty pipes are kept for the next ones
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_datagrams_of_many_clients(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_udp, "MOST", 50)
    port = serving.listen("udp", serving.datagrams.getsockname()[1])
    serving.datagrams.settimeout(patience(20))
    with contextlib.ExitStack() as stack:
        peers = []
        for number in range(60):
            client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            client.connect(("127.0.0.1", port))
            client.settimeout(patience(20))
            client.send(b"%d" % number)
            data, peer = serving.datagrams.recvfrom(100)
            assert data == b"%d" % number
            peers.append((client, peer))
        assert len({peer for _, peer in peers[10:]}) == 50
        for number, (client, peer) in enumerate(peers[10:]):
            serving.datagrams.sendto(b"%d" % number, peer)
            assert client.recv(100) == b"%d" % number
        # The first ten had to make room.
        serving.datagrams.sendto(b"late", peers[0][1])
        peers[0][0].settimeout(0.3)
        with pytest.raises(TimeoutError):
            peers[0][0].recv(100)


# -- in an engine
async def says(port: int, host: str = "::1", word: str = "hello") -> str:
    try:
        async with asyncio.timeout(patience(10)):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(f"{word}\n".encode())
            answer = (await reader.readline()).decode().strip()
            writer.close()
            return answer
    except (OSError, TimeoutError):
        return ""


async def until_it_says(port: int, wanted: str = "hello", host: str = "::1") -> None:
    limit = time.monotonic() + patience(30.0)
    while await says(port, host) != wanted:
        assert time.monotonic() < limit, f"[{host}]:{port} does not say {wanted!r}"
        await asyncio.sleep(0.05)


def proxies(cid: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(b"wharf-proxy " + cid.encode()):
                found.append(int(path.parent.name))
    return found


async def test_a_port_on_all_addresses_is_on_that_of_localhost_too(
    engine: Engine, busybox_image: str, inst: Instance
) -> None:
    port, more, six = free_port(), free_port(), free_port()
    ports = (PortMapping(7000, port), PortMapping(7000, six, host_ip="::1"))
    box = await engine.create(ContainerSpec(busybox_image, command=ECHO, ports=ports))
    await engine.start(box.id)
    await until_it_says(port, host="127.0.0.1")
    assert not proxies(box.id)  # nobody has called by ::1
    await until_it_says(port)
    await until_it_says(six)
    assert await says(port, "127.0.0.1") == "hello"
    answering = {found.port.host_port: found.addresses for found in await engine.reach([box.id])}
    assert "::1 (lo)" in answering[port]
    assert answering[six] == ("::1 (lo)",)
    (first,) = proxies(box.id)
    await engine.publish_ports(box.id, (PortMapping(7000, more),))
    await until_it_says(more)
    await engine.unpublish_ports(box.id, (PortMapping(0, port),))
    await until_it_says(port, "")
    os.kill(first, signal.SIGKILL)
    await until_it_says(more)
    assert proxies(box.id) != [first]
    # To another network: where the ports lead to is told to the one that runs.
    await engine.create_network(NetworkSpec("other"))
    await engine.connect(box.id, EndpointSpec("other"))
    await engine.disconnect("bridge", box.id)
    await until_it_says(more)
    await engine.stop(box.id, timeout=0)
    assert not proxies(box.id)
    await engine.start(box.id)
    await until_it_says(more)
    await engine.remove(box.id, force=True)
    assert not proxies(box.id)
    await engine.remove_network("other")
    assert_world(inst)


async def test_a_neighbour_on_localhost_keeps_its_port(engine: Engine, busybox_image: str, inst: Instance) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as theirs:
        port = int(theirs.getsockname()[1])
        box = await engine.create(ContainerSpec(busybox_image, command=ECHO, ports=(PortMapping(7000, port),)))
        await engine.start(box.id)
        await until_it_says(port, host="127.0.0.1")
        theirs.settimeout(patience(20))
        with socket.create_connection(("::1", port)), theirs.accept()[0] as met:
            assert met.getpeername()[0] == "::1"
        await engine.remove(box.id, force=True)
    assert_world(inst)


@pytest.mark.parametrize("killed", ["pid", "monitor_pid"])
@pytest.mark.parametrize("called", [False, True])
async def test_a_port_of_localhost_outlives_a_restart_by_policy_and_the_monitor(
    engine: Engine, busybox_image: str, inst: Instance, killed: str, called: bool
) -> None:
    """Whether its proxy was there already or not."""
    port = free_port()
    spec = ContainerSpec(busybox_image, command=ECHO, ports=(PortMapping(7000, port),), restart=RestartPolicy("always"))
    cid = (await engine.start((await engine.create(spec)).id)).id
    if called:
        await until_it_says(port)
    before = proxies(cid)
    assert len(before) == called
    first = state_of(inst, cid)[killed]
    os.kill(first, signal.SIGKILL)

    async def another() -> bool:
        with contextlib.suppress(ValueError, FileNotFoundError):
            return state_of(inst, cid)[killed] not in (0, first)
        return False

    await until(another)
    await until_it_says(port)
    assert len(proxies(cid)) == 1
    if called:
        assert proxies(cid) == before
    await engine.remove(cid, force=True)
    assert not proxies(cid)


async def test_localhost_of_a_container_with_ipv6(engine: Engine, busybox_image: str, inst: Instance) -> None:
    """Its other IPv6 addresses are translated; ::1 cannot be, and what the table has for all must not try."""
    port = free_port()
    await engine.create_network(NetworkSpec("both", ipv6=True))
    spec = ContainerSpec(busybox_image, command=ECHO, ports=(PortMapping(7000, port),), network="both")
    box = await engine.start((await engine.create(spec)).id)
    assert not proxies(box.id)
    await until_it_says(port)
    await engine.remove(box.id, force=True)
    # A server that is on IPv4 alone is found there; with one that is on neither, callers are cut off.
    four = ("httpd", "-f", "-p", "0.0.0.0:7000")
    box = await engine.start((await engine.create(replace(spec, command=four))).id)
    await until_it_says(port, "HTTP/1.1 400 Bad Request")
    await engine.remove(box.id, force=True)
    box = await engine.start((await engine.create(replace(spec, command=("sleep", "1000")))).id)
    with pytest.raises(ConnectionResetError), socket.create_connection(("::1", port), timeout=patience(20)) as refused:
        refused.recv(1)
    await engine.remove(box.id, force=True)
    await engine.remove_network("both")
    assert_world(inst)
