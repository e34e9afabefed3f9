"""``wharf runtime`` under a service manager that waits to hear that the container is ready (sd_notify(3))."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import needs_root
from tests.imagemaker import busybox
from tests.oci import HOUSE, MAPPED, Config, Runtime, save
from tests.patience import patience

Popen = subprocess.Popen[str]

pytestmark = [
    needs_root,
    pytest.mark.skipif(busybox() is None, reason="needs busybox-static from Debian"),
    pytest.mark.skipif(not Path("/usr/bin/perl").exists(), reason="needs perl, which busybox has nothing instead of"),
]

SAY = """perl -MSocket -e 'socket(S, AF_UNIX, SOCK_DGRAM, 0) && send(S, $ARGV[0], 0, sockaddr_un($ENV{NOTIFY_SOCKET}))
    or die "$!\\n"' """


class Manager:
    """A service manager's socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0"))

    def hear(self) -> str:
        """The next word; a barrier is left behind at once."""
        self.socket.settimeout(patience(60))
        data, fds, _, _ = socket.recv_fds(self.socket, 4096, 4)
        for fd in fds:
            os.close(fd)
        assert len(fds) == (data == b"BARRIER=1")
        return data.decode()

    def silent(self) -> bool:
        self.socket.setblocking(False)
        try:
            return not self.socket.recv(4096)
        except BlockingIOError:
            return True


@pytest.fixture(params=["path", "abstract"])
def manager(short: Path, request: pytest.FixtureRequest) -> Iterator[Manager]:
    made = Manager(str(short / "manager") if request.param == "path" else f"@wharf-test-{os.getpid()}")
    yield made
    made.socket.close()


def bundle(runtime: Runtime, script: str, change: Callable[[Config], object] = lambda config: None) -> Path:
    """A container with the host's programs."""
    folder, config = runtime.bundle("box", "sh", "-c", script)
    for name in ("usr", "lib", "lib64"):
        (folder / "rootfs" / name).mkdir(exist_ok=True)
        options = ["bind", "ro"]
        if Path("/", name).exists():
            config["mounts"].append(
                {"destination": f"/{name}", "type": "bind", "source": f"/{name}", "options": options}
            )
    config["process"]["env"] = ["PATH=/bin:/usr/bin", "NOTIFY_SOCKET=/of/the/image"]
    change(config)
    save(folder, config)
    return folder


def begin(runtime: Runtime, manager: Manager, *words: str | Path, output: int = subprocess.DEVNULL) -> Popen:
    env = {**os.environ, "NOTIFY_SOCKET": manager.address}
    return subprocess.Popen(
        runtime.argv(*words),
        cwd=HOUSE,
        env=env,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
    )


def test_a_start_lasts_until_the_command_is_ready(runtime: Runtime, manager: Manager) -> None:
    go = runtime.base / "go"
    os.mkfifo(go)
    script = f"{SAY} STATUS=soon || exit 3; read word </go; {SAY} 'STATUS=up\nREADY=1\n' || exit 3; exec sleep 100"

    def mount_go(config: Config) -> None:
        config["mounts"].append({"destination": "/go", "type": "bind", "source": str(go), "options": ["bind"]})

    folder = bundle(runtime, script.replace("\\n", "\n"), mount_go)
    assert begin(runtime, manager, "create", "--bundle", folder, "box").wait(patience(60)) == 0
    start = begin(runtime, manager, "start", "box")
    with go.open("w") as file:  # its reader has said something that is no readiness
        assert start.poll() is None
        assert manager.silent()
        file.write("\n")
    pid = runtime.state("box")["pid"]
    assert manager.hear() == f"MAINPID={pid}\nREADY=1"
    assert manager.hear() == "BARRIER=1"
    assert start.wait(patience(60)) == 0
    assert runtime.state("box")["status"] == "running"
    assert runtime.good("exec", "box", "sh", "-c", "echo $NOTIFY_SOCKET") == "\n", "the first process alone has it"


def test_who_waits_in_the_foreground_is_what_is_watched(runtime: Runtime, manager: Manager) -> None:
    folder = bundle(
        runtime,
        f"echo $NOTIFY_SOCKET; echo >>/run/notify/notify.sock; mkdir /run/notify/mine; {SAY} READY=1 || exit 3; exit 7",
    )
    run = begin(runtime, manager, "run", "--bundle", folder, "box", output=subprocess.PIPE)
    assert manager.hear() == f"MAINPID={run.pid}\nREADY=1"
    assert manager.hear() == "BARRIER=1"
    said, _ = run.communicate(timeout=patience(60))
    assert run.returncode == 7, said
    assert said.splitlines()[0] == "/run/notify/notify.sock"
    assert "Read-only" in said


def test_a_detached_run_of_another_user(runtime: Runtime, manager: Manager) -> None:
    """In a user namespace, and as a user who owns nothing there."""

    def change(config: Config) -> None:
        maps = [{"containerID": 0, "hostID": MAPPED, "size": 2000}]
        config["linux"]["namespaces"].append({"type": "user"})
        config["linux"] |= {"uidMappings": maps, "gidMappings": maps}
        config["process"]["user"] = {"uid": 1000, "gid": 1000}
        (runtime.base / "box/rootfs/run/notify").mkdir(parents=True)  # the root file system is not that root's

    folder = bundle(runtime, f"{SAY} READY=1 || exit 3; exec sleep 100", change)
    run = begin(runtime, manager, "run", "--detach", "--bundle", folder, "box")
    assert manager.hear() == f"MAINPID={runtime.state('box')['pid']}\nREADY=1"
    assert run.poll() is None, "it does not wait until that is read"
    assert manager.hear() == "BARRIER=1"
    assert run.wait(patience(60)) == 0


def test_a_command_that_ends_is_not_waited_for(runtime: Runtime, manager: Manager) -> None:
    folder = bundle(runtime, f"{SAY} STATUS=no")
    assert begin(runtime, manager, "run", "--detach", "--bundle", folder, "box").wait(patience(60)) == 0
    assert manager.silent()
    runtime.good("delete", "--force", "box")


def test_a_manager_that_is_gone_is_told_of_and_ends_nothing(runtime: Runtime, manager: Manager) -> None:
    manager.socket.close()
    folder = bundle(runtime, f"{SAY} READY=1 || exit 3")
    run = begin(runtime, manager, "run", "--bundle", folder, "box", output=subprocess.PIPE)
    said, _ = run.communicate(timeout=patience(60))
    assert run.returncode == 0
    assert "was not told" in said
    assert manager.address in said


def test_without_a_manager_nothing_is_made(runtime: Runtime, manager: Manager) -> None:
    folder = bundle(runtime, "echo $NOTIFY_SOCKET; test ! -e /run/notify")
    env = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    assert runtime.good("run", "--bundle", folder, "box", env=env) == "/of/the/image\n"
    with open(runtime.base / "out", "w") as file:
        assert runtime.call("create", "--bundle", folder, "box", env=env, stdout=file, stderr=file).returncode == 0
    start = begin(runtime, manager, "start", "box")
    assert start.wait(patience(60)) == 0, "who was created without has nothing to tell"
    assert manager.silent()
