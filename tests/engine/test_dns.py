"""The resolver in its place: in a container's network namespace, served by its monitor, whoever is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.dns import ADDRESS, sockets
from core.dns.server import Server
from core.dns.zone import Zone
from core.engine import Engine
from core.kernel import netns
from core.local import LocalEngine
from core.model import ContainerSpec, EndpointSpec, NetworkSpec, RestartPolicy
from core.store.paths import Instance
from core.supervise import client
from core.supervise.loop import Loop
from tests.dnslab import CID, Names, over_tcp, over_udp, question, read
from tests.engine.netlab import run_inside
from tests.engine.test_crash import launcher, state_of
from tests.engine.test_lifecycle import sleeper, until
from tests.patience import patience
from tests.world import open_files

RESOLVER = (ADDRESS, 53)


@pytest.fixture
def namespace() -> Iterator[int]:
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces and nftables")
    with netns.fresh() as fd:
        subprocess.run(("ip", "link", "set", "lo", "up"), check=True)
    yield fd
    os.close(fd)


@contextlib.contextmanager
def served(names: Names, udp: socket.socket, tcp: socket.socket) -> Iterator[None]:
    loop, (ours, theirs) = Loop(), socket.socketpair()
    server = Server(loop, udp, tcp, Zone(names.run, CID))
    loop.watch(theirs.fileno(), lambda events: loop.stop())
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield
    finally:
        ours.close()
        thread.join()
        server.close()
        loop.close()
        for sock in (udp, tcp, theirs):
            sock.close()


def ask(name: str, seconds: float = 10.0) -> list[list[str]]:
    """Over UDP and TCP."""
    packet, limit = question(name), patience(seconds)
    return [over_udp(RESOLVER, packet, limit).values, over_tcp(RESOLVER, packet, timeout=limit)[0].values]


def ask_beside_own_server() -> object:
    """The container has a server of its own on port 53, on every address; both answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        udp.bind(("", 53))
        tcp.bind(("", 53))
        tcp.listen()
        udp.settimeout(patience(10))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.sendto(b"mine", ("127.0.0.1", 53))
            mine = udp.recv(100).decode()
        return [mine, ask("db")]


def listed() -> str:
    return subprocess.run(("nft", "list", "ruleset"), capture_output=True, text=True, check=True).stdout


def test_a_namespace_gets_sockets(namespace: int, tmp_path: Path) -> None:
    names = Names(tmp_path)
    names.network("back", {"db": ["172.28.0.2"]})
    names.container("back")
    with served(names, *sockets.open_sockets(namespace)):
        # The answer comes from the address that was asked: over_udp() has a connected socket.
        assert run_inside(namespace, ask, "db") == [["172.28.0.2"]] * 2
        assert run_inside(namespace, ask_beside_own_server) == ["mine", [["172.28.0.2"]] * 2]
    assert run_inside(namespace, ask, "db") == "error:ConnectionRefusedError"
    with served(names, *sockets.open_sockets(namespace)):
        assert run_inside(namespace, ask, "db") == [["172.28.0.2"]] * 2
        inside = run_inside(namespace, listed)
        assert inside.count(f"ip daddr {ADDRESS} udp dport 53 dnat") == 1
        assert inside.count(f"ip daddr {ADDRESS} tcp dport 53 dnat") == 1
    assert ADDRESS not in listed()  # nothing of it on the host


def test_sockets_that_cannot_be_made_leave_nothing(namespace: int) -> None:
    before = open_files()
    with open("/proc/self/ns/uts") as file, pytest.raises(OSError, match="Invalid argument"):
        sockets.open_sockets(file.fileno())
    assert not open_files() - before
    assert "table" not in run_inside(namespace, listed)


async def ask_inside(inst: Instance, cid: str, name: str, seconds: float = 10.0) -> object:
    fd = netns.of_process(state_of(inst, cid)["pid"])
    try:
        return await asyncio.to_thread(run_inside, fd, ask, name, seconds, seconds=int(patience(3 * seconds)))
    finally:
        os.close(fd)


async def resolving(engine: Engine, image: str, **fields: object) -> tuple[str, list[list[str]]]:
    """A container called ``db`` that came to a network while it ran, so that its monitor has made the sockets; and what
    they say of that name."""
    await engine.create_network(NetworkSpec("back"))
    spec = ContainerSpec(image, name="db", command=("sleep", "1000"), **fields)  # type: ignore[arg-type]
    cid = (await engine.start((await engine.create(spec)).id)).id
    box = await engine.connect(cid, EndpointSpec("back"))
    return cid, [[box.endpoints[1].ip]] * 2


