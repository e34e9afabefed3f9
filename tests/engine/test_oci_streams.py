"""``wharf runtime``: descriptors and terminals."""

from __future__ import annotations

import errno
import os
import pty
import socket
import subprocess
import time

import pytest

from core.supervise import sockets
from tests.conftest import needs_root
from tests.imagemaker import busybox
from tests.oci import HOUSE, Runtime, save

pytestmark = [needs_root, pytest.mark.skipif(busybox() is None, reason="needs busybox-static from Debian")]


def test_descriptors_are_preserved_and_no_others(runtime: Runtime) -> None:
    folder, config = runtime.bundle("box", "sh", "-c", "cat <&3; ls /proc/self/fd")
    save(folder, config)
    read, write = os.pipe()
    os.write(write, b"through\n")
    os.close(write)
    stray = os.open("/etc/hostname", os.O_RDONLY)

    def arrange() -> None:
        os.dup2(read, 3)
        os.dup2(stray, 9)

    argv = runtime.argv("run", "--preserve-fds", "1", "--bundle", folder, "box")
    done = subprocess.run(
        argv,
        cwd=HOUSE,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        preexec_fn=arrange,
        close_fds=False,
        check=False,
    )
    os.close(read)
    os.close(stray)
    assert done.stdout.splitlines() == ["through", "0", "1", "2", "3", "4"], done.stderr  # 4 is the folder itself


def to_the_end(master: int) -> bytes:
    """What a terminal shows until nobody has its other side open."""
    words = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return words
        if not part:
            return words
        words += part


def test_the_terminal_goes_to_the_console_socket(runtime: Runtime) -> None:
    folder, config = runtime.bundle("box", "sh", "-c", "stty size; tty; test -c /dev/console && echo console")
    config["process"] |= {"terminal": True, "consoleSize": {"height": 33, "width": 77}}
    save(folder, config)
    refused = runtime.call("create", "--bundle", folder, "box")
    assert "--console-socket" in refused.stderr
    with socket.socket(socket.AF_UNIX) as listener:
        sockets.bind(listener, str(runtime.base / "console"))
        listener.listen()
        runtime.good("create", "--bundle", folder, "--console-socket", runtime.base / "console", "box")
        line, _ = listener.accept()
        with line:
            _, fds, _, _ = socket.recv_fds(line, 100, 1)
    assert os.get_blocking(fds[0])  # whoever takes it reads to the end, and EAGAIN is none
    runtime.good("start", "box")
    words = to_the_end(fds[0])
    os.close(fds[0])
    assert words.decode().split() == ["33", "77", "/dev/pts/0", "console"]


def test_run_shows_the_terminal(runtime: Runtime) -> None:
    folder, config = runtime.bundle("box", "sh", "-c", "read line; echo got $line; exit 5")
    config["process"]["terminal"] = True
    save(folder, config)
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(HOUSE)
        argv = runtime.argv("run", "--bundle", folder, "box")
        os.execv(argv[0], argv)
    os.write(master, b"word\n")
    words = to_the_end(master)
    os.close(master)
    assert b"got word" in words
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5


def test_input_that_nobody_reads_yet_holds_up_no_output(runtime: Runtime) -> None:
    """More than a terminal takes: it waits its turn, what the command shows meanwhile arrives, and nothing is lost."""
    wait = "while ! test -e /data/go; do sleep 0.05; done"
    line = f"stty raw -echo; echo ready; {wait}; echo seen; head -c 300000 | wc -c"
    folder, config = runtime.bundle("box", "sh", "-c", line)
    config["process"]["terminal"] = True
    save(folder, config)
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(HOUSE)
        argv = runtime.argv("run", "--bundle", folder, "box")
        os.execv(argv[0], argv)
    words = b""
    while b"ready" not in words:
        words += os.read(master, 4096)
    os.set_blocking(master, False)
    given, full = 0, 0
    while given < 300_000 and full < 20:  # in between, what passes it on has its turn
        try:
            given += os.write(master, b"x" * min(4096, 300_000 - given))
            full = 0
        except BlockingIOError:
            full += 1
            time.sleep(0.05)
    assert given < 300_000  # so it is held up
    (folder / "rootfs/data/go").touch()
    os.set_blocking(master, True)
    while b"seen" not in words:
        words += os.read(master, 4096)
    while given < 300_000:
        given += os.write(master, b"x" * min(4096, 300_000 - given))
    words += to_the_end(master)
    os.close(master)
    assert words.split() == [b"ready", b"seen", b"300000"]
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
