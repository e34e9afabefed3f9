"""``wharf runtime``: the verbs, their flags and what each leaves behind."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import needs_root
from tests.imagemaker import busybox
from tests.oci import HOUSE, Runtime, save
from tests.patience import patience

pytestmark = [needs_root, pytest.mark.skipif(busybox() is None, reason="needs busybox-static from Debian")]


def wait_for(what: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + patience(seconds)
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def created(runtime: Runtime, cid: str, *argv: str, words: tuple[str | Path, ...] = (), **process: Any) -> Path:
    """A created container; its output goes to the file that is returned."""
    folder, config = runtime.bundle(cid, *argv, **process)
    save(folder, config)
    output = runtime.base / f"{cid}.out"
    with output.open("wb") as file:
        done = runtime.call("create", "--bundle", folder, *words, cid, stdout=file, stderr=file)
    assert done.returncode == 0, output.read_text()
    return output


def test_a_whole_life(runtime: Runtime) -> None:
    pid_file = runtime.base / "pid"
    output = created(runtime, "box", "sh", "-c", "echo hello; exec sleep 100", words=("--pid-file", pid_file))
    state = runtime.state("box")
    assert (state["id"], state["status"], state["ociVersion"]) == ("box", "created", "1.2.0")
    assert state["bundle"] == str(runtime.base / "box")
    assert pid_file.read_text() == str(state["pid"])
    assert output.read_text() == "", "the command runs before `start`"
    runtime.good("start", "box")
    assert runtime.state("box")["status"] == "running"
    wait_for(lambda: output.read_text() == "hello\n")
    wait_for(lambda: Path(f"/proc/{state['pid']}/cmdline").read_bytes().startswith(b"sleep\0"))
    runtime.good("kill", "box", "KILL")
    wait_for(lambda: runtime.state("box")["status"] == "stopped")
    assert runtime.state("box")["pid"] == 0
    runtime.good("delete", "box")
    assert runtime.call("state", "box").returncode == 1


def test_what_a_state_does_not_allow_is_refused(runtime: Runtime) -> None:
    created(runtime, "box", "sleep", "100")
    folder = runtime.base / "box"
    for words in (("create", "--bundle", folder, "box"), ("delete", "box"), ("resume", "box")):
        done = runtime.call(*words)
        assert done.returncode == 1, words
        assert "box" in done.stderr
    runtime.good("start", "box")
    for words in (("start", "box"), ("delete", "box")):
        assert "it is running" in runtime.call(*words).stderr
    runtime.good("kill", "box", "9")
    wait_for(lambda: runtime.state("box")["status"] == "stopped")
    assert "container not running" in runtime.call("kill", "box").stderr  # the words that containerd knows
    for words in (("start", "box"), ("kill", "box"), ("exec", "box", "true"), ("pause", "box"), ("events", "box")):
        assert runtime.call(*words).returncode == 1, words
    runtime.good("kill", "--all", "box", "KILL")  # nothing left to kill is no error there
    runtime.good("delete", "box")
    assert "does not exist" in runtime.call("delete", "box").stderr
    runtime.good("delete", "--force", "box")


@pytest.mark.parametrize("signo", ["TERM", "SIGINT", "1", "KILL"])
def test_a_created_container_can_be_killed(runtime: Runtime, signo: str) -> None:
    created(runtime, "box", "sleep", "100")
    runtime.good("kill", "box", signo)
    wait_for(lambda: runtime.state("box")["status"] == "stopped")


def test_the_command_line_is_refused_in_words(runtime: Runtime) -> None:
    folder, config = runtime.bundle("box", "true")
    save(folder, config)
    for words, part in (
        (("create", "--bundle", folder, "../up"), "invalid container id"),
        (("--systemd-cgroup", "create", "--bundle", folder, "box"), "cgroupfs"),
        (("create", "--no-pivot", "--bundle", folder, "box"), "--no-pivot"),
        (("create", "--preserve-fds", "3", "--bundle", folder, "box"), "--preserve-fds"),
        (("create", "--console-socket", "/none", "--bundle", folder, "box"), "no terminal"),
        (("create", "--bundle", runtime.base / "none", "box"), "config.json does not exist"),
        (("kill", "box", "TERM"), "does not exist"),
        (("nosuch",), "invalid choice"),
    ):
        done = runtime.call(*words)
        assert (done.returncode, part in done.stderr) == (1, True), done.stderr
    created(runtime, "live", "sleep", "100")
    assert "unknown signal" in runtime.call("kill", "live", "NOSUCH").stderr


def test_an_invalid_configuration_names_field_value_and_rule(runtime: Runtime) -> None:
    def spoil(config: dict[str, Any]) -> None:
        config["process"]["cwd"] = "tmp"

    done = runtime.run("box", "true", change=spoil)
    assert done.returncode == 1
    assert 'process.cwd is "tmp": it is not an absolute path' in done.stderr


def test_errors_are_logged_in_both_formats(runtime: Runtime) -> None:
    log = runtime.base / "log"
    runtime.call("--log", log, "--log-format", "json", "state", "none")
    line = json.loads(log.read_text())
    assert line["level"] == "error"
    assert "does not exist" in line["msg"]
    log.unlink()
    runtime.call("--log", log, "state", "none")
    assert "level=error" in log.read_text()


@pytest.mark.parametrize(
    ("argv", "words"),
    [(("nosuch",), "executable file not found in $PATH"), (("/etc/passwd",), "permission denied")],
)
def test_a_command_that_is_not_there_is_told_by_create(runtime: Runtime, argv: tuple[str, ...], words: str) -> None:
    folder, config = runtime.bundle("box", *argv)
    save(folder, config)
    done = runtime.call("create", "--bundle", folder, "box")
    assert done.returncode == 1
    assert words in done.stderr
    assert runtime.good("list", "-q") == ""


def test_a_command_that_the_user_may_not_run_is_told_by_start(runtime: Runtime) -> None:
    folder, _ = runtime.bundle("box", "true")
    (folder / "rootfs/data/tool").write_text("#!/bin/sh\n")
    (folder / "rootfs/data/tool").chmod(0o700)
    created(runtime, "box", "/data/tool", user={"uid": 1000, "gid": 1000})
    done = runtime.call("start", "box")
    assert done.returncode == 1
    assert "permission denied" in done.stderr
    wait_for(lambda: runtime.state("box")["status"] == "stopped")


def test_run_gives_the_exit_code_and_leaves_nothing(runtime: Runtime) -> None:
    done = runtime.run("box", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert runtime.run("box", "sh", "-c", "kill -9 $$").returncode == 0  # pid 1 cannot kill itself
    assert runtime.run("box", "nosuch").returncode == 1
    assert runtime.good("list", "-q") == ""


def test_run_passes_signals_on(runtime: Runtime) -> None:
    folder, config = runtime.bundle("box", "sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done")
    save(folder, config)
    process = subprocess.Popen(
        runtime.argv("run", "--bundle", folder, "box"), cwd=HOUSE, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(patience(20)) == 3
    process.stdout.close()


def test_a_change_of_the_bundle_comes_too_late(runtime: Runtime) -> None:
    output = created(runtime, "box", "echo", "first")
    folder, config = runtime.bundle("box", "echo", "second")
    save(folder, config)
    runtime.good("start", "box")
    wait_for(lambda: output.read_text() == "first\n")


def test_exec_and_its_flags(runtime: Runtime) -> None:
    created(runtime, "box", "sleep", "1000")
    runtime.good("start", "box")
    look = "id -u; id -g; pwd; echo $X; grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status"
    words = ("--user", "1000:7", "--cwd", "/tmp", "--env", "X=y", "--cap", "CAP_SYS_TIME", "--no-new-privs")
    lines = runtime.good("exec", *words, "box", "sh", "-c", look).splitlines()
    assert lines[:4] == ["1000", "7", "/tmp", "y"]
    assert lines[5].split()[1] == "1"
    assert runtime.call("exec", "box", "sh", "-c", "exit 9").returncode == 9
    assert "not found" in runtime.call("exec", "box", "nosuch").stderr
    for user in ("1000:", ":0", "a:b", "-1", "1:2:3", "4294967296"):
        assert runtime.call("exec", f"--user={user}", "box", "true").returncode == 1, user
    process = runtime.base / "process.json"
    own = {"args": ["sh", "-c", "echo $Y"], "cwd": "/", "env": ["PATH=/bin", "Y=z"], "user": {"uid": 0, "gid": 0}}
    process.write_text(json.dumps(own))
    assert runtime.good("exec", "--process", process, "box") == "z\n"
    pid_file = runtime.base / "pid"
    runtime.good("exec", "--detach", "--pid-file", pid_file, "box", "sleep", "50", stdout=subprocess.DEVNULL)
    pid = int(pid_file.read_text())
    assert Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\x0050")
    assert pid in json.loads(runtime.good("ps", "--format", "json", "box"))
    assert "sleep 50" in runtime.good("ps", "box")


def test_pause_holds_every_process(runtime: Runtime) -> None:
    output = created(runtime, "box", "sh", "-c", "while :; do echo x; sleep 0.02; done")
    runtime.good("start", "box")
    wait_for(lambda: output.stat().st_size > 4)
    runtime.good("pause", "box")
    assert runtime.state("box")["status"] == "paused"
    assert "it is paused" in runtime.call("exec", "box", "true").stderr
    size = output.stat().st_size
    time.sleep(0.3)
    assert output.stat().st_size == size
    runtime.good("resume", "box")
    wait_for(lambda: output.stat().st_size > size)
    runtime.good("pause", "box")
    runtime.good("kill", "box", "KILL")  # reaches a frozen one as well
    wait_for(lambda: runtime.state("box")["status"] == "stopped")


def test_kill_all_reaches_every_process(runtime: Runtime) -> None:
    folder, config = runtime.bundle("box", "sh", "-c", "sleep 301 & sleep 302 & wait")
    config["linux"]["namespaces"] = [one for one in config["linux"]["namespaces"] if one["type"] != "pid"]
    save(folder, config)
    runtime.good("run", "--detach", "--bundle", folder, "box", stdout=subprocess.DEVNULL)
    wait_for(lambda: len(json.loads(runtime.good("ps", "-f", "json", "box"))) == 3)
    runtime.good("kill", "--all", "box", "KILL")
    wait_for(lambda: not json.loads(runtime.good("ps", "-f", "json", "box")))


def test_update_and_events(runtime: Runtime) -> None:
    created(runtime, "box", "sleep", "100")
    runtime.good("start", "box")
    runtime.good("update", "--memory", str(64 << 20), "--memory-swap", str(128 << 20), "--pids-limit", "20", "box")
    line = json.loads(runtime.good("events", "--stats", "box"))
    assert (line["type"], line["id"]) == ("stats", "box")
    assert line["data"]["memory"]["usage"]["limit"] == 64 << 20
    assert line["data"]["pids"]["limit"] == 20
    resources = runtime.base / "resources.json"
    resources.write_text(json.dumps({"pids": {"limit": 30}}))
    runtime.good("update", "--resources", resources, "box")
    assert json.loads(runtime.good("events", "--stats", "box"))["data"]["pids"]["limit"] == 30
    done = runtime.call("update", "--memory", "-5", "box")
    assert "linux.resources.memory.limit is -5" in done.stderr
    process = subprocess.Popen(
        runtime.argv("events", "--interval", "100ms", "box"), cwd=HOUSE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["type"] == "stats"
    runtime.good("kill", "box", "KILL")
    process.communicate(timeout=patience(60))  # which reads on: it writes faster than a pipe holds
    assert process.returncode == 0  # it ends with the container


def test_list_and_features_and_spec(runtime: Runtime) -> None:
    created(runtime, "b", "sleep", "100")
    created(runtime, "a", "sleep", "100")
    assert runtime.good("list", "-q").split() == ["a", "b"]
    rows = json.loads(runtime.good("list", "--format", "json"))
    assert [(row["id"], row["status"]) for row in rows] == [("a", "created"), ("b", "created")]
    assert {row["owner"] for row in rows} == {"root"}
    table = runtime.good("list").splitlines()
    assert table[0].split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    features = json.loads(runtime.good("features"))
    assert "createRuntime" in features["hooks"]
    assert "time" in features["linux"]["namespaces"]
    assert "SCMP_ACT_NOTIFY" in features["linux"]["seccomp"]["actions"]
    assert {"rro", "idmap", "tmpcopyup"} <= set(features["mountOptions"])
    runtime.good("spec", "--bundle", runtime.base)
    assert json.loads((runtime.base / "config.json").read_text())["process"]["args"] == ["sh"]
    assert "exists already" in runtime.call("spec", "--bundle", runtime.base).stderr
    assert "spec: 1.2" in runtime.good("--version")


def test_a_create_that_is_killed_can_be_deleted(runtime: Runtime) -> None:
    """At whatever moment: what it had made goes with ``delete --force``, and nothing of it runs on."""
    folder, config = runtime.bundle("box", "sleep", "100")
    save(folder, config)
    for pause in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3):
        process = subprocess.Popen(
            runtime.argv("create", "--bundle", folder, "box"),
            cwd=HOUSE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(pause)
        process.kill()
        process.wait()
        runtime.good("delete", "--force", "box")
        assert runtime.good("list", "-q") == ""


def test_deleting_is_the_end_of_the_cgroup_too(runtime: Runtime) -> None:
    created(runtime, "box", "sleep", "100")
    config = json.loads((runtime.base / "box/config.json").read_text())
    path = config["linux"]["cgroupsPath"].lstrip("/")
    groups = [base / path for base in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir())]
    assert [group for group in groups if group.is_dir()]
    runtime.good("delete", "--force", "box")
    assert not [group for group in groups if group.is_dir()]
