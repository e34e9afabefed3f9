"""What the tests of cgroups share: groups of their own, processes in them, a disk."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core import cgroups
from core.cgroups import files

TOP = f"wharf-test-{os.getpid()}"
DEVICES: list[dict[str, Any]] = [
    {"allow": False, "access": "rwm"},
    *({"allow": True, "type": "c", "major": 1, "minor": minor, "access": "rwm"} for minor in (3, 5, 8, 9)),
    {"allow": True, "type": "c", "access": "m"},
]
MIB = 1 << 20


@pytest.fixture(name="path")
def fresh_path() -> Iterator[str]:
    """The path of a group that is not there yet; afterwards everything below the test's own top is gone."""
    yield f"{TOP}/box"
    if cgroups.exists(TOP):
        cgroups.kill(TOP)
        cgroups.remove(TOP)
    assert not cgroups.exists(TOP)


def needs(*controllers: str) -> None:
    missing = set(controllers) - set(cgroups.detect().controllers)
    if missing:
        pytest.skip(f"this host's cgroups lack {' '.join(sorted(missing))}")


def value(path: str, v1: tuple[str, str], v2: str) -> str:
    """The text of the file that holds a setting on this host's version; ``v1`` is (controller, file)."""
    layout = cgroups.detect()
    if layout.version == "v2":
        return files.read(f"{layout.unified}/{path}/{v2}").strip()
    return files.read(f"{layout.mount_of(v1[0])}/{path}/{v1[1]}").strip()


@contextlib.contextmanager
def child(path: str, body: Callable[[], object]) -> Iterator[int]:
    """A process that enters the group, runs ``body`` and exits with what it returns, 99 where it raises; yields its
    pid once it is inside."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            cgroups.enter_self(path)
            os.write(send, b"+")
            code = int(body() or 0)  # type: ignore[call-overload]
        finally:
            os._exit(code)
    os.close(send)
    try:
        assert os.read(receive, 1) == b"+", "the child could not enter"
        yield pid
    finally:
        os.close(receive)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def run(path: str, body: Callable[[], object]) -> int:
    """The wait status of ``body`` run in the group."""
    with child(path, body) as pid:
        return os.waitpid(pid, 0)[1]


def sleep() -> None:
    time.sleep(60)


def spin() -> None:
    while True:
        pass


@contextlib.contextmanager
def worker(path: str, work: Callable[[], int]) -> Iterator[Callable[[], int]]:
    """A process in the group that does its work each time it is asked to; the call gives the result, a byte."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        ours.close()
        while theirs.recv(1):
            theirs.send(bytes([work()]))

    def ask() -> int:
        ours.send(b"!")
        answer = ours.recv(1)
        assert answer, "the worker has died"
        return answer[0]

    with ours, theirs, child(path, serve):
        theirs.close()
        yield ask


def opens(device: str) -> int:
    """0, or the errno of opening it."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as exc:
        return exc.errno or 99
    return 0


def forks() -> int:
    """1 where a process can be made now."""
    try:
        pid = os.fork()
    except BlockingIOError:
        return 0
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return 1


def disk(folder: Path) -> tuple[str, str]:
    """What can be read of a real disk, and the disk's ``major:minor``: a file in the folder, where that is on one, or
    a disk itself."""
    number = os.stat(folder).st_dev
    entry = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if entry.exists():
        file = folder / "data"
        file.write_bytes(os.urandom(4 * MIB))
        os.sync()
        whole = entry.resolve().parent if (entry / "partition").exists() else entry
        return str(file), (whole / "dev").read_text().strip()
    for name in sorted(os.listdir("/sys/block")):
        if os.path.exists(f"/sys/block/{name}/device") and not opens(f"/dev/{name}"):
            return f"/dev/{name}", Path(f"/sys/block/{name}/dev").read_text().strip()
    pytest.skip(f"{folder} is on no disk, and no disk can be read")


def read_disk(data: str, size: int) -> int:
    """Read past the page cache."""
    fd = os.open(data, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, size // 4)  # O_DIRECT wants an aligned one
    for _ in range(4):
        os.readv(fd, [buffer])
    os.close(fd)
    return 0
