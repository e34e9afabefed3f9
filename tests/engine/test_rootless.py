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
from pathlib import Path

import pytest

from core.rootless.namespace import mark_of
from tests import images as make
from tests.engine.rootlesslab import launcher, nothing_left, one, some_person, wait_for  # noqa: F401
from tests.patience import patience
from tests.person import Person

pytestmark = pytest.mark.real


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
        "import os, sys; from core.rootless import enter; enter();"
        "print(os.readlink('/proc/self/ns/user'), flush=True); sys.stdin.read()"
    )
    several = [person.popen(person.python, "-c", program, stdin=subprocess.PIPE) for _ in range(6)]
    found = {each.stdout.readline().strip() for each in several if each.stdout}  # all are there until the last is
    for each in several:
        each.communicate(timeout=patience(30))
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
        make.directory("d"), make.member("d/.wh..wh..opq"), make.member("d/new", data=b"new"),
        make.member("e/.wh.old"), make.member(".wh.gone"),
        make.member("device", b"3", devmajor=1, devminor=3), make.hardlink("twin", "device"),
        make.member("mine", data=b"m", uid=1000, gid=1000), make.member("rights", data=b"r" * 100, mode=0o6755),
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
    # Writing takes set-user-ID from a file where the writer is not the host's root: su and sudo would not work.
    assert person.ok("run", "--rm", "layered:1", "/bin/busybox", "stat", "-c", "%a", "/rights") == "6755"
    person.ok("rmi", "layered:1")


def test_an_image_of_a_container_is_saved_and_comes_back(person: Person) -> None:
    owner = "0:0" if person.single else "1000:2000"
    change = f"rm -r /home /etc/group; mkdir /home; echo new >/home/file; chown {owner} /home/file"
    person.ok("run", "-d", "--name", "box", "busybox:test", "sh", "-c", f"{change}; echo done; sleep 600")
    wait_for("the changes", lambda: person.ok("logs", "box") == "done")
    assert person.ok("diff", "box").split("\n") == ["C /etc", "D /etc/group", "C /home", "A /home/file"]
    look = "ls /home; cat /home/file; stat -c %u:%g /home/file; test -e /etc/group || echo gone"
    made = person.ok("commit", "-c", f'CMD ["sh", "-c", "{look}"]', "box", "made:1")
    shown = f"file\nnew\n{owner}\ngone"
    assert person.ok("run", "--rm", "made:1") == shown
    person.ok("save", "-o", str(person.home / "saved"), "made:1")
    person.ok("rmi", "made:1")
    assert person.ok("load", "-q", "-i", str(person.home / "saved")) == "Loaded image: made:1"
    assert person.ok("image", "inspect", "-f", "{{.Id}}", "made:1") == made
    assert person.ok("run", "--rm", "made:1") == shown
    person.ok("rm", "-f", "box")
    person.ok("rmi", "made:1")


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


def test_doctor(person: Person) -> None:
    done = person.wharf("doctor", "--format", "json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert checks["user ids"]["status"] == ("warn" if person.single else "ok")
    assert str(person.ids) in checks["user ids"]["found"] or "usermod" in checks["user ids"]["fix"]
    assert checks["networks"]["found"].startswith("none and host: ")
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
        limit = time.monotonic() + patience(60)
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


def test_the_store_is_verified_and_measured(person: Person) -> None:
    assert "all is well" in person.ok("fsck")
    [layers] = person.home.rglob("images/layers")
    [program] = layers.glob("*/diff/bin/busybox")
    program.chmod(0o700)
    assert "another mode" in person.wharf("fsck").stdout
    assert "made again from its archive" in person.ok("fsck", "--repair")
    assert "Images" in person.ok("system", "df")
