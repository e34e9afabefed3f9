"""``wharf runtime checkpoint`` and ``restore``, with runc's flags."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from core.supervise import sockets
from tests.conftest import needs_root
from tests.criu import needs_criu
from tests.imagemaker import busybox
from tests.oci import HOUSE, Config, Runtime, save
from tests.patience import patience

pytestmark = [needs_root, pytest.mark.skipif(busybox() is None, reason="needs busybox-static from Debian")]
COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"


@pytest.fixture
def works() -> None:
    needs_criu()


def started(runtime: Runtime, name: str = "box", **process: object) -> tuple[Path, Path]:
    """A running container that counts into a file; its bundle, and the file."""
    folder, config = runtime.bundle(name, "sh", "-c", COUNT, **process)
    save(folder, config)
    out = runtime.base / f"{name}.out"
    with piped(out) as file:
        runtime.good("run", "--detach", "--bundle", folder, name, stdout=file, stderr=file)
    until(out, 3)
    return folder, out


_READERS: dict[Path, subprocess.Popen[bytes]] = {}  # by the file that each writes to


@contextmanager
def piped(out: Path) -> Iterator[IO[bytes]]:
    """A pipe, as every engine gives one: a file that grows meanwhile would not be the one that CRIU has seen."""
    with out.open("a") as file:
        reader = _READERS[out] = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
    assert reader.stdin is not None
    with reader.stdin:
        yield reader.stdin


def said(out: Path) -> int:
    """How many lines a container that is no more has written: all of them, once who reads them has seen the end."""
    assert _READERS.pop(out).wait(patience(20)) == 0
    return len(out.read_text().split())


def until(out: Path, least: int) -> list[int]:
    end = time.monotonic() + patience(20)
    while len(found := out.read_text().split()) < least:
        assert time.monotonic() < end, out.read_text()
        time.sleep(0.02)
    return [int(word) for word in found]


@pytest.mark.usefixtures("works")
def test_there_and_back(runtime: Runtime, tmp_path: Path) -> None:
    folder, out = started(runtime)
    images = tmp_path / "images"
    runtime.good("checkpoint", "--image-path", images, "--work-path", tmp_path / "work", "box")
    assert (tmp_path / "work/dump.log").exists()
    assert (images / "inventory.img").exists()
    assert runtime.call("state", "box").returncode == 1, "it is no more, as with runc"
    count = said(out)
    with piped(out) as file:
        options = ["--detach", "--bundle", folder, "--image-path", images, "--pid-file", tmp_path / "pid"]
        runtime.good("restore", *options, "box", stdout=file, stderr=file)
    found = until(out, count + 3)
    assert found == list(range(1, len(found) + 1))
    state = runtime.state("box")
    assert (state["status"], state["pid"]) == ("running", int((tmp_path / "pid").read_text()))
    assert runtime.good("exec", "box", "cat", "/proc/1/comm") == "sh\n"
    runtime.good("pause", "box")
    runtime.good("resume", "box")
    runtime.good("delete", "--force", "box")


@pytest.mark.usefixtures("works")
def test_leave_running_and_restore_in_the_foreground(runtime: Runtime, tmp_path: Path) -> None:
    folder, out = started(runtime)
    images = tmp_path / "images"
    runtime.good("checkpoint", "--leave-running", "--image-path", images, "box")
    assert runtime.state("box")["status"] == "running"
    until(out, len(out.read_text().split()) + 3)
    runtime.good("delete", "--force", "box")
    count = said(out)
    with piped(out) as file:
        argv = runtime.argv("restore", "--bundle", folder, "--image-path", images, "box")
        process = subprocess.Popen(argv, stdout=file, stderr=file, stdin=subprocess.DEVNULL, cwd=HOUSE)
        found = until(out, count + 3)
    assert found[count] <= found[count - 1], "it went on from the checkpoint, not from the end"
    runtime.good("kill", "box", "KILL")
    assert process.wait(patience(20)) == 137
    assert runtime.call("state", "box").returncode == 1


@pytest.mark.usefixtures("works")
def test_its_terminal_goes_to_the_console_socket(runtime: Runtime, tmp_path: Path) -> None:
    line = "read a; echo got $a; read b; echo got $b; sleep 60"
    folder, config = runtime.bundle("box", "sh", "-c", line, terminal=True)
    save(folder, config)
    master = with_console(runtime, tmp_path, ["run", "--detach", "--bundle", folder])
    os.write(master, b"one\n")
    assert b"got one" in read(master, b"got one")
    runtime.good("checkpoint", "--image-path", tmp_path / "images", "box")
    os.close(master)
    master = with_console(
        runtime, tmp_path, ["restore", "--detach", "--bundle", folder, "--image-path", tmp_path / "images"]
    )
    os.write(master, b"two\n")
    assert b"got two" in read(master, b"got two")
    os.close(master)


def with_console(runtime: Runtime, tmp_path: Path, words: list[str | Path]) -> int:
    path = tmp_path / "console"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        sockets.bind(listener, str(path))
        listener.listen(1)
        listener.settimeout(patience(30))
        with (tmp_path / "log").open("w") as log:
            runtime.good(*words, "--console-socket", path, "box", stdout=log, stderr=log)
        with listener.accept()[0] as line:
            return socket.recv_fds(line, 64, 1)[1][0]


def read(master: int, words: bytes) -> bytes:
    found, end = b"", time.monotonic() + patience(10)
    while words not in found and time.monotonic() < end:
        if select.select([master], [], [], 1)[0]:
            found += os.read(master, 4096)
    return found


@pytest.mark.usefixtures("works")
def test_hooks_run_and_a_failing_one_leaves_nothing(runtime: Runtime, tmp_path: Path) -> None:
    folder, _ = started(runtime)
    runtime.good("checkpoint", "--image-path", tmp_path / "images", "box")

    def hooked(argv: list[str]) -> Config:
        _, config = runtime.bundle("box", "sh", "-c", COUNT)
        config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", *argv]}]}
        save(folder, config)
        return config

    words = ["restore", "--detach", "--bundle", folder, "--image-path", tmp_path / "images", "box"]
    hooked(["exit 3"])
    with (tmp_path / "log").open("w+") as log:
        assert runtime.call(*words, stdout=log, stderr=log).returncode == 1
        log.seek(0)
        assert "hook" in log.read()
    assert json.loads(runtime.good("list", "--format", "json")) in (None, [])
    hooked([f"cat > {tmp_path}/told"])
    with (tmp_path / "log").open("w") as log:
        runtime.good(*words, stdout=log, stderr=log)
    state = json.loads((tmp_path / "told").read_text())
    assert (state["id"], state["pid"]) == ("box", runtime.state("box")["pid"])


def test_what_is_refused_says_so(runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started(runtime)
    for flag in ("--pre-dump", "--lazy-pages", "--tcp-skip-in-flight"):
        done = runtime.call("checkpoint", flag, "--image-path", tmp_path / "images", "box")
        assert (done.returncode, f"cannot use {flag}" in done.stderr) == (1, True), done.stderr
    done = runtime.call("checkpoint", "--manage-cgroups-mode", "strict", "--image-path", tmp_path / "i", "box")
    assert "--manage-cgroups-mode strict" in done.stderr
    done = runtime.call("--criu", "/nowhere", "checkpoint", "--image-path", tmp_path / "i", "box")
    assert "/nowhere is not installed" in done.stderr
    assert runtime.call("checkpoint", "nosuch").returncode == 1
    folder = runtime.base / "box"
    done = runtime.call("restore", "--detach", "--bundle", folder, "--image-path", tmp_path / "no", "other")
    assert done.returncode == 1
    assert runtime.state("box")["status"] == "running"
    assert runtime.call("state", "other").returncode == 1
