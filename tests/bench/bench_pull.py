"""Pull into a cold store from a registry on loopback: image B as gzip and as zstd, on a slow link, and a tiny image."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from core.engine import Engine, open_engine
from core.errors import NotFound
from tests.bench import sample
from tests.bench.measure import Row, clock, turns
from tests.bench.place import HOUSE, Docker, Place, sh
from tests.imagemaker import busybox_archive
from tests.images import Made, layout

ROUNDS = 3
SMALL_ROUNDS = 7
RATE = 25e6  # bytes per second of the slow link
_TICKS = os.sysconf("SC_CLK_TCK")
_REAPED = 0.5  # seconds until what a pull has started has ended too


@dataclass(frozen=True)
class Cost:
    """Seconds."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Side:
    """One engine: how it removes the image, how it pulls it, and how to ask for the processor time it has used."""

    remove: Callable[[], object]
    pull: Callable[[], object]
    used: Callable[[], float]


def _own() -> float:
    """Of this process and all that it has waited for."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _waited(pids: list[int]) -> float:
    """Of these processes and all that they have waited for (proc(5), stat fields 14 to 17)."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS


def _rounds(sides: Mapping[str, Side], rounds: int) -> dict[str, Cost]:
    """The median of each side. They take turns; nobody's write-back falls into another's turn.

    Afterwards the image is gone again: under another name, or as zstd, its layers would be there already.
    """
    seen: dict[str, list[Cost]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            side.remove()
            os.sync()
            before = side.used()
            wall = clock(side.pull) / 1000
            time.sleep(_REAPED)
            if number:
                seen[name].append(Cost(wall, side.used() - before))
    for side in sides.values():
        side.remove()
    middle = statistics.median
    return {name: Cost(middle(c.wall for c in costs), middle(c.cpu for c in costs)) for name, costs in seen.items()}


class Sides:
    """The engines that a reference is pulled with: two by their own API, podman, which has no daemon, as a command."""

    def __init__(self, place: Place, loop: asyncio.AbstractEventLoop, engine: Engine) -> None:
        self._place, self._loop, self._engine = place, loop, engine

    def of(self, reference: str, *, docker: bool = True) -> dict[str, Side]:
        found = {"wharf": Side(partial(self._remove, reference), partial(self._pull, reference), _own)}
        if docker:
            api = self._place.docker
            found["docker"] = Side(
                partial(_docker_remove, api, reference),
                partial(_docker_pull, api, reference),
                lambda: _waited(api.pids()),
            )
        if self._place.podman:
            command = self._place.podman.command
            remove = partial(sh, *command("rmi", "--force", reference), check=False)
            found["podman"] = Side(
                remove, partial(sh, *command("pull", "--quiet", "--tls-verify=false", reference)), _own
            )
        return found

    def look(self, reference: str) -> list[Row]:
        """Figures of the layer browser, once the image is there; no other engine has one."""

        async def browse() -> None:
            found = await self._engine.image_layers(reference)
            found.children("", len(found.layers))

        async def search() -> None:
            await self._engine.search_layers("*.py", [reference])

        sides = {
            name: partial(clock, lambda work=work: self._loop.run_until_complete(work()))
            for name, work in (("browse", browse), ("search", search))
        }
        found = turns(sides, SMALL_ROUNDS)
        return [
            Row("layer browser opened, all layers of image B", "ms", found["browse"]),
            Row("search for `*.py` in all layers of image B", "ms", found["search"]),
        ]

    def _remove(self, reference: str) -> None:
        async def remove() -> None:
            with contextlib.suppress(NotFound):
                await self._engine.remove_image(reference, force=True)

        self._loop.run_until_complete(remove())
        self._loop.run_until_complete(asyncio.sleep(1))  # deleted in the background

    def _pull(self, reference: str) -> None:
        async def pull() -> None:
            async for _ in self._engine.pull(reference):
                pass

        self._loop.run_until_complete(pull())


def _docker_remove(docker: Docker, reference: str) -> None:
    with contextlib.suppress(RuntimeError):
        docker.call("DELETE", f"/images/{reference}?force=1")


def _docker_pull(docker: Docker, reference: str) -> None:
    name, _, tag = reference.rpartition(":")
    answer = docker.call("POST", f"/images/create?fromImage={name}&tag={tag}", raw=True)
    last = json.loads(answer.splitlines()[-1])
    if "error" in last:  # after a good status: the answer is a stream
        raise RuntimeError(last["error"])


@contextlib.contextmanager
def _slow(host: str) -> Iterator[str]:
    """The registry behind a slow link."""
    port = host.rpartition(":")[2]
    command = [sys.executable, "-m", "tests.bench.throttle", port, str(RATE)]
    with subprocess.Popen(command, cwd=HOUSE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.terminate()


def _bare(host: str, made: Made) -> float:
    """Seconds that the bytes alone take, four connections at once."""

    def fetch(digest: str) -> None:
        connection = http.client.HTTPConnection(host)
        connection.request("GET", f"/v2/b/blobs/{digest}")
        answer = connection.getresponse()
        while answer.read(1 << 20):
            pass
        connection.close()

    def every() -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(fetch, made.layers))

    return clock(every) / 1000


def _push(folder: Path, host: str, name: str, made: Made) -> str:
    reference = f"{host}/{name}:1"
    source = f"oci:{layout(folder / name, made, '1')}:1"
    sh("skopeo", "copy", "--quiet", "--dest-tls-verify=false", source, f"docker://{reference}")
    return reference


def _rows(what: str, found: Mapping[str, Cost], note: str = "", *, cpu: bool = True) -> list[Row]:
    def row(name: str, pick: Callable[[Cost], float], note: str) -> Row:
        other = [pick(found[side]) if side in found else None for side in ("docker", "podman")]
        return Row(name, "s", pick(found["wharf"]), *other, note)

    rows = [row(f"pull, {what}", lambda cost: cost.wall, note or "API to API; podman: command")]
    if cpu:
        rows.append(row(f"pull, {what}: CPU", lambda cost: cost.cpu, "engine and whatever it starts, user + system"))
    return rows


def _big(place: Place, host: str, sides: Sides) -> list[Row]:
    archives = sample.layers()
    size = sum(map(len, archives)) / 1e6
    rows = []
    made = {kind: sample.made(archives, kind) for kind in ("gzip", "zstd")}
    what = f"image B ({len(archives)} layers, {size:.0f} MB)"
    del archives
    reference = _push(place.folder, host, "b", made["gzip"])
    rows += _rows(f"{what}, gzip", _rounds(sides.of(reference), ROUNDS))
    other = _push(place.folder, host, "b-zstd", made["zstd"])
    # Docker's classic store knows zstd from 23.0 on.
    rows += _rows("image B, zstd", _rounds(sides.of(other, docker=_knows_zstd(place.docker)), ROUNDS))
    sides.of(other)["wharf"].pull()
    rows += sides.look(other)
    sides.of(other)["wharf"].remove()
    with _slow(host) as slow:
        bare = statistics.median(_bare(slow, made["gzip"]) for _ in range(2))
        found = _rounds(sides.of(reference.replace(host, slow)), 1)
        note = f"the bytes alone: {bare:.1f} s"
        rows += _rows(f"image B, gzip, at {RATE / 1e6:.0f} MB/s", found, note, cpu=False)
    return rows


def _knows_zstd(docker: Docker) -> bool:
    return int(docker.call("GET", "/version")["Version"].split(".")[0]) >= 23


def _small(place: Place, host: str, sides: Sides) -> list[Row]:
    archive = busybox_archive(place.folder / "small.tar", "small:1")
    reference = f"{host}/small:1"
    sh("skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci-archive:{archive}", f"docker://{reference}")
    by_api = _rounds(sides.of(reference), SMALL_ROUNDS)
    note = "API to API; podman: command"
    found = {side: cost.wall * 1000 for side, cost in by_api.items()}
    rows = [Row("pull, one layer, busybox", "ms", found["wharf"], found["docker"], found.get("podman"), note)]
    found = turns(_commands(place, reference), SMALL_ROUNDS)
    rows.append(
        Row("`pull`, one layer, busybox", "ms", found["wharf"], found["docker"], found.get("podman"), "command line")
    )
    return rows


def _command(pull: list[str], remove: list[str]) -> float:
    sh(*remove, check=False)
    return clock(partial(sh, *pull))


def _commands(place: Place, reference: str) -> dict[str, Callable[[], float]]:
    makers = {"wharf": place.wharf.command, "docker": place.docker.command}
    if place.podman:
        makers["podman"] = partial(place.podman.command)
    sides: dict[str, Callable[[], float]] = {}
    for side, command in makers.items():
        words = ["pull", "--tls-verify=false"] if side == "podman" else ["pull"]
        sides[side] = partial(_command, command(*words, reference), command("rmi", reference))
    return sides


def run(place: Place) -> list[Row]:
    loop = asyncio.new_event_loop()
    engine = loop.run_until_complete(open_engine(place.wharf.root, place.wharf.run))
    sides = Sides(place, loop, engine)
    try:
        with place.registry() as host:
            return [*_big(place, host, sides), *_small(place, host, sides)]
    finally:
        loop.run_until_complete(engine.close())
        loop.close()
