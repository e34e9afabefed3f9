"""Networks: what a place on one costs, a published port, counters, and what goes through them.

All of it on a host of its own (a network namespace), so that dockerd may have its firewall there as everywhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from core.engine import open_engine
from core.kernel import netns
from core.model import ContainerSpec, EndpointSpec, NetworkSpec, PortMapping
from core.names import make_id
from core.net import Net
from core.store.db import Store
from core.store.paths import find_instance
from tests.bench.measure import Row, clock, turns
from tests.bench.place import BUSYBOX, Docker, Place, Wharf, sh, wait_for
from tests.imagemaker import busybox_archive
from tests.instance import end_instance

MANY, RANGE, BYTES, PORT = 100, 1000, "3G", 5201
PAUSE = 0.05  # seconds between two containers
UPLINK, OUTSIDE = "198.51.100.1", "198.51.100.2"  # TEST-NET-2 (RFC 5737)


@contextlib.contextmanager
def _host() -> Iterator[int]:
    """This thread, and the programs that it starts, on a host of their own; yields a neighbour's namespace."""
    home = netns.current()
    with netns.fresh() as host, netns.fresh() as other:
        pass
    netns.enter(host)
    try:
        sh("ip", "link", "set", "lo", "up")
        path = f"/proc/{os.getpid()}/fd/{other}"
        sh("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1", "netns", path)
        sh("ip", "address", "add", f"{UPLINK}/24", "dev", "up0")
        sh("ip", "link", "set", "up0", "up")
        for words in (("address", "add", f"{OUTSIDE}/24", "dev", "up1"), ("link", "set", "up1", "up")):
            sh("nsenter", f"--net={path}", "ip", *words)
        yield other
    finally:
        netns.enter(home)
        for fd in (home, host, other):
            os.close(fd)


# ─ what we do by ourselves ─


