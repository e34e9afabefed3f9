"""The engine of an ordinary user, by its command line and as a library: with many ids (newuidmap) and with one."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.rootless.namespace import mark_of
from tests import images as make
from tests.person import HOUSE, Person, many_person, single_person, why_not

pytestmark = pytest.mark.real
REASON = why_not()


@pytest.fixture(scope="module", params=["many ids", "one id"])
def person(request: pytest.FixtureRequest, archive: Path) -> Iterator[Person]:
    """A user who has the image busybox:test."""
    if REASON:
        pytest.skip(REASON)
    made = many_person() if request.param == "many ids" else single_person()
    try:
        found = made.__enter__()
    except LookupError as error:
        pytest.skip(str(error))
    try:
        shutil.copy(archive, found.base / "busybox.tar")
        (found.base / "busybox.tar").chmod(0o644)
        found.ok("load", "-i", str(found.base / "busybox.tar"))
        yield found
    finally:
        found.end()
        made.__exit__(None, None, None)


@pytest.fixture(autouse=True)
def clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """No container is left over for the next test, and no process of one."""
    yield
    if "person" in request.fixturenames:
        someone: Person = request.getfixturevalue("person")
        for cid in someone.ok("ps", "-aq").split():
            someone.ok("rm", "-f", cid)
        mounts = Path("/proc/self/mountinfo").read_text()
        assert str(someone.base) not in mounts, "a mount is left in the host's namespace"


def wait_for(what: str, found: object, seconds: float = 10.0) -> None:
    limit = time.monotonic() + seconds
    while not found():  # type: ignore[operator]
        assert time.monotonic() < limit, what
        time.sleep(0.05)


def one(person: Person, word: str) -> int:
    """The pid of the user's only process with that in its command line; one of the last test may be on its way out."""
    found: list[int] = []

    def single() -> bool:
        found[:] = [pid for pid, line in person.processes().items() if word in line]
        return len(found) == 1

    wait_for(f"the end of all {word} but one", single, 30)
    return found[0]


def launcher(person: Person) -> int:
    return one(person, "core.supervise.launcher")


