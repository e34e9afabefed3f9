"""What leaks in, and what can be reached from inside or by other users of the host: keys, environment, descriptors,
death signals, processes of ours, the kernel's settings. Through the engine and through ``wharf runtime``.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.engine import Engine
from core.kernel import caps, libc, process
from core.model import Mount
from tests import attacks
from tests.conftest import needs_root
from tests.engine.test_attacks import CORE_PATTERN, NO_CAPABILITIES, capabilities, execute
from tests.engine.test_lifecycle import run, sleeper
from tests.engine.test_oci_config import mounting, namespaced, setting, with_user
from tests.oci import HOUSE, Config, Runtime, save
from tests.patience import patience
from tests.seccomp_lab import profile

pytestmark = needs_root
CLEAN = "pdeathsig 0 dumpable 1 keepcaps 0 securebits 0"


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = attacks.compiled(tmp_path_factory.mktemp("programs"), "attack_spy").parent
    folder.chmod(0o755)  # for other users inside
    return folder


@pytest.fixture
def spy(programs: Path) -> Mount:
    return Mount("bind", str(programs), "/x", read_only=True)


def detached(runtime: Runtime, cid: str, *argv: str, change: Callable[[Config], object] | None = None) -> None:
    folder, config = runtime.bundle(cid, *argv)
    if change is not None:
        change(config)
    runtime.good("run", "--detach", "--bundle", save(folder, config), cid, stdout=subprocess.DEVNULL)


# -- keys
@pytest.fixture
def secret() -> str:
    """Name of a key in the session keyring that everything started from here inherits."""
    name = f"wharf-test-{os.getpid()}"
    process.new_session_keyring()
    add_key = {"x86_64": 248, "aarch64": 217}[libc.MACHINE]
    libc.syscall(add_key, b"user", name.encode(), b"secret", 6, -3)
    return name


async def test_keys_of_the_host(
    engine: Engine, busybox_image: str, runtime: Runtime, programs: Path, spy: Mount, secret: str
) -> None:
    """A container must not find, nor be able to name, what is in its starter's session keyring."""
    look = ("/x/attack_spy", "key", secret)
    control = subprocess.run([programs / "attack_spy", "key", secret], capture_output=True, text=True, check=True)
    assert control.stdout == "ring there key FOUND\n"
    # Without a filter: Docker's default lets nobody call keyctl, which hides how it really is.
    options: dict[str, Any] = {"mounts": (spy,), "security_opt": ("seccomp=unconfined",)}
    assert await run(engine, busybox_image, *look, **options) == (0, ["ring there key none"])
    cid = await sleeper(engine, busybox_image, **options)
    assert await execute(engine, cid, *look) == (0, "ring there key none\n")
    detached(runtime, "box", "sleep", "100", change=mounting("/x", "bind", programs, "bind"))
    assert runtime.good("exec", "box", *look) == "ring there key none\n"
    folder, config = runtime.bundle("other", *look)
    mounting("/x", "bind", programs, "bind")(config)
    save(folder, config)
    assert runtime.good("run", "--bundle", folder, "other") == "ring there key none\n"
    assert runtime.good("run", "--no-new-keyring", "--bundle", folder, "other") == "ring there key FOUND\n"


# -- the process itself
async def test_nothing_of_the_runtime_clings_to_the_command(
    engine: Engine, busybox_image: str, runtime: Runtime, programs: Path, spy: Mount
) -> None:
    """A death signal of the monitor's would kill a container that outlives it; securebits would make root powerless."""
    look = ("/x/attack_spy", "self")
    for fields in ({}, {"user": "1000"}, {"init": True}, {"security_opt": ("no-new-privileges",)}):
        cid = await sleeper(engine, busybox_image, mounts=(spy,), **fields)
        assert await execute(engine, cid, *look) == (0, CLEAN + "\n")
        assert await run(engine, busybox_image, *look, mounts=(spy,), **fields) == (0, [CLEAN])
    for uid in (0, 1000):
        change = mounting("/x", "bind", programs, "bind")
        done = runtime.run("box", *look, change=change, user={"uid": uid, "gid": uid})
        assert done.stdout == CLEAN + "\n", done.stderr
    detached(runtime, "box", "sleep", "100", change=change)
    assert runtime.good("exec", "box", *look) == CLEAN + "\n"


