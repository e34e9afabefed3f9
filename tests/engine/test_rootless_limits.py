"""An ordinary user's engine: what it can and cannot have of the host, and how it says so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.rootlesslab import REASON, nothing_left, one, some_person, wait_for  # noqa: F401
from tests.patience import patience
from tests.person import HOUSE, TOOLS, Person, single_person, view

pytestmark = pytest.mark.real


# -- what cannot be had
def test_what_an_ordinary_user_cannot_have_is_said(person: Person) -> None:
    for words, said in (
        (("-p", "8080:80"), "published ports"),
        (("--network", "host", "--sysctl", "net.ipv4.ip_forward=1"), "host's network"),
        (("--ulimit", "nofile=1048577:1048577"), "CAP_SYS_RESOURCE"),
        (("--oom-score-adj", "-500"), "oom"),
    ):
        done = person.wharf("run", "--rm", "--name", "no", *words, "busybox:test", "true")
        assert done.returncode == 125, done
        assert said.lower() in done.stderr.lower()
        assert "Traceback" not in done.stderr
    assert person.ok("ps", "-aq") == ""


@pytest.mark.parametrize(("tun", "said"), [(True, "apt-get install passt"), (False, "/dev/net/tun")])
def test_what_networks_lack_is_said(person: Person, tun: bool, said: str) -> None:
    if not tun and not any(map(shutil.which, TOOLS)):
        pytest.skip("needs pasta or slirp4netns: without them that is what is missing")
    poor = person if tun else replace(person, mounts=view(person.base, tools=TOOLS, tun=False))
    poor.end()
    try:
        assert poor.ok("run", "--rm", "busybox:test", "ls", "/sys/class/net") == "lo"
        for words in (("--network", "bridge"), ("-p", "8080:80")):
            done = poor.wharf("run", "--rm", *words, "busybox:test", "true")
            assert done.returncode == 125
            assert said in done.stderr
            assert "--network none" in done.stderr
        checks = {row["name"]: row for row in json.loads(poor.wharf("doctor", "--format", "json").stdout)}
        assert checks["networks"]["status"] == "warn"
        assert said in json.dumps(checks["networks"])
    finally:
        poor.end()
        (person.base / "tun").chmod(0o666)


def test_without_a_delegated_cgroup(person: Person) -> None:
    if json.loads(person.ok("info", "--format", "json"))["CgroupLayout"] != "none":
        pytest.skip("a cgroup is delegated here")
    done = person.wharf("run", "--rm", "--memory", "64m", "busybox:test", "true")
    assert done.returncode == 125
    assert "memory limit" in done.stderr
    person.ok("run", "-d", "--name", "free", "busybox:test", "sh", "-c", "while :; do :; done")
    done = person.wharf("pause", "free")
    assert done.returncode != 0
    assert "cannot pause" in done.stderr or "cannot be paused" in done.stderr
    assert person.ok("ps", "--format", "{{.State}}") == "running"

    def busy() -> bool:
        stats = json.loads(person.ok("stats", "--no-stream", "--format", "json").splitlines()[0])
        return (
            stats["PIDs"] == "1" and float(stats["CPUPerc"].rstrip("%")) > 1 and not stats["MemUsage"].startswith("0B")
        )

    wait_for("its meters", busy, 30)


@pytest.fixture
def delegated(person: Person) -> Iterator[Person]:
    """The user, in a part of the v2 tree that is theirs, as systemd makes it for Delegate=yes."""
    tree = Path("/sys/fs/cgroup")
    if not (tree / "cgroup.controllers").exists():
        pytest.skip("needs cgroup v2: nothing of v1 can be delegated")
    person.end()  # a launcher that was started elsewhere would stay there
    (tree / "cgroup.subtree_control").write_text("+cpu +memory +pids")
    group = tree / f"wharf-person-{person.uid}"
    group.mkdir()
    for name in ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
        os.chown(group / name, person.uid, person.gid)
    yield replace(person, group=group)
    person.end()
    for folder, _, _ in os.walk(group, topdown=False):
        os.rmdir(folder)


def test_with_a_delegated_cgroup(delegated: Person) -> None:
    person = delegated
    assert json.loads(person.ok("info", "--format", "json"))["CgroupLayout"] == "v2"
    script = "trap 'exit 0' TERM; while :; do :; done"
    limits = ("--memory", "32m", "--pids-limit", "20", "--cpus", "0.5")
    cid = person.ok("run", "-d", "--name", "bound", *limits, "busybox:test", "sh", "-c", script)
    made = [folder for folder, _, _ in os.walk(person.group or "") if folder.endswith(cid)]
    assert len(made) == 1
    group = Path(made[0])
    assert (group / "memory.max").read_text() == f"{32 << 20}\n"
    assert (group / "pids.max").read_text() == "20\n"
    assert (group / "cpu.max").read_text() == "50000 100000\n"
    assert one(person, "sh -c trap") in [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    stats = json.loads(person.ok("stats", "--no-stream", "--format", "json").splitlines()[0])
    assert stats["MemUsage"].endswith("32MiB")
    person.ok("pause", "bound")
    assert "frozen 1" in (group / "cgroup.events").read_text()
    person.ok("unpause", "bound")
    person.ok("stop", "bound")
    assert not group.exists()
    eater = "head -c 64m /dev/zero | tail"
    done = person.wharf(
        "run", "--name", "eater", "--memory", "16m", "--memory-swap", "16m", "busybox:test", "sh", "-c", eater
    )
    assert done.returncode == 137 or "Killed" in done.stderr
    assert json.loads(person.ok("inspect", "eater"))[0]["State"]["OOMKilled"] is True
    for name in ("bound", "eater"):
        person.ok("rm", name)


@pytest.mark.parametrize("where", ["host", "container:first"])
def test_nothing_outlives_the_first_process_of_a_shared_pid_namespace(person: Person, where: str) -> None:
    """Where no cgroup holds them together, the container's own root does."""
    person.ok("run", "-d", "--name", "first", "busybox:test", "sleep", "600")
    script = "for i in 1 2 3; do sleep 777 & done; setsid sleep 777 & sleep 0.2"
    person.ok("run", "--rm", "--pid", where, "busybox:test", "sh", "-c", script)
    assert not [line for line in person.processes().values() if "777" in line]
    assert person.ok("ps", "--format", "{{.Names}}") == "first"