async def replaced(inst: Instance, cid: str, first: int) -> None:
    async def done() -> bool:
        with contextlib.suppress(ValueError, FileNotFoundError):
            return state_of(inst, cid)["monitor_pid"] != first
        return False

    await until(done)


async def test_monitor_killed(engine: Engine, busybox_image: str, inst: Instance) -> None:
    cid, good = await resolving(engine, busybox_image)
    assert await ask_inside(inst, cid, "db") == good
    await client.resolve(inst, cid)  # a second time does nothing
    for _ in range(2):
        first = state_of(inst, cid)["monitor_pid"]
        os.kill(first, signal.SIGKILL)
        # At once: the sockets live on with the launcher, and what is asked meanwhile waits there.
        assert await ask_inside(inst, cid, "db") == good
        await replaced(inst, cid, first)
        assert await ask_inside(inst, cid, "db") == good
    await engine.stop(cid, timeout=0.2)


async def test_launcher_killed(engine: Engine, busybox_image: str, inst: Instance) -> None:
    cid, good = await resolving(engine, busybox_image)
    os.kill(launcher(inst, cid), signal.SIGKILL)
    assert await ask_inside(inst, cid, "db") == good
    await sleeper(engine, busybox_image)  # there is another launcher now, which has asked for copies
    first = state_of(inst, cid)["monitor_pid"]
    os.kill(first, signal.SIGKILL)
    assert await ask_inside(inst, cid, "db") == good
    await replaced(inst, cid, first)
    assert await ask_inside(inst, cid, "db") == good


async def test_launcher_and_monitor_killed(engine: Engine, busybox_image: str, inst: Instance) -> None:
    cid, good = await resolving(engine, busybox_image)
    first = state_of(inst, cid)["monitor_pid"]
    pids = [launcher(inst, cid), first]
    await engine.close()  # all engines too
    for pid in pids:
        os.kill(pid, signal.SIGKILL)

    async def deaf() -> bool:  # the sockets go with the last of the two that dies
        return await ask_inside(inst, cid, "db", 2) == "error:ConnectionRefusedError"

    await until(deaf)
    again = await LocalEngine.open(inst.root, inst.run)
    try:
        await replaced(inst, cid, first)
        assert await ask_inside(inst, cid, "db") == good
        await again.remove(cid, force=True)
    finally:
        await again.close()


async def test_restart_by_policy(engine: Engine, busybox_image: str, inst: Instance) -> None:
    """The next run has the same namespace, and the same resolver in it."""
    cid, good = await resolving(engine, busybox_image, restart=RestartPolicy("always"))
    first = state_of(inst, cid)["pid"]
    os.kill(first, signal.SIGKILL)

    async def again() -> bool:
        return state_of(inst, cid)["pid"] not in (0, first)

    await until(again)
    assert await ask_inside(inst, cid, "db") == good


def ask_at_once(name: str, pid: int) -> int:
    """A thousand questions to a process that is stopped meanwhile. :returns: the answers"""
    os.kill(pid, signal.SIGSTOP)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)  # SO_RCVBUFFORCE
            sock.settimeout(patience(5))
            sock.connect(RESOLVER)
            for number in range(1000):
                sock.send(question(name, number=number))
        finally:
            os.kill(pid, signal.SIGCONT)
        heard = set()
        with contextlib.suppress(TimeoutError):
            while len(heard) < 1000:
                heard.add(sock.recv(1000)[:2])
        return len(heard)


async def test_questions_wait_for_a_monitor_that_has_no_processor(
    engine: Engine, busybox_image: str, inst: Instance
) -> None:
    cid, _ = await resolving(engine, busybox_image)
    fd, state = netns.of_process(state_of(inst, cid)["pid"]), state_of(inst, cid)
    assert await asyncio.to_thread(run_inside, fd, ask_at_once, "db", state["monitor_pid"]) == 1000
    os.close(fd)
    await engine.remove(cid, force=True)


