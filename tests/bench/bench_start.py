"""Through the API of each engine, no command line between: create + start, and a whole life."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from core.engine import Engine, open_engine
from core.model import ContainerSpec
from tests.bench.measure import Row, clock, turns
from tests.bench.place import BUSYBOX, Docker, Place

ROUNDS = 25


def _wharf_start(loop: asyncio.AbstractEventLoop, engine: Engine, network: str) -> float:
    async def once() -> float:
        begun = time.perf_counter()
        box = await engine.create(ContainerSpec(BUSYBOX, command=("sleep", "1000"), network=network))
        await engine.start(box.id)
        took = (time.perf_counter() - begun) * 1000
        await engine.remove(box.id, force=True)
        return took

    return loop.run_until_complete(once())


def _wharf_life(loop: asyncio.AbstractEventLoop, engine: Engine, network: str) -> float:
    async def once() -> None:
        box = await engine.create(ContainerSpec(BUSYBOX, command=("true",), network=network))
        await engine.start(box.id)
        if code := await engine.wait(box.id):
            raise RuntimeError(f"exit code {code}")
        await engine.remove(box.id)

    return clock(lambda: loop.run_until_complete(once()))


def _docker_start(docker: Docker, network: str) -> float:
    begun = time.perf_counter()
    cid = docker.create(BUSYBOX, "sleep", "1000", network=network)
    docker.start(cid)
    took = (time.perf_counter() - begun) * 1000
    docker.remove(cid)
    return took


def _docker_life(docker: Docker, network: str) -> float:
    def once() -> None:
        cid = docker.create(BUSYBOX, "true", network=network)
        docker.start(cid)
        docker.call("POST", f"/containers/{cid}/wait")
        docker.remove(cid)

    return clock(once)


def run(place: Place) -> list[Row]:
    rows = []
    loop = asyncio.new_event_loop()
    engine = loop.run_until_complete(open_engine(place.wharf.root, place.wharf.run))
    try:
        for network, theirs in (("bridge", "default"), ("none", "none")):
            for name, ours, docker in (
                ("create + start", _wharf_start, _docker_start),
                ("create, start, run `true`, remove", _wharf_life, _docker_life),
            ):
                sides = {"wharf": partial(ours, loop, engine, network), "docker": partial(docker, place.docker, theirs)}
                found = turns(sides, ROUNDS, warm=2)
                rows.append(Row(f"{name}, network {network}", "ms", found["wharf"], found["docker"], note="API to API"))
    finally:
        loop.run_until_complete(engine.close())
        loop.close()
    return rows