def test_inheritable_capabilities_are_empty(runtime: Runtime) -> None:
    """CVE-2022-29162: in run and exec, as root and as somebody else."""
    detached(runtime, "box", "sleep", "100")
    for uid in (0, 1000):
        done = runtime.run("other", "cat", "/proc/self/status", user={"uid": uid, "gid": uid})
        for text in (done.stdout, runtime.good("exec", "--user", str(uid), "box", "cat", "/proc/self/status")):
            found = capabilities(text, "CapInh", "CapAmb", "CapEff")
            assert found["CapInh"] == found["CapAmb"] == NO_CAPABILITIES
            assert (found["CapEff"] == NO_CAPABILITIES) == (uid != 0)


def test_environment_and_descriptors_of_the_caller_stay_outside(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the command, nor a joining one, nor any hook gets what the caller of the runtime has (CVE-2024-21626)."""
    monkeypatch.setenv("WHARF_TEST_SECRET", "secret")
    notes = runtime.base / "notes"
    folder = os.open("/", os.O_RDONLY | os.O_DIRECTORY)

    def scatter() -> None:
        for number in (17, 19, 30):
            os.dup2(folder, number)

    def call(*words: str | Path) -> str:
        options: dict[str, Any] = {"cwd": HOUSE, "text": True, "stdin": subprocess.DEVNULL, "preexec_fn": scatter}
        return str(subprocess.check_output(runtime.argv(*words), close_fds=False, timeout=patience(60), **options))

    def change(config: Config) -> None:
        line = f"(/usr/bin/env; ls -l /proc/self/fd) >>{notes} 2>&1"
        hook = {"path": "/bin/sh", "args": ["sh", "-c", line], "env": ["PATH=/usr/bin:/bin", "MINE=1"]}
        config["hooks"] = {kind: [hook] for kind in ("prestart", "createRuntime", "createContainer", "poststart")}

    _, config = runtime.bundle("box", "sh", "-c", "ls /proc/self/fd; env; sleep 0.5")
    change(config)
    save(runtime.base / "box", config)
    shown = call("run", "--bundle", runtime.base / "box", "box")
    detached(runtime, "other", "sleep", "100")
    joined = call("exec", "other", "sh", "-c", "ls /proc/self/fd; cat /proc/self/environ")
    os.close(folder)
    for text in (shown, joined):
        assert [line for line in text.splitlines() if line.isdigit()] == ["0", "1", "2", "3"]  # 3 is ls's own
        assert "secret" not in text
    assert notes.read_text().count("MINE=1") == 4
    assert "secret" not in notes.read_text()
    assert [line for line in notes.read_text().splitlines() if line.endswith(" -> /")] == []


# -- our processes, for other users and for the container's own
LOOKS: dict[str, Callable[[int], object]] = {
    "exe": lambda pid: os.readlink(f"/proc/{pid}/exe"),
    "fd": lambda pid: os.readlink(f"/proc/{pid}/fd/0"),
    "mem": lambda pid: os.open(f"/proc/{pid}/mem", os.O_RDWR),
    "environ": lambda pid: Path(f"/proc/{pid}/environ").read_bytes(),
    "root": lambda pid: os.readlink(f"/proc/{pid}/root"),
}


def _can(look: Callable[[int], object], pid: int) -> bool:
    try:
        look(pid)
    except OSError:
        return False
    return True


def strange_look(pid: int) -> list[str]:
    """What root can get of another process without CAP_SYS_PTRACE (and what lets one read memory maps): all, unless
    that has more rights, or is not dumpable."""
    held = caps.mask(caps.bounding()) & ~caps.mask(("CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_PERFMON"))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            caps.set_process(held, held, 0)
            os.write(write, " ".join(name for name, look in LOOKS.items() if _can(look, pid)).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(write)
    with open(read) as file:
        words = file.read().split()
    assert os.waitpid(child, 0)[1] == 0
    return words


def abstract_sockets(pids: list[int]) -> list[str]:
    """Abstract sockets (CVE-2020-15257) that these processes hold."""
    inodes = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                inodes |= {link[8:-1] for link in [os.readlink(entry)] if link.startswith("socket:[")}
    assert inodes
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return [row[7] for row in rows if len(row) > 7 and row[7].startswith("@") and row[6] in inodes]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_our_processes_are_closed_to_others(engine: Engine, busybox_image: str, runtime: Runtime) -> None:
    """CVE-2016-9962, CVE-2020-15257: launcher, monitor, reaper, runtime and a container at its gate."""
    box = await engine.container(await sleeper(engine, busybox_image, init=True))
    folder, config = runtime.bundle("box", "sleep", "1")
    runtime.good("create", "--bundle", save(folder, config), "box", stdout=subprocess.DEVNULL)
    front, config = runtime.bundle("front", "sleep", "100")
    argv = runtime.argv("run", "--bundle", save(front, config), "front")
    foreground = subprocess.Popen(argv, cwd=HOUSE, stdin=subprocess.DEVNULL)
    try:
        while runtime.call("state", "front").returncode or runtime.state("front")["status"] != "running":
            assert foreground.poll() is None
        # By their places and not by their names: a child of the launcher has that name for a moment.
        monitor = parent(box.pid or 0)
        launcher = parent(monitor)
        assert Path(f"/proc/{launcher}/comm").read_text() == "wharf-launcher\n"
        ours = [monitor, launcher, box.pid or 0, runtime.state("box")["pid"], foreground.pid]
        assert {pid: strange_look(pid) for pid in ours} == {pid: [] for pid in ours}
        ordinary = subprocess.Popen(["sleep", "100"], preexec_fn=lambda: caps.limit_bounding(0))
        assert strange_look(ordinary.pid) == list(LOOKS)
        ordinary.kill()
        ordinary.wait()
        assert abstract_sockets([pid for pid in ours if pid != box.pid]) == []
    finally:
        runtime.call("kill", "front", "KILL")
        foreground.wait()


# -- the kernel
async def test_what_holds_with_admin_rights(engine: Engine, busybox_image: str) -> None:
    """CVE-2022-0492: with CAP_SYS_ADMIN (no user namespace) a container may mount, and is then held by its cgroup
    namespace alone: no release_agent, no hierarchy that the host does not have yet."""
    script = (
        "mkdir /tmp/c; for k in cpu memory pids freezer devices rdma hugetlb net_cls perf_event none,name=x; do "
        "busybox mount -t cgroup -o $k x /tmp/c && { echo mounted $k; find /tmp/c -name release_agent; "
        "(echo /evil >/tmp/c/release_agent) && echo WRITTEN; busybox umount /tmp/c; }; done; "
        "busybox mount -t cgroup2 x /tmp/c && echo mounted v2 && find /tmp/c -name release_agent; "
        "cat /proc/self/cgroup"
    )
    _, lines = await run(engine, busybox_image, "sh", "-c", f"({script}) 2>/dev/null", cap_add=("SYS_ADMIN",))
    assert [line for line in lines if "release_agent" in line or "WRITTEN" in line] == []
    assert not {"mounted hugetlb", "mounted net_cls", "mounted perf_event", "mounted none,name=x"} & set(lines)
    assert lines[-1].endswith(":/")  # the root of its own namespace: what it mounts begins there


def test_root_of_a_user_namespace(runtime: Runtime) -> None:
    """It has every capability inside, and is nobody for what belongs to the host's users."""
    shared = runtime.base / "shared"
    shared.mkdir()
    (shared / "file").write_text("host\n")
    (shared / "file").chmod(0o644)
    before, pattern = (shared / "file").stat(), CORE_PATTERN.read_text()

    def change(config: Config) -> None:
        with_user(config)
        mounting("/data", "bind", shared, "bind")(config)
        for kind in ("bounding", "effective", "permitted"):
            config["process"]["capabilities"][kind] = caps.bounding()
        config["linux"]["maskedPaths"] = config["linux"]["readonlyPaths"] = []
        config["process"]["noNewPrivileges"] = False

    tries = (
        "echo evil >>/data/file", "chmod 4755 /data/file", "chown 0 /data/file", "rm -f /data/file", "mkdir /data/new",
        "busybox mknod /tmp/disk b 8 0", "echo x >/proc/sys/kernel/core_pattern", "echo b >/proc/sysrq-trigger",
        "echo x >/sys/kernel/uevent_helper", "cat /proc/kcore", "busybox mount -t cgroup -o memory,name=x x /tmp",
        "echo -1000 >/proc/1/oom_score_adj", "busybox mount -t cgroup -o memory x /tmp; echo 0 >/tmp/cgroup.procs",
        "for f in /sys/fs/cgroup /sys/fs/cgroup/*; do busybox mount -o remount,bind,rw $f; done; false",
        "for f in $(find /sys/fs/cgroup -name cgroup.procs); do echo 0 >$f && exit; done; false",
    )  # fmt: skip
    line = "; ".join(f"({one}) >/dev/null 2>&1 && echo '{one}'" for one in tries)
    done = runtime.run("box", "sh", "-c", f"{line}; cat /data/file", change=change)
    assert done.stdout == "host\n", done.stderr
    after = (shared / "file").stat()
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)
    assert CORE_PATTERN.read_text() == pattern
    assert [path.name for path in shared.iterdir()] == ["file"]


