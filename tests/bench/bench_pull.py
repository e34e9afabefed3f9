"""Pull from a registry on loopback into an empty store: five gzip layers of this host's own files, and a tiny image."""

from __future__ import annotations

import asyncio
import contextlib
import io
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from core.engine import Engine, open_engine
from core.errors import NotFound
from tests.bench.measure import Row, clock, turns
from tests.bench.place import Docker, Place, sh
from tests.imagemaker import busybox_archive, make_archive

ROUNDS = 5
LIMIT = 60 << 20  # bytes per layer
SOURCES = ("/usr/share/doc", "/usr/lib/python3", "/usr/share/perl", "/usr/lib/x86_64-linux-gnu", "/usr/share/zoneinfo")


def _layer(top: Path) -> bytes:
    """A tar of up to LIMIT bytes of the folder, its own parents included."""
    raw, size = io.BytesIO(), 0
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for parent in reversed(top.parents[:-1]):
            tar.add(parent, recursive=False)
        for path in [top, *sorted(top.rglob("*"))]:
            if path.is_file() and not path.is_symlink():
                size += path.stat().st_size
            if size > LIMIT:
                break
            tar.add(path, recursive=False)
    return raw.getvalue()


def _command(pull: list[str], remove: list[str]) -> float:
    sh(*remove, check=False)
    return clock(partial(sh, *pull))


def _library(loop: asyncio.AbstractEventLoop, engine: Engine, reference: str) -> float:
    async def remove() -> None:
        with contextlib.suppress(NotFound):
            await engine.remove_image(reference, force=True)

    async def pull() -> None:
        async for _ in engine.pull(reference):
            pass

    loop.run_until_complete(remove())
    return clock(lambda: loop.run_until_complete(pull()))


def _docker_api(docker: Docker, reference: str) -> float:
    with contextlib.suppress(RuntimeError):
        docker.call("DELETE", f"/images/{reference}?force=1")
    name, _, tag = reference.rpartition(":")
    return clock(lambda: docker.call("POST", f"/images/create?fromImage={name}&tag={tag}", raw=True))


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
    layers = [_layer(Path(source)) for source in SOURCES if Path(source).is_dir()]
    big = make_archive(place.folder / "big.tar", "big:1", layers)
    small = busybox_archive(place.folder / "small.tar", "small:1")
    megabytes = sum(map(len, layers)) / 1e6
    what = {big: f"{len(layers)} gzip layers, {megabytes:.0f} MB unpacked", small: "one layer, busybox"}
    rows = []
    loop = asyncio.new_event_loop()
    engine = loop.run_until_complete(open_engine(place.wharf.root, place.wharf.run))
    try:
        with place.registry() as host:
            for archive, note in what.items():
                reference = f"{host}/{archive.stem}:1"
                target = f"docker://{reference}"
                sh("skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci-archive:{archive}", target)
                api = {"wharf": partial(_library, loop, engine, reference)}
                api["docker"] = partial(_docker_api, place.docker, reference)
                found = turns(api, ROUNDS)
                rows.append(Row(f"pull, {note}", "ms", found["wharf"], found["docker"], note="API to API"))
                found = turns(_commands(place, reference), ROUNDS)
                row = Row(f"`pull`, {note}", "ms", found["wharf"], found["docker"], found.get("podman"), "command line")
                rows.append(row)
    finally:
        loop.run_until_complete(engine.close())
        loop.close()
    return rows
