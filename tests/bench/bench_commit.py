"""A container that has written 8,000 files, 250 MB: made into an image, and compared with its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial

from core.engine import open_engine
from core.model import ContainerSpec
from tests.bench.measure import Row, clock, turns
from tests.bench.place import TOOLS, Docker, Place

ROUNDS = 5
NAME = "bench/committed:1"
FILES, SIZE = 8000, 31_250
# Half noise, half text: about what programs and their data compress to.
WRITE = f"""
import os
text = b"what a container has written, line after line\\n" * {SIZE // 90}
for number in range({FILES}):
    if number % 100 == 0:
        os.makedirs(f"/made/{{number // 100}}")
    with open(f"/made/{{number // 100}}/{{number}}", "wb") as file:
        file.write(os.urandom({SIZE // 2}) + text)
"""


class _Ours:
    def __init__(self, place: Place) -> None:
        self._loop = asyncio.new_event_loop()
        self._engine = self._loop.run_until_complete(open_engine(place.wharf.root, place.wharf.run))
        self._cid = self._loop.run_until_complete(self._make())

    async def _make(self) -> str:
        box = await self._engine.create(ContainerSpec(TOOLS, command=("python3", "-c", WRITE), network="none"))
        await self._engine.start(box.id)
        if code := await self._engine.wait(box.id):
            raise RuntimeError(f"exit code {code}")
        return box.id

    def commit(self) -> float:
        os.sync()
        took = clock(lambda: self._loop.run_until_complete(self._engine.commit(self._cid, NAME)))
        self._loop.run_until_complete(self._engine.remove_image(NAME, force=True))
        return took

    def changes(self) -> float:
        found = 0

        def work() -> None:
            nonlocal found
            found = len(self._loop.run_until_complete(self._engine.changes(self._cid)))

        took = clock(work)
        if found < FILES:
            raise RuntimeError(f"only {found} changes")
        return took

    def end(self) -> None:
        self._loop.run_until_complete(self._engine.remove(self._cid, force=True))
        self._loop.run_until_complete(self._engine.close())
        self._loop.close()


def _docker_commit(docker: Docker, cid: str) -> float:
    os.sync()
    name, _, tag = NAME.rpartition(":")
    took = clock(lambda: docker.call("POST", f"/commit?container={cid}&repo={name}&tag={tag}"))
    docker.call("DELETE", f"/images/{NAME}?force=1")
    return took


def _docker_made(docker: Docker) -> str:
    cid = docker.create(TOOLS, "python3", "-c", WRITE, network="none")
    docker.start(cid)
    docker.call("POST", f"/containers/{cid}/wait")
    return cid


def run(place: Place) -> list[Row]:
    ours, docker = _Ours(place), place.docker
    cid = _docker_made(docker)
    what = f"{FILES:,} files, {FILES * SIZE / 1e6:.0f} MB"
    try:
        commit: dict[str, Callable[[], float]] = {"wharf": ours.commit, "docker": partial(_docker_commit, docker, cid)}
        changes: dict[str, Callable[[], float]] = {
            "wharf": ours.changes,
            "docker": lambda: clock(partial(docker.call, "GET", f"/containers/{cid}/changes")),
        }
        rows = []
        for name, sides in ((f"commit, {what}", commit), (f"diff, {what}", changes)):
            found = turns(sides, ROUNDS)
            rows.append(Row(name, "ms", found["wharf"], found["docker"], note="API to API"))
        return rows
    finally:
        docker.remove(cid)
        ours.end()
