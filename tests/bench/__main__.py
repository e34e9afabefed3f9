"""``make bench``: every benchmark in one run, on one disk. ``python -m tests.bench [NAME…]`` runs some of them."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import (
    bench_commit,
    bench_follow,
    bench_many,
    bench_names,
    bench_net,
    bench_pull,
    bench_run,
    bench_screen,
    bench_start,
)
from tests.bench.measure import Row, table
from tests.bench.place import HOUSE, Docker, Place, Podman, Wharf, bring_images, journaled_disk, memory, sh

BENCHES = {
    "start": bench_start.run,
    "many": bench_many.run,
    "run": bench_run.run,
    "pull": bench_pull.run,
    "commit": bench_commit.run,
    "follow": bench_follow.run,
    "names": bench_names.run,
    "net": bench_net.run,
    "screen": bench_screen.run,
}


def _where() -> str:
    versions = [sh("dockerd", "--version").strip().partition(", build")[0]]
    if shutil.which("podman"):
        versions.append(sh("podman", "--version").strip())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    kernel = platform.release().split("-")[0]
    return (
        f"{time.strftime('%Y-%m-%d')}, Linux {kernel}, {os.cpu_count()} CPUs, {memory:.0f} GB, "
        f"Python {platform.python_version()}, ext4 with a journal. Peers: {'; '.join(versions)}. Medians."
    )


def _publish(text: str) -> None:
    """Keep the results, and show them in the README between its two marks."""
    Path(__file__).with_name("results.md").write_text(text, encoding="utf-8")
    readme = HOUSE / "README.md"
    before, begin, rest = readme.read_text(encoding="utf-8").partition("<!-- bench -->\n")
    _, end, after = rest.partition("<!-- /bench -->")
    if begin and end:
        readme.write_text(f"{before}{begin}{text}{end}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    which = f"which of {', '.join(BENCHES)} (default: all)"
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], metavar="NAME", help=which)
    names = parser.parse_args().names or list(BENCHES)
    if os.geteuid() != 0:
        print("The benchmarks need root: they mount a disk and start a Docker daemon.", file=sys.stderr)
        return 1
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        # Short: the paths of unix sockets below it may have 107 characters.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wb-", ignore_cleanup_errors=True)))
        disk = stack.enter_context(journaled_disk(folder))
        stack.enter_context(memory(folder))
        docker = stack.enter_context(Docker(folder, disk).running())
        wharf = Wharf(folder, disk)
        stack.callback(wharf.end)
        podman = Podman(folder, disk) if shutil.which("podman") else None
        place = Place(folder, disk, docker, wharf, podman)
        bring_images(place)
        for name in names:
            print(f"… {name}", file=sys.stderr, flush=True)
            found = BENCHES[name](place)
            print(*table(found).splitlines()[2:], sep="\n", file=sys.stderr, flush=True)
            rows += found
    text = f"{_where()}\n\n{table(rows)}\n"
    print(text)
    if names == list(BENCHES):
        _publish(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