def ask_steadily(rate: int, stop: int, words: list[str]) -> dict[str, int]:
    """``rate`` questions a second, one word after another, until the descriptor is readable. Nothing is asked twice.

    :returns: how many were ``asked`` and ``answered``, and of the last word how many had an address (``found``)
    """
    packets = [question(word) for word in words]
    asked, number, found, answered = 0, 0, 0, set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, select.epoll() as poll:
        sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)  # SO_RCVBUFFORCE
        sock.connect(RESOLVER)
        for fd in (sock.fileno(), stop):
            poll.register(fd, select.EPOLLIN)
        begun, end = time.monotonic(), 0.0
        while not end or (len(answered) < asked and time.monotonic() < end):
            due = int((time.monotonic() - begun) * rate) if not end else asked
            for _ in range(min(due - asked, 50)):  # after a moment without a processor: not all at once
                sock.send(asked.to_bytes(4, "big")[2:] + packets[asked % len(packets)][2:])
                asked += 1
            begun = max(begun, time.monotonic() - (asked + 50) / rate)
            for fd, _ in poll.poll(1 / rate):
                if fd == stop and not end:
                    poll.unregister(stop)
                    end = time.monotonic() + patience(5)
                elif fd == sock.fileno():
                    data = sock.recv(1000)
                    # The id has 16 bits: it is one of the last 65,536 that were asked.
                    number = asked - 1 - (asked - 1 - int.from_bytes(data[:2], "big")) % 65536
                    answered.add(number)
                    found += number % len(packets) == len(packets) - 1 and bool(read(data).values)
    return {"asked": asked, "answered": len(answered), "found": found}


async def test_no_answer_is_lost_while_others_come_and_go(engine: Engine, busybox_image: str, inst: Instance) -> None:
    """A thousand questions a second while a hundred containers of the network start and stop; each of those asks too,
    with its first breath."""
    await engine.create_network(NetworkSpec("back", internal=True))
    spec = ContainerSpec(busybox_image, network="back")
    boxes = [
        (await engine.start((await engine.create(replace(spec, name=name, command=("sleep", "1000")))).id)).id
        for name in ("asker", "steady")
    ]
    gate, few = socket.socketpair(), asyncio.Semaphore(8)

    async def one(number: int) -> int:
        async with few:
            command = ("sh", "-c", "nslookup steady && exec sleep 0.2")
            box = await engine.create(replace(spec, name=f"b{number}", command=command))
            await engine.start(box.id)
            code = await engine.wait(box.id)
            await engine.remove(box.id)
            return code

    fd = netns.of_process(state_of(inst, boxes[0])["pid"])
    words = ["b3", "b77", "steady.back", "steady"]
    asking = asyncio.create_task(asyncio.to_thread(ask_inside_for_long, fd, gate[1].fileno(), words))
    async with asyncio.timeout(patience(120)):
        codes = await asyncio.gather(*(one(number) for number in range(100)))
    gate[0].send(b"!")  # not closed: the child has a copy
    result = await asking
    os.close(fd)
    for end in gate:
        end.close()
    assert isinstance(result, dict), result
    assert codes == [0] * 100
    assert result["answered"] == result["asked"] > 1000, result
    assert result["found"] == result["asked"] // 4, result
    for cid in boxes:
        await engine.remove(cid, force=True)


def ask_inside_for_long(namespace: int, stop: int, words: list[str]) -> dict[str, int]:
    return run_inside(namespace, ask_steadily, 1000, stop, words, seconds=int(patience(150)))  # type: ignore[no-any-return]


def flood(seconds: float) -> int:
    """Questions for other names, as fast as they can be sent. :returns: how many"""
    number, end = 0, time.monotonic() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(RESOLVER)
        while time.monotonic() < end:
            number += 1
            with contextlib.suppress(OSError):
                sock.send(question(f"n{number}.example.com", number=number & 0xFFFF))
    return number


async def test_a_container_that_asks_without_end_does_not_silence_its_monitor(
    engine: Engine, busybox_image: str, inst: Instance
) -> None:
    """Its output is logged, commands run in it, and its exit code is on record, with a server upstream that is mute."""
    mute = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    mute.bind((f"127.78.{os.getpid() // 250 % 250}.{1 + os.getpid() % 250}", 53))
    await engine.create_network(NetworkSpec("back"))
    script = "read go; seq 1 3000; sleep 1; exit 7"
    spec = ContainerSpec(
        busybox_image, command=("sh", "-c", script), network="back", dns=(mute.getsockname()[0],), stdin_open=True
    )
    box = await engine.start((await engine.create(spec)).id)
    session = await engine.attach(box.id)
    state = state_of(inst, box.id)
    fd = netns.of_process(state["pid"])
    flooding = asyncio.create_task(asyncio.to_thread(run_inside, fd, flood, 5.0))

    async def busy() -> bool:
        return len(os.listdir(f"/proc/{state['monitor_pid']}/fd")) > 900

    await until(busy)
    await session.write(b"go\n")
    assert await asyncio.wait_for(engine.wait(box.id), patience(20)) == 7
    assert [line.text async for line in engine.logs(box.id)] == [str(number) for number in range(1, 3001)]
    assert await flooding > 2000
    await session.close()
    mute.close()
    os.close(fd)
    await engine.remove(box.id)