def test_devices_and_the_hosts_message_queues(person: Person) -> None:
    options = ("--device", "/dev/zero:/dev/nothing", "--device", "/dev/full", "--ipc", "host")
    said = person.ok(
        "run", "--rm", *options, "busybox:test", "sh", "-c", "stat -c %t:%T /dev/nothing /dev/full; ls /dev/mqueue"
    )
    assert said.split()[:2] == ["1:5", "1:7"]


def test_update(person: Person) -> None:
    person.ok("run", "-d", "--name", "new", "busybox:test", "sleep", "600")
    person.ok("update", "--restart", "on-failure:3", "new")
    assert json.loads(person.ok("inspect", "new"))[0]["HostConfig"]["RestartPolicy"]["MaximumRetryCount"] == 3
    if json.loads(person.ok("info", "--format", "json"))["CgroupLayout"] == "none":
        done = person.wharf("update", "--memory", "64m", "new")
        assert "cannot change the container's limits" in done.stderr
        assert "left behind" not in done.stderr


def test_the_hosts_network(person: Person) -> None:
    before = set(os.listdir("/sys/class/net"))
    links = set(person.ok("run", "--rm", "--network", "host", "busybox:test", "ls", "/sys/class/net").split())
    assert before & set(os.listdir("/sys/class/net")) <= links  # other tests' come and go
    person.ok("run", "-d", "--name", "alone", "busybox:test", "sleep", "600")
    assert person.ok("exec", "alone", "ls", "/sys/class/net") == "lo"
    assert person.ok("exec", "alone", "ping", "-c1", "127.0.0.1").count("1 packets received") == 1
    beside = person.ok("run", "--rm", "--network", "container:alone", "busybox:test", "readlink", "/proc/self/ns/net")
    assert beside == person.ok("exec", "alone", "readlink", "/proc/self/ns/net")
    # Joining the host's network leaves a way to exec as well.
    person.ok("run", "-d", "--name", "hosted", "--network", "host", "busybox:test", "sleep", "601")
    assert person.ok("exec", "hosted", "readlink", "/proc/self/ns/net") == os.readlink("/proc/self/ns/net")
    assert person.ok("network", "ls", "--format", "{{.Name}}").split() == ["none", "host"]


