"""The workstation on a terminal of its own: first bytes, lists painted, and what it costs while nothing changes.

Docker's side of the idle figures is `docker stats`, the live view that it has, with the daemon that feeds it.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import statistics
import struct
import termios
import time
from collections.abc import Callable

from tests.bench.measure import Row
from tests.bench.place import BUSYBOX, Place, cpu_seconds, sh

ROUNDS, CONTAINERS = 7, 20
WARM, SECONDS = 6.0, 15.0


class Screen:
    """A command on a pseudo-terminal of 200 columns and 50 rows."""

    def __init__(self, command: list[str]) -> None:
        self.begun = time.perf_counter()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", LANG="C.UTF-8")
            os.execvp(command[0], command)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        self.data = bytearray()

    def read(self, until: Callable[[bytearray], bool], seconds: float) -> float:
        """Milliseconds since the start at which ``until(all output)`` became true.

        :raises TimeoutError: it did not
        """
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            if select.select([self.fd], [], [], left)[0]:
                try:
                    self.data += os.read(self.fd, 1 << 16)
                except OSError:  # EIO: the program ended and closed its side
                    break
                if until(self.data):
                    return (time.perf_counter() - self.begun) * 1000
        raise TimeoutError(f"not seen; the screen ended with {bytes(self.data[-300:])!r}")

    def drain(self, seconds: float) -> int:
        """Bytes that come in so many seconds."""
        end, before = time.perf_counter() + seconds, len(self.data)
        while (left := end - time.perf_counter()) > 0:
            if select.select([self.fd], [], [], left)[0]:
                self.data += os.read(self.fd, 1 << 16)
        return len(self.data) - before

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


def _paint(command: list[str], needle: bytes) -> tuple[float, float]:
    screen = Screen(command)
    try:
        first = screen.read(lambda data: len(data) > 0, 20)
        return first, screen.read(lambda data: needle in data, 20)
    finally:
        screen.close()


def _idle(command: list[str], pids: list[int]) -> tuple[float, float]:
    """(bytes per second to the terminal, CPU percent of one core) while nothing changes but the meters."""
    screen = Screen(command)
    try:
        screen.drain(WARM)
        before = cpu_seconds([*pids, screen.pid])
        count = screen.drain(SECONDS)
        return count / SECONDS, (cpu_seconds([*pids, screen.pid]) - before) / SECONDS * 100
    finally:
        screen.close()


def run(place: Place) -> list[Row]:
    names = [f"bench-idle-{number:02}" for number in range(CONTAINERS)]
    found = {}
    for name, side in (("docker", place.docker), ("wharf", place.wharf)):
        for container in names:
            sh(*side.command("run", "-d", "--name", container, BUSYBOX, "sleep", "100000"))
        command = side.command("stats") if name == "docker" else side.command()
        try:
            paints = [_paint(command, b"bench-idle-00") for _ in range(ROUNDS)]
            found[name] = ([statistics.median(p[i] for p in paints) for i in (0, 1)], _idle(command, side.pids()))
        finally:
            sh(*side.command("rm", "-f", *names))
    (wharf, idle), (docker, docker_idle) = found["wharf"], found["docker"]
    note = f"{CONTAINERS} sleeping containers; docker: `docker stats`"
    return [
        Row("first bytes on the terminal", "ms", wharf[0], docker[0], note=note),
        Row("list of containers painted", "ms", wharf[1], docker[1], note=note),
        Row("idle: to the terminal", "bytes/s", idle[0], docker_idle[0], note=note),
        Row("idle: CPU, engine and daemon included", "% of a core", idle[1], docker_idle[1], note=note),
    ]
