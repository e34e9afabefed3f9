"""Pull from a registry on loopback into an empty store: five gzip layers of this host's own files, and a tiny image."""

from __future__ import annotations

import io
import tarfile
from functools import partial
from pathlib import Path

from tests.bench.measure import Row, clock, turns
from tests.bench.place import Place, sh
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


def _once(commands: dict[str, list[str]], side: str) -> float:
    sh(*commands["remove"], check=False)
    return clock(partial(sh, *commands[side]))


def run(place: Place) -> list[Row]:
    layers = [_layer(Path(source)) for source in SOURCES if Path(source).is_dir()]
    big = make_archive(place.folder / "big.tar", "big:1", layers)
    small = busybox_archive(place.folder / "small.tar", "small:1")
    megabytes = sum(map(len, layers)) / 1e6
    rows = []
    with place.registry() as host:
        for name, archive, what in (
            ("pull", big, f"{len(layers)} gzip layers, {megabytes:.0f} MB unpacked"),
            ("pull, tiny", small, "1 layer"),
        ):
            reference = f"{host}/{archive.stem}:1"
            sh("skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci-archive:{archive}", f"docker://{reference}")
            makers = {"wharf": place.wharf.command, "docker": place.docker.command}
            if place.podman:
                makers["podman"] = place.podman.command
            sides = {}
            for side, command in makers.items():
                words = ["pull", "--tls-verify=false"] if side == "podman" else ["pull"]
                commands = {side: command(*words, reference), "remove": command("rmi", reference)}
                sides[side] = partial(_once, commands, side)
            found = turns(sides, ROUNDS)
            rows.append(Row(name, "ms", found["wharf"], found["docker"], found.get("podman"), note=what))
    return rows
