"""Names resolved inside a container: one client process with several questions under way, each with its own id."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time

from core.dns import ADDRESS
from core.engine import open_engine
from core.kernel import netns
from core.model import ContainerSpec, NetworkSpec
from core.store.paths import find_instance
from core.supervise import client
from tests.bench.measure import Row, turns
from tests.bench.place import BUSYBOX, Place, cpu_seconds, sh

QUERIES, WARM, AT_ONCE = 30_000, 2_000, 32
NAME = "bench-db"
NETWORK = "bench-names"


def _question(name: str) -> bytes:
    return struct.pack("!5H", 0x0100, 1, 0, 0, 0) + bytes([len(name)]) + name.encode() + b"\0\0\1\0\1"


def _client(pid: int) -> float:
    """Microseconds from one answer to the next, in the network namespace of a process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            namespace = netns.of_process(pid)
            netns.enter(namespace)
            os.write(writing, repr(_ask(QUERIES)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    if not told:
        raise RuntimeError("no answers came")
    return float(told)


def _ask(count: int) -> float:
    question, sent, answered, begun = _question(NAME), 0, 0, 0.0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect((ADDRESS, 53))
        while answered < WARM + count:
            while sent - answered < AT_ONCE:
                sock.send((sent & 0xFFFF).to_bytes(2, "big") + question)
                sent += 1
            data = sock.recv(512)
            if data[3] & 0xF or not data[7]:
                raise RuntimeError("not the answer")
            answered += 1
            if answered == WARM:
                begun = time.perf_counter()
        return (time.perf_counter() - begun) / count * 1e6


async def _start(place: Place) -> tuple[str, int, int]:
    """(id, pid, pid of the monitor) of a container on a network with names."""
    engine = await open_engine(place.wharf.root, place.wharf.run)
    try:
        await engine.create_network(NetworkSpec(NETWORK))
        box = await engine.create(ContainerSpec(BUSYBOX, command=("sleep", "1000"), name=NAME, network=NETWORK))
        pid = (await engine.start(box.id)).pid
        state = client.read_state(find_instance(place.wharf.root, place.wharf.run), box.id)
        if state is None:
            raise RuntimeError("the container does not run")
        return box.id, pid, state.monitor_pid
    finally:
        await engine.close()


async def _remove(place: Place, cid: str) -> None:
    engine = await open_engine(place.wharf.root, place.wharf.run)
    try:
        await engine.remove(cid, force=True)
        await engine.remove_network(NETWORK)
    finally:
        await engine.close()


def run(place: Place) -> list[Row]:
    """What one question takes, and what of it is the server's own time."""
    spent: list[float] = []
    cid, pid, monitor = asyncio.run(_start(place))

    def ours() -> float:
        before = cpu_seconds([monitor])
        took = _client(pid)
        spent.append((cpu_seconds([monitor]) - before) / (QUERIES + WARM) * 1e6)
        return took

    docker = place.docker.command
    try:
        sh(*docker("network", "create", NETWORK))
        sh(*docker("run", "-d", "--name", NAME, "--network", NETWORK, BUSYBOX, "sleep", "1000"))
        theirs = int(sh(*docker("inspect", "--format", "{{.State.Pid}}", NAME)))
        found = turns({"wharf": ours, "docker": lambda: _client(theirs)}, rounds=5)
    finally:
        with contextlib.suppress(RuntimeError):
            sh(*docker("rm", "-f", NAME))
            sh(*docker("network", "rm", NETWORK))
        asyncio.run(_remove(place, cid))
    rate, cpu = 1e6 / found["wharf"], sorted(spent)[len(spent) // 2]
    note = f"{rate:,.0f} names/s by one client, {AT_ONCE} at once; {cpu:.0f} µs of it are the monitor's CPU"
    return [Row("a container's name resolved inside another", "µs", found["wharf"], found["docker"], note=note)]
