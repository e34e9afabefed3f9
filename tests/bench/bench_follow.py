"""A container that prints 20,000 lines a second, followed by a client: CPU of all that carries the lines, and lag."""

from __future__ import annotations

import os
import re
import select
import subprocess
import time

from tests.bench.measure import Row
from tests.bench.place import TOOLS, Place, cpu_seconds, sh

RATE, WARM, SECONDS = 20_000, 2.0, 8.0
SOURCE = f"""
import sys, time
begun, sent, out = time.monotonic(), 0, sys.stdout.buffer
while True:
    due = int((time.monotonic() - begun) * {RATE})
    stamp = time.time()
    out.write(b"".join(b"L%09d %.3f %s\\n" % (n, stamp, b"x" * 70) for n in range(sent, due)))
    out.flush()
    sent = due
    time.sleep(0.01)
"""
STAMP = re.compile(rb"L\d{9} (\d+\.\d{3}) x{70}\n")


def _follow(command: list[str], pids: list[int]) -> tuple[float, float, float]:
    """(CPU percent of one core, worst lag in ms, lines a second) while the client follows."""
    client = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert client.stdout
    descriptor = client.stdout.fileno()
    pids = [*pids, client.pid]
    lags: list[float] = []
    count, cpu, begun = 0, 0.0, time.monotonic()
    measuring = False
    while (now := time.monotonic()) - begun < WARM + SECONDS:
        if not measuring and now - begun >= WARM:
            measuring, cpu, count, lags = True, cpu_seconds(pids), 0, []
        if select.select([descriptor], [], [], 0.2)[0]:
            data = os.read(descriptor, 1 << 20)
            if not data:
                raise RuntimeError(f"{command[0]} ended")
            count += data.count(b"\n")
            if stamps := STAMP.findall(data):
                lags.append(time.time() - float(stamps[-1]))
    used = cpu_seconds(pids) - cpu
    client.kill()
    client.wait()
    if not lags:
        raise RuntimeError(f"{command[0]}: no line came")
    lags.sort()
    return used / SECONDS * 100, lags[int(len(lags) * 0.99)] * 1000, count / SECONDS


def run(place: Place) -> list[Row]:
    found = {}
    for name, side in (("docker", place.docker), ("wharf", place.wharf)):
        sh(*side.command("run", "-d", "--name", "bench-log", TOOLS, "python3", "-I", "-S", "-c", SOURCE))
        try:
            found[name] = _follow(side.command("logs", "-f", "--tail", "0", "bench-log"), side.pids())
        finally:
            sh(*side.command("rm", "-f", "bench-log"))
    wharf, docker = found["wharf"], found["docker"]
    note = f"{wharf[2]:,.0f} and {docker[2]:,.0f} lines/s came"
    return [
        Row("log follow at 20,000 lines/s: CPU", "% of a core", wharf[0], docker[0], note=note),
        Row("log follow at 20,000 lines/s: lag, 99th percentile", "ms", wharf[1], docker[1]),
    ]