# -- running
def test_a_container_runs_as_root_of_its_own_world(person: Person) -> None:
    assert person.ok("run", "--rm", "busybox:test", "id", "-u") == "0"
    done = person.wharf("run", "--rm", "busybox:test", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    # On the host that root is nobody but the user.
    person.ok("run", "-d", "--name", "box", "busybox:test", "sleep", "600")
    pid = one(person, "sleep 600")
    status = Path(f"/proc/{pid}/status").read_text()
    assert f"\nUid:\t{person.uid}\t{person.uid}\t{person.uid}\t{person.uid}\n" in status
    assert "\nNSpid:\t" in status
    assert status.split("\nNSpid:\t")[1].split("\n")[0].split()[-1] == "1"
    assert "\nSeccomp:\t2\n" in status


def test_users_of_an_image(person: Person) -> None:
    done = person.wharf("run", "--rm", "--user", "app", "busybox:test", "sh", "-c", "id -u; id -G; touch /tmp/mine")
    if person.single:
        assert done.returncode == 125
        assert "/etc/subgid" in done.stderr
        return
    assert (done.returncode, done.stdout) == (0, "1000\n1000 2000\n")
    # What such a user writes belongs to one of the subordinate ids, and comes back as that user's.
    (person.home / "share").mkdir(mode=0o777, exist_ok=True)
    (person.home / "share").chmod(0o777)
    person.ok("run", "--rm", "--user", "1000", "-v", f"{person.home}/share:/s", "busybox:test", "touch", "/s/file")
    assert (person.home / "share" / "file").stat().st_uid >= 100000
    listed = person.ok("run", "--rm", "-v", f"{person.home}/share:/s", "busybox:test", "stat", "-c", "%u", "/s/file")
    assert listed == "1000"


def test_a_life_by_the_command_line(person: Person) -> None:
    script = "trap 'echo bye; exit 4' TERM; echo hello; while :; do sleep 0.1; done"
    cid = person.ok("run", "-d", "--name", "life", "busybox:test", "sh", "-c", script)
    assert person.ok("ps", "--format", "{{.Names}} {{.State}}") == "life running"
    wait_for("its output", lambda: person.ok("logs", "life") == "hello")
    assert person.ok("exec", "life", "cat", "/proc/1/comm") == "sh"
    assert person.wharf("exec", "life", "sh", "-c", "exit 9").returncode == 9
    person.ok("stop", "life")
    assert person.ok("logs", "life").splitlines() == ["hello", "bye"]
    state = json.loads(person.ok("inspect", "life"))[0]["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 4)
    person.ok("start", "life")
    person.ok("kill", "life")
    wait_for("its end", lambda: "exited" in person.ok("ps", "-a", "--format", "{{.State}}"))
    person.ok("rm", "life")
    assert cid not in person.ok("ps", "-aq", "--no-trunc")


def test_terminals(person: Person) -> None:
    """A command with a terminal in a running container and the container's own: devpts' group exists or is left out."""
    person.ok("run", "-d", "-t", "--name", "term", "busybox:test", "sh", "-c", "tty; sleep 600")
    wait_for("its terminal", lambda: "/dev/pts/0" in person.ok("logs", "term"))
    assert person.ok("exec", "-t", "term", "sh", "-c", "tty") == "/dev/pts/1"
    assert person.ok("exec", "term", "stat", "-c", "%g", "/dev/console") == ("0" if person.single else "5")


def test_the_restart_policy(person: Person) -> None:
    person.ok(
        "run", "-d", "--name", "again", "--restart", "on-failure:2", "busybox:test", "sh", "-c", "echo up; exit 1"
    )
    wait_for("its last end", lambda: "Exited" in person.ok("ps", "-a", "--format", "{{.Status}}"))
    assert person.ok("logs", "again").splitlines() == ["up"] * 3
    assert json.loads(person.ok("inspect", "again"))[0]["RestartCount"] == 2


def test_a_killed_monitor_is_replaced(person: Person) -> None:
    # A process of another user inside, where there can be one: the new monitor has to have power over that too.
    user = [] if person.single else ["--user", "1000"]
    script = "trap 'exit 3' TERM; while :; do echo tick; sleep 0.1; done"
    person.ok("run", "-d", "--name", "kept", *user, "busybox:test", "sh", "-c", script)
    before = one(person, "wharf-monitor")
    os.kill(before, signal.SIGKILL)
    wait_for(
        "another monitor",
        lambda: any(line.startswith("wharf-monitor") and pid != before for pid, line in person.processes().items()),
    )
    seen = person.ok("logs", "kept").count("tick")
    wait_for("its output", lambda: person.ok("logs", "kept").count("tick") > seen)
    assert person.ok("exec", *user, "kept", "cat", "/proc/1/comm") == "sh"
    person.ok("stop", "kept")
    assert json.loads(person.ok("inspect", "kept"))[0]["State"]["ExitCode"] == 3


def test_everything_but_the_container_is_killed(person: Person) -> None:
    """Launcher and monitor at once: the next engine enters the user namespace by the container itself."""
    user = [] if person.single else ["--user", "1000"]
    person.ok("run", "-d", "--name", "orphan", *user, "busybox:test", "sleep", "600")
    home = os.readlink(f"/proc/{one(person, 'sleep 600')}/ns/user")
    for pid in (launcher(person), one(person, "wharf-monitor")):
        os.kill(pid, signal.SIGKILL)
    wait_for("their end", lambda: len(person.processes()) == 1)
    assert person.ok("ps", "--format", "{{.Names}}") == "orphan"
    assert person.ok("exec", *user, "orphan", "true") == ""
    assert os.readlink(f"/proc/{launcher(person)}/ns/user") == home
    person.ok("kill", "orphan")
    wait_for("its end", lambda: not any(line.startswith("sleep") for line in person.processes().values()))


def test_the_namespace_is_shared_while_anything_lives_and_made_anew_after(person: Person) -> None:
    where = "import os; from core.rootless import enter; enter(); print(os.readlink('/proc/self/ns/user'), os.getcwd())"
    person.ok("run", "-d", "--name", "holder", "busybox:test", "sleep", "600")
    shared = os.readlink(f"/proc/{launcher(person)}/ns/user")
    assert os.readlink(f"/proc/{one(person, 'sleep 600')}/ns/user") == shared
    for _ in range(2):
        done = person.code(where)
        assert done.stdout.split() == [shared, str(person.home)], done.stderr
    # The note of where to look is a hint only.
    (person.run_folder / "wharf-userns.pid").write_text("1")
    assert person.code(where).stdout.split()[0] == shared
    person.ok("rm", "-f", "holder")
    person.end()
    # The files that the last one left fit the next one.
    assert person.ok("run", "--rm", "busybox:test", "id", "-u") == "0"
    assert person.ok("ps", "-aq") == ""


def test_two_engines_at_once_make_one_namespace(person: Person) -> None:
    person.end()
    program = (
        "import os, sys, time; from core.rootless import enter; enter();"
        "print(os.readlink('/proc/self/ns/user'), flush=True); time.sleep(2)"
    )
    several = [person.popen(person.python, "-c", program) for _ in range(6)]
    found = {each.communicate(timeout=30)[0].strip() for each in several}
    assert len(found) == 1
    assert re.fullmatch(r"user:\[\d+\]", found.pop())


def test_a_container_cannot_have_an_engine_enter_its_mounts(person: Person) -> None:
    """Its root puts our mark where an engine could find it; whoever entered by it would run the container's files."""
    mark = mark_of(person.uid)
    person.ok(
        "run", "-d", "--name", "lure", "--privileged", "busybox:test", "sh", "-c",
        f"mount -t tmpfs {mark} /mnt || mkdir /mnt && mount -t tmpfs {mark} /mnt; echo done; sleep 600",
    )  # fmt: skip
    wait_for("its mount", lambda: "done" in person.ok("logs", "lure"))
    lure = one(person, "sleep 600")
    assert f" - tmpfs {mark} " in Path(f"/proc/{lure}/mountinfo").read_text()
    for pid in (launcher(person), one(person, "wharf-monitor")):
        os.kill(pid, signal.SIGKILL)
    (person.run_folder / "wharf-userns.pid").write_text(str(lure))
    program = (
        "import os; from core.rootless import enter; enter();"
        "print(os.path.exists('/etc/notexec'), open('/proc/self/mountinfo').read().count(' - overlay '))"
    )
    wait_for("the end of the others", lambda: all("launcher" not in line for line in person.processes().values()))
    host = Path("/proc/self/mountinfo").read_text().count(" - overlay ")
    assert person.code(program).stdout.split() == ["False", str(host)]


# -- images
def test_whiteouts_opaque_folders_devices_and_attributes(person: Person) -> None:
    base = make.tar(
        make.directory("d"), make.member("d/old", data=b"old"), make.directory("e"), make.member("e/old", data=b"old"),
        make.member("gone", data=b"x"), make.member("kept", data=b"kept"),
    )  # fmt: skip
    top = make.tar(
        make.directory("d"), make.member("d/.wh..wh.opq"), make.member("d/new", data=b"new"),
        make.member("e/.wh.old"), make.member(".wh.gone"),
        make.member("device", b"3", devmajor=1, devminor=3), make.hardlink("twin", "device"),
        make.member("mine", data=b"m", uid=1000, gid=1000),
        make.member("marked", data=b"m", pax_headers={"SCHILY.xattr.trusted.secret": "1"}),
    )  # fmt: skip
    folder = person.base / "layered"
    tools = make.tar(
        make.directory("bin"),
        make.member("bin/busybox", data=Path(shutil.which("busybox") or "").read_bytes(), mode=0o755),
    )
    make.layout(folder, make.image([tools, base, top]), "layered:1")
    archive = make.tar_of(folder, person.base / "layered.tar")
    archive.chmod(0o644)
    person.ok("load", "-i", str(archive))
    look = ("/bin/busybox", "find", "/d", "/e", "/gone", "/kept", "/device", "/twin")
    assert person.wharf("run", "--rm", "layered:1", *look).stdout.split() == ["/d", "/d/new", "/e", "/kept"]
    owner = person.ok("run", "--rm", "layered:1", "/bin/busybox", "stat", "-c", "%u:%g", "/mine")
    assert owner == ("0:0" if person.single else "1000:1000")
    person.ok("rmi", "layered:1")


def test_an_owner_beyond_the_users_ids(person: Person) -> None:
    folder = person.base / "far"
    make.layout(folder, make.image([make.tar(make.member("far", data=b"x", uid=200_000, gid=0))]), "far:1")
    make.tar_of(folder, person.base / "far.tar").chmod(0o644)
    done = person.wharf("load", "-i", str(person.base / "far.tar"))
    if person.single:
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode != 0
    assert "user 200000" in done.stderr
    assert "/etc/subuid" in done.stderr


# -- what cannot be had
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--network", "bridge"), "--network none"),
        (("-p", "8080:80"), "published ports"),
        (("--network", "host", "--sysctl", "net.ipv4.ip_forward=1"), "host's network"),
        (("--ulimit", "nofile=1048577:1048577"), "CAP_SYS_RESOURCE"),
        (("--oom-score-adj", "-500"), "oom"),
    ],
)
def test_what_an_ordinary_user_cannot_have_is_said(person: Person, words: tuple[str, ...], said: str) -> None:
    done = person.wharf("run", "--rm", "--name", "no", *words, "busybox:test", "true")
    assert done.returncode == 125, done
    assert said.lower() in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert person.ok("ps", "-aq") == ""


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


