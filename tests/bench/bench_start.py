"""Through the API of each engine, no command line between: create + start, and a whole life; beside it `runc run`."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import cast

from core.engine import Engine, open_engine
from core.model import ContainerSpec, ImageConfig
from core.runtime.defaults import Json
from core.runtime.spec import build_config
from tests.bench.measure import Row, clock, turns
from tests.bench.place import BUSYBOX, Docker, Place, sh

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


class Runc:
    """A bundle as the engine would write it, without its files in /etc, which runc runs under a new name each time."""

    def __init__(self, place: Place) -> None:
        self._bundle, self._root = place.disk / "runc", place.folder / "runc"
        self._numbers = itertools.count()
        bin = self._bundle / "rootfs" / "bin"
        bin.mkdir(parents=True)
        shutil.copy(shutil.which("busybox") or "/bin/busybox", bin / "sleep")
        self._config = build_config(
            ContainerSpec(BUSYBOX, network="none"), ImageConfig(), cid="x", argv=("sleep", "1000"), hostname="x",
            rootfs="rootfs", cgroup_path="", etc_files={}, netns="new",
        )  # fmt: skip

    def __call__(self) -> float:
        """Milliseconds that `runc run --detach` takes: it returns when the command has been executed."""
        cid = f"whbench-{next(self._numbers)}"
        linux = cast(Json, self._config["linux"])
        # runc's cgroup v1 driver refuses to take /dev/fuse out of what the rules before have allowed.
        devices = cast("list[Json]", cast(Json, linux["resources"])["devices"])
        resources = {"devices": [rule for rule in devices if rule.get("minor") != 229]}
        linux = {**linux, "cgroupsPath": f"/whbench/{cid}", "resources": resources}
        (self._bundle / "config.json").write_text(json.dumps({**self._config, "linux": linux}))
        runc = ["runc", "--root", str(self._root)]
        null = subprocess.DEVNULL
        argv = [*runc, "run", "--detach", "--bundle", str(self._bundle), cid]
        took = clock(partial(subprocess.run, argv, stdin=null, stdout=null, stderr=null, check=True))
        sh(*runc, "delete", "--force", cid)
        return took


def _runc(place: Place, engine: Engine, loop: asyncio.AbstractEventLoop) -> list[Row]:
    if not shutil.which("runc"):
        return []
    sides = {"wharf": partial(_wharf_start, loop, engine, "none"), "runc": Runc(place)}
    found = turns(sides, ROUNDS, warm=2)
    for group in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
        if (group / "whbench").is_dir():
            (group / "whbench").rmdir()
    note = f"`runc run` of the same bundle, without engine, image and log: {found['runc']:.1f} ms"
    return [Row("create + start, network none, beside runc", "ms", found["wharf"], note=note)]


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
        rows += _runc(place, engine, loop)
    finally:
        loop.run_until_complete(engine.close())
        loop.close()
    return rows
