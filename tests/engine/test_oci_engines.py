"""Other engines on this runtime: Debian's dockerd and podman run their containers by ``wharf runtime``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.supervise import criu
from tests.conftest import needs_root
from tests.criu import needs_criu
from tests.dockerd import dockerd
from tests.imagemaker import busybox, busybox_archive
from tests.oci import HOUSE, MAPPED
from tests.patience import patience

pytestmark = [needs_root, pytest.mark.slow]

Call = Callable[..., subprocess.CompletedProcess[str]]


def _needs(*programs: str) -> None:
    missing = [name for name in programs if shutil.which(name) is None]
    if missing or busybox() is None:
        pytest.skip(f"needs {', '.join(missing or ['busybox-static'])} from Debian")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An executable as ``wharf-runtime`` is one where the package is installed."""
    path = tmp_path_factory.mktemp("bin") / "wharf-runtime"
    path.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(HOUSE)!r})\n"
        "from core.oci.entry import main\nsys.exit(main())\n"
    )
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A docker archive of busybox."""
    _needs("skopeo")
    folder = tmp_path_factory.mktemp("image")
    oci = busybox_archive(folder / "oci.tar")
    target = folder / "docker.tar"
    source, copy = f"oci-archive:{oci}", f"docker-archive:{target}:busybox:test"
    subprocess.run(["skopeo", "copy", "--quiet", source, copy], check=True)
    return target


def _caller(argv: list[str], env: dict[str, str]) -> Call:
    def call(*words: str, tty: str = "") -> subprocess.CompletedProcess[str]:
        line = [*argv, *words]
        if tty:
            return _on_a_terminal(line, env, tty)
        return subprocess.run(
            line, capture_output=True, text=True, timeout=patience(90), check=False, env=env, stdin=subprocess.DEVNULL
        )

    return call


def _on_a_terminal(argv: list[str], env: dict[str, str], part: str) -> subprocess.CompletedProcess[str]:
    """Run it on a terminal until ``part`` is shown; the command ends when it is given a line.

    It must not end by itself: of a command that ends at once podman's attach loses the last output now and then, with
    every runtime (it is in ``podman logs``).
    """
    line = ["script", "-qec", " ".join(f"'{word}'" for word in argv), "/dev/null"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        limit = threading.Timer(patience(90), process.kill)
        limit.start()
        try:
            words = b""
            while part.encode() not in words and (more := os.read(process.stdout.fileno(), 4096)):
                words += more
            process.stdin.write(b"\n")
            process.stdin.flush()
            words += process.stdout.read()
        finally:
            limit.cancel()
    return subprocess.CompletedProcess(line, process.returncode, words.decode(), "")


@pytest.fixture(scope="module")
def docker(program: Path, archive: Path) -> Iterator[Call]:
    _needs("dockerd", "docker", "containerd", "script")
    options = ("--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-masq=false")
    with dockerd(*options, "--add-runtime", f"wharf={program}", "--default-runtime", "wharf") as client:
        call = _caller(client, dict(os.environ))
        loaded = call("load", "--input", str(archive))
        assert loaded.returncode == 0, loaded.stderr
        yield call


@pytest.fixture(scope="module")
def podman(program: Path, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    _needs("podman", "conmon", "script")
    folder = Path(tempfile.mkdtemp(prefix="wh", dir="/tmp"))  # podman wants its run root short
    # podman asks for more open files than a host without CAP_SYS_RESOURCE can give.
    (folder / "conf").write_text('[containers]\ndefault_ulimits=["nofile=1024:1024","nproc=4096:4096"]\n')
    options = ["--root", f"{folder}/root", "--runroot", f"{folder}/run", "--tmpdir", f"{folder}/tmp"]
    options += ["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime", str(program)]
    call = _caller(["podman", *options], {**os.environ, "CONTAINERS_CONF": f"{folder}/conf"})
    loaded = call("load", "--input", str(archive))
    assert loaded.returncode == 0, loaded.stderr
    yield call
    call("rm", "--all", "--force", "--time", "0")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["docker", "podman"])
def engine_call(request: pytest.FixtureRequest) -> Call:
    call: Call = request.getfixturevalue(request.param)
    return call


RUN = ("run", "--rm", "--network", "none")
IMAGE = "busybox:test"


def test_output_and_exit_codes(engine_call: Call) -> None:
    done = engine_call(*RUN, IMAGE, "sh", "-c", "id -u; echo err >&2; exit 5")
    assert (done.returncode, done.stdout) == (5, "0\n")
    assert "err" in done.stderr
    assert engine_call(*RUN, IMAGE, "nosuch").returncode == 127
    assert engine_call(*RUN, IMAGE, "/etc/passwd").returncode == 126


def test_options_arrive(engine_call: Call) -> None:
    options = ["--read-only", "--cap-drop", "ALL", "--user", "1000:1000", "--hostname", "box", "--memory", "64m"]
    options += ["--ulimit", "nofile=64:64", "--ulimit", "nproc=4096:4096"]
    options += ["--security-opt", "no-new-privileges", "--tmpfs", "/t"]
    line = "id -u; hostname; ulimit -n; touch /x; touch /t/y && echo tmpfs; "
    line += "grep -E 'CapEff|NoNew|Seccomp:' /proc/self/status"
    done = engine_call(*RUN, *options, IMAGE, "sh", "-c", line)
    words = done.stdout.split()
    assert words, done.stderr
    assert words[:4] == ["1000", "box", "64", "tmpfs"]
    assert words[4:] == ["CapEff:", "0000000000000000", "NoNewPrivs:", "1", "Seccomp:", "2"]
    done = engine_call(*RUN, "--privileged", IMAGE, "sh", "-c", "ls /dev | wc -l")
    assert int(done.stdout) > 15, done.stderr


def test_a_terminal(engine_call: Call) -> None:
    line = "test -t 0 && test -c /dev/console && echo terminal && read x && exit 3"
    done = engine_call(*RUN, "--interactive", "--tty", IMAGE, "sh", "-c", line, tty="terminal")
    assert (done.returncode, "terminal" in done.stdout) == (3, True), done.stdout


def test_a_container_in_the_background(engine_call: Call) -> None:
    line = "trap 'exit 4' TERM; while :; do echo tick; sleep 0.1; done"
    options = ["--detach", "--name", "box", "--network", "none", "--memory", "64m", "--pids-limit", "50"]
    started = engine_call("run", *options, IMAGE, "sh", "-c", line)
    assert started.returncode == 0, started.stderr
    try:
        done = engine_call("exec", "--user", "1000", "--env", "A=b", "box", "sh", "-c", "id -u; echo $A")
        assert done.stdout == "1000\nb\n"
        assert engine_call("exec", "box", "sh", "-c", "exit 9").returncode == 9
        line = "test -t 0 && echo ok && read x"
        assert "ok" in engine_call("exec", "-it", "box", "sh", "-c", line, tty="ok").stdout
        assert engine_call("pause", "box").returncode == 0
        assert engine_call("inspect", "--format", "{{.State.Status}}", "box").stdout == "paused\n"
        assert engine_call("unpause", "box").returncode == 0
        assert "trap" in engine_call("top", "box").stdout
        assert "box" in engine_call("stats", "--no-stream").stdout
        assert engine_call("stop", "--time", "10", "box").returncode == 0
        assert engine_call("inspect", "--format", "{{.State.ExitCode}}", "box").stdout == "4\n"
        assert engine_call("start", "box").returncode == 0
        assert engine_call("kill", "box").returncode == 0
        assert "tick" in engine_call("logs", "box").stdout
    finally:
        assert engine_call("rm", "--force", "box").returncode == 0


def test_user_namespaces_of_podman(podman: Call) -> None:
    line = "id -u; cat /proc/self/uid_map; touch /x && echo ok"
    done = podman(*RUN, "--uidmap", f"0:{MAPPED}:5000", IMAGE, "sh", "-c", line)
    assert done.stdout.split() == ["0", "0", str(MAPPED), "5000", "ok"], done.stderr


def test_limits_change_under_docker(docker: Call) -> None:
    options = ["--detach", "--name", "limited", "--network", "none", "--memory", "64m", "--memory-swap", "128m"]
    assert docker("run", *options, IMAGE, "sleep", "100").returncode == 0
    try:
        done = docker("update", "--memory", "80m", "--memory-swap", "160m", "limited")
        assert done.returncode == 0, done.stderr
        assert "80MiB" in docker("stats", "--no-stream", "--format", "{{.MemUsage}}", "limited").stdout
    finally:
        docker("rm", "--force", "limited")


def test_health_and_joined_namespaces_under_docker(docker: Call) -> None:
    options = ["--detach", "--name", "first", "--network", "none", "--health-cmd", "true", "--health-interval", "1s"]
    assert docker("run", *options, IMAGE, "sleep", "100").returncode == 0
    try:
        joined = ["--network", "container:first", "--pid", "container:first"]
        seen = docker("run", "--rm", *joined, IMAGE, "ps")
        assert "sleep 100" in seen.stdout, seen.stderr
        end = time.monotonic() + patience(20)
        while docker("inspect", "--format", "{{.State.Health.Status}}", "first").stdout != "healthy\n":
            assert time.monotonic() < end
            time.sleep(0.2)
    finally:
        docker("rm", "--force", "first")


def test_checkpoints_of_podman(podman: Call, tmp_path: Path) -> None:
    needs_criu()
    if shutil.which("criu") != criu.find():
        pytest.skip("podman takes the criu that PATH leads to")
    name = "counter"
    line = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"
    assert podman("run", "-d", "--name", name, "--network", "none", IMAGE, "sh", "-c", line).returncode == 0

    def last() -> int:
        return int((podman("logs", "--tail", "1", name).stdout.split() or ["0"])[-1])

    def goes_on() -> None:
        here, end = last(), time.monotonic() + patience(30)
        while last() < here + 2:
            assert time.monotonic() < end
        found = podman("logs", name).stdout.split()
        assert found == [str(number) for number in range(1, len(found) + 1)]

    goes_on()
    archive = str(tmp_path / "counter.tar.gz")
    for words in (["checkpoint", name], ["restore", name], ["checkpoint", "--export", archive, name], ["rm", name]):
        done = podman("container", *words)
        assert done.returncode == 0, done.stderr
        if words[0] == "restore":
            goes_on()
    done = podman("container", "restore", "--import", archive)
    assert done.returncode == 0, done.stderr
    here, end = last(), time.monotonic() + patience(30)
    while last() < here + 2:
        assert time.monotonic() < end
    assert podman("rm", "--force", "--time", "0", name).returncode == 0