def test_doctor(person: Person) -> None:
    done = person.wharf("doctor", "--format", "json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert checks["user ids"]["status"] == ("warn" if person.single else "ok")
    assert str(person.ids) in checks["user ids"]["found"] or "usermod" in checks["user ids"]["fix"]
    assert checks["networks"]["found"] == "none and host"
    assert checks["overlay"]["status"] == "ok"
    assert "nftables" not in checks


# -- the library and the workstation
LIBRARY = """
import asyncio, os, sys, threading
from core import ContainerSpec, open_engine
{before}
async def main() -> None:
    engine = await open_engine()
    box = await engine.create(ContainerSpec(image="busybox:test", command=("echo", "hello"), auto_remove=False))
    await engine.start(box.id)
    print(await engine.wait(box.id), [line.text async for line in engine.logs(box.id)], os.getcwd())
    await engine.remove(box.id)
    await engine.close()
asyncio.run(main())
"""
THREAD = "threading.Thread(target=threading.Event().wait, daemon=True).start()"


def test_as_a_library(person: Person) -> None:
    done = person.code(LIBRARY.format(before=""))
    assert done.stdout == f"0 ['hello'] {person.home}\n", done.stderr
    done = person.code(LIBRARY.format(before=THREAD))
    assert "become_root" in done.stderr
    assert "NoPrivilege" in done.stderr
    done = person.code(LIBRARY.format(before=f"from core.engine import become_root; become_root(); {THREAD}"))
    assert done.stdout == f"0 ['hello'] {person.home}\n", done.stderr


def test_the_workstation(person: Person) -> None:
    person.ok("run", "-d", "--name", "shown-here", "busybox:test", "sleep", "600")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    env = {**person.env, "TERM": "xterm-256color"}
    with person.popen(person.python, "-m", "tui", env=env, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        screen = b""
        limit = time.monotonic() + 30
        asked = False
        while process.poll() is None and time.monotonic() < limit:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    screen += os.read(ours, 65536)
                except OSError:
                    break
            if b"shown-here" in screen and not asked and b"Resources" in screen:
                os.write(ours, b"q")
                asked = True
        process.kill() if process.poll() is None else None
    os.close(ours)
    assert asked, screen[-2000:]
    assert process.returncode == 0
    assert b"Traceback" not in screen
    assert b"1 container runs on." in screen


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
            _, said = process.communicate("\n", timeout=30)
        assert process.returncode == 125, said
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


# -- other runtimes
@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_containers_of_another_runtime(person: Person, runtime: str) -> None:
    if shutil.which(runtime) is None:
        pytest.skip(f"needs {runtime} from Debian")
    other = ("--runtime", runtime)
    done = person.wharf("run", "--rm", *other, "busybox:test", "sh", "-c", "id -u; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "0\n", "err\n")
    person.ok("run", "-d", "--name", "box", *other, "busybox:test", "sleep", "600")
    assert person.ok("inspect", "-f", "{{.HostConfig.Runtime}}", "box") == runtime
    assert person.ok("exec", "box", "id", "-un") == "root"
    assert person.ok("exec", "-t", "box", "sh", "-c", "test -t 0 && echo terminal") == "terminal"
    person.ok("kill", "box")
    assert person.ok("wait", "box") == "137"