def test_who_joins_has_the_clocks_of_the_container(runtime: Runtime) -> None:
    """A time namespace takes only children: one that joins must not be left with the host's clock."""

    def change(config: Config) -> None:
        namespaced({"type": "time"})(config)
        config["linux"]["timeOffsets"] = {"boottime": {"secs": 5_000_000}}

    detached(runtime, "box", "sleep", "100", change=change)
    assert float(runtime.good("exec", "box", "cat", "/proc/uptime").split()[0]) > 5_000_000


# -- failures
FAILURES: dict[str, Callable[[Config], object]] = {
    "a mount": mounting("/data", "bind", "/none", "bind"),
    "a device": setting("linux.devices", [{"path": "/bin/busybox", "type": "c", "major": 1, "minor": 3}]),
    "a setting": setting("linux.sysctl", {"net.none": "1"}),
    "a namespace": namespaced({"type": "ipc", "path": "/proc/self/ns/net"}, without=("ipc",)),
    "a folder": setting("process.cwd", "/bin/busybox"),
    "a limit": setting("process.rlimits", [{"type": "RLIMIT_NOFILE", "soft": 1 << 40, "hard": 1 << 40}]),
    "a hook outside": setting("hooks", {"createRuntime": [{"path": "/bin/false"}]}),
    "a hook inside": setting("hooks", {"createContainer": [{"path": "/bin/false"}]}),
    "an agent": setting(
        "linux.seccomp",
        profile("SCMP_ACT_ALLOW", {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}, listenerPath="/none"),
    ),
    "a command": setting("process.args", ["/none"]),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_create_that_fails_leaves_nothing(runtime: Runtime, kind: str) -> None:
    """No process, no cgroup, no mount, no folder (the fixture looks for the last three as well)."""
    folder, config = runtime.bundle("box", "sleep", "100")
    FAILURES[kind](config)
    done = runtime.call("create", "--bundle", save(folder, config), "box")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not runtime.root.exists() or not list(runtime.root.iterdir())
    left = []
    for entry in (entry for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        with contextlib.suppress(OSError):  # it has just ended
            if str(runtime.base) in (entry / "mountinfo").read_text():
                left.append(entry.name)
    assert left == []  # neither in our mount namespace nor in another one that somebody holds


def test_a_root_of_somebody_else_is_not_believed(runtime: Runtime) -> None:
    """A user's default root may be below /tmp, where anybody can make it first and write state files into it."""
    state = {"id": "box", "bundle": "/", "cgroup": "/x", "created": 0, "owner": 0, "pid": os.getpid()}
    (runtime.root / "box").mkdir(parents=True)
    (runtime.root / "box/state.json").write_text(json.dumps(state))
    (runtime.root / "box/config.json").write_text("{}")
    for owner, mode in ((1000, 0o700), (0, 0o777)):
        os.chown(runtime.root, owner, owner)
        runtime.root.chmod(mode)
        for words in (("kill", "box", "KILL"), ("delete", "--force", "box"), ("list", "-q"), ("state", "box")):
            done = runtime.call(*words)
            assert done.returncode == 1
            assert "others own it or may write there" in done.stderr
    os.chown(runtime.root, 0, 0)
    runtime.root.chmod(0o700)
    runtime.good("delete", "--force", "box")
    assert stat.S_IMODE(runtime.root.stat().st_mode) == 0o700