# -- where things are
def test_default_folders(person: Person) -> None:
    program = (
        "from pathlib import Path; from core.store.paths import find_instance\n"
        "own, named = find_instance(), find_instance(Path('/x')); print(own.root, own.run, named.run)"
    )
    root, run, other = person.code(program).stdout.split()
    assert (root, run) == (f"{person.home}/.local/share/wharf", f"{person.run_folder}/wharf")
    assert other.startswith(f"{person.run_folder}/wharf-")
    env = {**person.env, "XDG_DATA_HOME": f"{person.home}/data"}
    assert person.code(program, env=env).stdout.split()[0] == f"{person.home}/data/wharf"
    for path in (root, run):
        assert os.stat(path).st_mode & 0o7777 == 0o700
        assert os.stat(path).st_uid == person.uid


def test_without_a_runtime_folder(person: Person) -> None:
    """No XDG_RUNTIME_DIR, or one that is somebody else's: a private folder in /tmp, if nobody else has made it."""
    program = "from core.store.paths import find_instance as f; print(f().run)"
    place = Path(f"/tmp/wharf-{person.uid}")
    shutil.rmtree(place, ignore_errors=True)  # of an earlier user who had the same number
    try:
        for there in ({}, {"XDG_RUNTIME_DIR": "/root"}, {"XDG_RUNTIME_DIR": "relative"}):
            env = {key: value for key, value in person.env.items() if key != "XDG_RUNTIME_DIR"} | there
            assert person.code(program, env=env).stdout == f"{place}/wharf\n"
        assert (place.stat().st_uid, place.stat().st_mode & 0o7777) == (person.uid, 0o700)
        place.chmod(0o777)
        done = person.code(program, env=env)
        assert done.returncode == 1
        assert "XDG_RUNTIME_DIR" in done.stderr
        place.rmdir()
        place.symlink_to(person.home)
        assert "XDG_RUNTIME_DIR" in person.code(program, env=env).stderr
    finally:
        place.unlink() if place.is_symlink() else shutil.rmtree(place)


def test_newuidmap_that_refuses(person: Person) -> None:
    """A range in /etc/subuid that the helper does not grant: an error with its own words, and this process unharmed."""
    if person.single:
        pytest.skip("no helper is used")
    program = (
        "import os; from core.rootless import ids, namespace; from core.kernel.userns import Range\n"
        "wrong = ids.Ids((Range(0, os.getuid(), 1), Range(1, 1, 5)), (Range(0, os.getgid(), 1),), "
        "('/usr/bin/newuidmap', '/usr/bin/newgidmap'), '', '')\n"
        "try:\n    namespace._make(wrong)\nexcept Exception as error:\n    print(type(error).__name__, error)\n"
        "print(os.geteuid())"
    )
    person.end()
    said, euid = person.code(program).stdout.strip().splitlines()
    assert said.startswith("Unsupported")
    assert "newuidmap" in said
    assert "set-user-ID" in said
    assert euid == str(person.uid)


def test_user_namespaces_that_are_forbidden() -> None:
    """The error names the setting. It is made in a user namespace of the test's own, which has one for itself."""
    if REASON:
        pytest.skip(REASON)
    with single_person() as person:
        become = f"setpriv --reuid {person.uid} --regid {person.gid} --clear-groups {person.python} -m tui ps"
        # Executed once more after the maps are there: only then it is root with capabilities.
        script = f"read _; exec sh -c 'echo 0 > /proc/sys/user/max_user_namespaces && exec {become}'"
        with subprocess.Popen(
            ["unshare", "--user", "sh", "-c", script], env=person.env, cwd=person.home, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            home = os.readlink("/proc/self/ns/user")
            wait_for("its namespace", lambda: os.readlink(f"/proc/{process.pid}/ns/user") != home)
            for kind in ("uid", "gid"):
                Path(f"/proc/{process.pid}/{kind}_map").write_text("0 0 4294967295")
            _, said = process.communicate("\n", timeout=patience(30))
        assert process.returncode == 1, said
        assert "user.max_user_namespaces is 0" in said
        assert "sysctl -w" in said
        assert len(said.splitlines()) == 1


def test_roots_engine_is_as_it_was() -> None:
    done = subprocess.run(
        ["python3", "-c", "from core.store.paths import find_instance as f; print(f().root, f().run)"],
        capture_output=True, text=True, check=True, cwd=HOUSE,
        env={"PATH": os.environ["PATH"], "XDG_DATA_HOME": "/x", "XDG_RUNTIME_DIR": "/x", "WHARF_ROOTLESS_UID": "1000"},
    )  # fmt: skip
    if os.geteuid() == 0:
        assert done.stdout == "/var/lib/wharf /run/wharf\n"
