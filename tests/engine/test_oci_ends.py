"""``wharf runtime``: what is left when somebody is killed, hangs, or comes at the same time; and what is handed on."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.oci.store import Held, Store
from tests.conftest import needs_root
from tests.imagemaker import busybox
from tests.oci import HOUSE, MAPPED, Config, Runtime, save
from tests.patience import patience

pytestmark = [needs_root, pytest.mark.skipif(busybox() is None, reason="needs busybox-static from Debian")]


def background(runtime: Runtime, *words: str | Path) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    return subprocess.Popen(runtime.argv(*words), cwd=HOUSE, stdin=quiet, stdout=quiet, stderr=quiet)


def create(runtime: Runtime, folder: Path, cid: str = "box") -> None:
    done = runtime.call("create", "--bundle", folder, cid, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert done.returncode == 0


#: Of the hooks here that do not end: one that nothing else on this host sleeps.
FOREVER = f"{300_000 + os.getpid()}"


def hook_runs(process: subprocess.Popen[bytes]) -> bool:
    """Wait until a hook sleeps :data:`FOREVER`; false where the command has ended before."""
    end = time.monotonic() + patience(20)
    while not any(FOREVER in line for line in command_lines()):
        assert time.monotonic() < end, "no hook runs"
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    return True


def command_lines() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_text(errors="replace")


@pytest.mark.parametrize("kind", ["startContainer", "poststart"])
def test_a_start_that_hangs_can_be_ended(runtime: Runtime, kind: str) -> None:
    folder, config = runtime.bundle("box", "sleep", "100")
    config["hooks"] = {kind: [{"path": "/bin/sleep", "args": ["sleep", FOREVER]}]}
    save(folder, config)
    create(runtime, folder)
    start = background(runtime, "start", "box")
    try:
        assert hook_runs(start)
        runtime.good("delete", "--force", "box")
        assert runtime.good("list", "-q") == ""
        if kind == "startContainer":
            assert start.wait(patience(20)) == 1
    finally:
        subprocess.run(["pkill", "-P", str(start.pid)], check=False)  # its hook
        start.kill()
        start.wait()


def test_a_folder_of_nobody_is_no_container(tmp_path: Path) -> None:
    store = Store(tmp_path)
    held = Held("box", "/b", "none/box", 1.0, 0)
    (tmp_path / "box").mkdir()  # empty: whoever made it was killed
    (tmp_path / "~box~1").mkdir()
    os.close(store.make(held, {}))
    assert [one.id for one in store.all()] == ["box"]
    assert not (tmp_path / "~box~1").exists()
    store.remove("box")
    assert list(tmp_path.iterdir()) == []


def test_who_waited_for_a_deleted_container_does_not_get_the_next(tmp_path: Path) -> None:
    store = Store(tmp_path)
    os.close(store.make(Held("box", "/b", "none/box", 1.0, 0), {}))
    child = os.fork()
    if child == 0:
        time.sleep(0.2)
        with store.locked("box") as held:  # waits for ours, and finds the other one
            os._exit(int(held.created))
    with store.locked("box"):
        time.sleep(0.6)
        store.remove("box")
        lock = store.make(Held("box", "/b", "none/box", 2.0, 0), {})
    time.sleep(0.3)
    assert os.waitpid(child, os.WNOHANG) == (0, 0), "it did not wait for the lock of the new one"
    os.close(lock)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2


def test_a_create_killed_with_its_cgroup_made_leaves_none(runtime: Runtime) -> None:
    folder, config = runtime.bundle("box", "sleep", "100")
    # The hook lasts: cgroup and first process are there, and the state does not know either yet.
    config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", FOREVER]}]}
    save(folder, config)
    process = background(runtime, "create", "--bundle", folder, "box")
    assert hook_runs(process)
    listed = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for pid in listed.stdout.split():
        with contextlib.suppress(ProcessLookupError):  # what ends with its parent may have been reaped by now
            os.kill(int(pid), signal.SIGKILL)
    runtime.good("delete", "--force", "box")  # the fixture sees that no group is left


def test_a_create_killed_in_its_hooks_leaves_no_process(runtime: Runtime, tmp_path: Path) -> None:
    """In a user namespace two processes are on their way, of which one only waits; both have changed their user, with
    which the kernel forgets what they asked for: to be ended with their parent."""
    folder, config = runtime.bundle("box", "sleep", "100")
    config["linux"]["namespaces"].append({"type": "user"})
    maps = [{"containerID": 0, "hostID": MAPPED, "size": 1000}]
    config["linux"] |= {"uidMappings": maps, "gidMappings": maps}
    os.mkfifo(tmp_path / "here")
    hook = ["sh", "-c", f"echo $$ >{tmp_path}/here; exec sleep 100"]
    config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": hook}]}
    save(folder, config)
    making = background(runtime, "create", "--bundle", folder, "box")
    with open(os.open(tmp_path / "here", os.O_RDWR | os.O_NONBLOCK), "rb", buffering=0) as here:
        assert select.select([here], [], [], patience(20))[0]
        sleeper = int(here.read(16))
    try:
        children = Path(f"/proc/{making.pid}/task/{making.pid}/children").read_text().split()
        assert len(children) >= 2
        children.remove(str(sleeper))
        ends = [os.pidfd_open(int(pid)) for pid in children]
        making.kill()
        making.wait()
        for end in ends:
            poll = select.poll()
            poll.register(end, select.POLLIN)
            assert poll.poll(patience(20) * 1000), "it has outlived its parent"
            os.close(end)
    finally:
        os.kill(sleeper, signal.SIGKILL)
        making.kill()
        making.wait()
    runtime.good("delete", "--force", "box")


def test_exec_in_a_paused_container_waits_there(runtime: Runtime) -> None:
    folder, config = runtime.bundle("box", "sleep", "100")
    save(folder, config)
    runtime.good("run", "--detach", "--bundle", folder, "box", stdout=subprocess.DEVNULL)
    runtime.good("pause", "box")
    process = background(runtime, "exec", "--ignore-paused", "box", "true")
    time.sleep(0.7)
    assert process.poll() is None
    runtime.good("resume", "box")
    assert process.wait(patience(20)) == 0


def test_sockets_are_handed_on(runtime: Runtime) -> None:
    folder, config = runtime.bundle("box", "sh", "-c", "echo $LISTEN_FDS $LISTEN_PID; cat <&3")
    save(folder, config)
    read, write = os.pipe()
    os.write(write, b"through\n")
    os.close(write)
    argv = " ".join(f"'{word}'" for word in runtime.argv("run", "--bundle", folder, "box"))
    line = f"LISTEN_FDS=1 LISTEN_PID=$$ exec {argv} 3<&{read}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=HOUSE, capture_output=True, text=True, pass_fds=(read,), check=False
    )
    os.close(read)
    assert done.stdout.split() == ["1", "1", "through"], done.stderr


def test_the_working_directory_is_not_in_an_empty_path(runtime: Runtime) -> None:
    folder, config = runtime.bundle("box", "evil", cwd="/tmp", env=[])
    evil = folder / "rootfs/tmp/evil"
    evil.write_text("#!/bin/sh\n")
    evil.chmod(0o755)
    save(folder, config)
    assert "not found in $PATH" in runtime.call("run", "--bundle", folder, "box").stderr


def test_figures_of_proc_may_be_covered_and_nothing_else(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("MemTotal: 1 kB\n")

    def over(path: str) -> Config:
        folder, config = runtime.bundle("box", "cat", path)
        entry = {"destination": path, "type": "bind", "source": str(tmp_path / "figures"), "options": ["bind", "ro"]}
        config["mounts"].append(entry)
        save(folder, config)
        return config

    over("/proc/meminfo")
    assert runtime.good("run", "--bundle", runtime.base / "box", "box") == "MemTotal: 1 kB\n"
    over("/proc/self/attr/exec")
    assert "/proc" in runtime.call("run", "--bundle", runtime.base / "box", "box").stderr


def test_an_image_cannot_speak_to_the_engine(runtime: Runtime) -> None:
    """podman copies an image's annotations into config.json."""
    folder, config = runtime.bundle("box", "sh", "-c", "id -u; cat /proc/1/comm; true", user={"uid": 1000, "gid": 1000})
    config["annotations"] = {"io.wharfinger.user": "0", "io.wharfinger.groups": "0", "io.wharfinger.init": "true"}
    save(folder, config)
    assert runtime.good("run", "--bundle", folder, "box").split() == ["1000", "sh"]
    assert json.loads((folder / "config.json").read_text())["annotations"]["io.wharfinger.user"] == "0"