async def _mechanism(wharf: Wharf) -> dict[str, float]:
    """Milliseconds: attach (one after a pause, and one right after the other), publish, a range published, counters
    of many."""
    inst = find_instance(wharf.root, wharf.run)
    inst.prepare()
    store = Store.open(inst)
    net = Net(inst, store)
    spent: dict[str, list[float]] = {"attach": [], "at once": [], "publish": [], "range": [], "counters": []}
    held, boxes = [], []
    try:
        for n in range(MANY):
            if n == MANY // 2:
                net.watch()  # an engine that stays open has something ready by then
            if n >= MANY // 2:
                await asyncio.sleep(PAUSE)
            cid, begun = make_id(), time.perf_counter()
            made = await net.attach("bridge", cid)
            spent["attach" if n > MANY // 2 else "at once"].append(time.perf_counter() - begun)
            boxes.append((cid, made))
        for cid, made in boxes[:50]:
            begun = time.perf_counter()
            held.append(await net.publish(cid, [made.endpoint], [PortMapping(80)]))
            spent["publish"].append(time.perf_counter() - begun)
        cid, made = boxes[-1]
        ports = [PortMapping(1000 + n, 20000 + n) for n in range(RANGE)]
        begun = time.perf_counter()
        held.append(await net.publish(cid, [made.endpoint], ports))
        spent["range"].append((time.perf_counter() - begun) / RANGE)
        names = [made.endpoint.interface for _, made in boxes]
        for _ in range(50):
            begun = time.perf_counter()
            await net.counters(names)
            spent["counters"].append(time.perf_counter() - begun)
    finally:
        for published in held:
            published.close()
        for cid, made in boxes:
            os.close(made.netns_fd)
            await net.detach(cid)
        await net.close()
        store.close()
    return {name: statistics.median(values) * 1000 for name, values in spent.items()}


# ─ beside docker ─


class _Pair:
    """Two containers on one network, the first with a published port; by their processes."""

    def __init__(self, server: int, client: int, address: str, port: int) -> None:
        self.server, self.client, self.address, self.port = server, client, address, port


@contextlib.contextmanager
def _served(pid: int) -> Iterator[None]:
    """iperf3 listens in the network namespace of a process."""
    process = subprocess.Popen(
        ["nsenter", f"--net=/proc/{pid}/ns/net", "iperf3", "-s", "-p", str(PORT)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: f":{PORT:04X} " in Path(f"/proc/{pid}/net/tcp6").read_text(), "iperf3 does not listen")
        yield
    finally:
        process.terminate()
        process.wait()


def _transfer(path: str, address: str, port: int) -> float:
    """Seconds per gigabyte from a namespace to an address."""
    words = ("nsenter", f"--net={path}", "iperf3", "-c", address, "-p", str(port), "-n", BYTES, "-J")
    return 8e9 / float(json.loads(sh(*words))["end"]["sum_received"]["bits_per_second"])


def _flows(pair: _Pair, outside: str) -> tuple[float, float]:
    with _served(pair.server):
        near = _transfer(f"/proc/{pair.client}/ns/net", pair.address, PORT)
        return near, _transfer(outside, UPLINK, pair.port)


async def _ours(wharf: Wharf, archive: Path) -> _Pair:
    engine = await open_engine(wharf.root, wharf.run)
    try:
        async for _ in engine.load(archive):
            pass
        await engine.create_network(NetworkSpec("bench-net"))
        spec = ContainerSpec(BUSYBOX, command=("sleep", "1000"), network="bench-net")
        server = ContainerSpec(
            BUSYBOX, command=("sleep", "1000"), network="bench-net", ports=(PortMapping(PORT, PORT),), name="one"
        )
        first = await engine.start((await engine.create(server)).id)
        second = await engine.start((await engine.create(spec)).id)
        return _Pair(first.pid, second.pid, first.endpoints[0].ip, PORT)
    finally:
        await engine.close()


def _theirs(docker: Docker) -> _Pair:
    run = docker.command("run", "-d", "--network", "bench-net")
    sh(*docker.command("network", "create", "bench-net"))
    ids = [
        sh(*run, "-p", f"{PORT + 1}:{PORT}", BUSYBOX, "sleep", "1000").strip(),
        sh(*run, BUSYBOX, "sleep", "1000").strip(),
    ]
    seen = [docker.call("GET", f"/containers/{cid}/json") for cid in ids]
    address = seen[0]["NetworkSettings"]["Networks"]["bench-net"]["IPAddress"]
    return _Pair(seen[0]["State"]["Pid"], seen[1]["State"]["Pid"], address, PORT + 1)


async def _reconnect(wharf: Wharf) -> list[float]:
    """Milliseconds of ``network connect`` of a running container."""
    engine = await open_engine(wharf.root, wharf.run)
    took = []
    try:
        for _ in range(10):
            begun = time.perf_counter()
            await engine.connect("one", EndpointSpec("bridge"))
            took.append((time.perf_counter() - begun) * 1000)
            await engine.disconnect("bridge", "one")
    finally:
        await engine.close()
    return took


def _reconnect_docker(docker: Docker, cid: str) -> list[float]:
    docker.call("POST", "/networks/create", {"Name": "more"})
    took = []
    for _ in range(10):
        took.append(clock(lambda: docker.call("POST", "/networks/more/connect", {"Container": cid})))
        docker.call("POST", "/networks/more/disconnect", {"Container": cid})
    return took


def run(place: Place) -> list[Row]:
    folder = place.folder / "net"
    folder.mkdir()
    with _host() as other, Docker(folder, place.disk / "net").running(firewall=True) as docker:
        wharf = Wharf(folder, place.disk / "net")
        archive = busybox_archive(folder / "busybox.tar", BUSYBOX)
        try:
            own = asyncio.run(_mechanism(wharf))
            saved = folder / "saved.tar"
            sh("skopeo", "copy", "--quiet", f"oci-archive:{archive}", f"docker-archive:{saved}:{BUSYBOX}")
            sh(*docker.command("load", "--input", saved))
            ours, theirs = asyncio.run(_ours(wharf, archive)), _theirs(docker)
            outside = f"/proc/{os.getpid()}/fd/{other}"
            flows: dict[str, list[tuple[float, float]]] = {"wharf": [], "docker": []}
            turns(
                {"wharf": _keep(flows["wharf"], ours, outside), "docker": _keep(flows["docker"], theirs, outside)}, 5, 0
            )
            near, far = (
                {side: statistics.median(pair[n] for pair in seen) for side, seen in flows.items()} for n in (0, 1)
            )
            cid = sh(*docker.command("ps", "-ql")).strip()
            connect = (
                statistics.median(asyncio.run(_reconnect(wharf))),
                statistics.median(_reconnect_docker(docker, cid)),
            )
        finally:
            asyncio.run(end_instance(find_instance(wharf.root, wharf.run)))
            for cid in sh(*docker.command("ps", "-aq"), check=False).split():
                sh(*docker.command("rm", "-f", cid), check=False)
            Wharf(place.folder, place.disk)  # the other instance is that of the environment again
    return [
        Row(
            "a container put on a network",
            "ms",
            own["attach"],
            note=f"in an engine that stays open; many at once, or by a command: {own['at once']:.1f} ms each",
        ),
        Row("`network connect` of a running container", "ms", *connect, note="API to API"),
        Row("a port published", "ms", own["publish"], note=f"{own['range']:.3f} ms each in a range of {RANGE}"),
        Row(f"interface counters of {MANY} containers", "ms", own["counters"], note="in the engine"),
        Row("a gigabyte between two containers", "s", near["wharf"], near["docker"], note="iperf3, one bridge"),
        Row(
            "a gigabyte through a published port",
            "s",
            far["wharf"],
            far["docker"],
            note="iperf3, from a neighbour of the host",
        ),
    ]


def _keep(seen: list[tuple[float, float]], pair: _Pair, outside: str) -> Callable[[], float]:
    def side() -> float:
        seen.append(_flows(pair, outside))
        return seen[-1][0]

    return side
