"""``wharf runtime``: what config.json says is what the container has, field by field (runtime-spec 1.2)."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import needs_root
from tests.imagemaker import busybox
from tests.oci import Config, Runtime, save

pytestmark = [needs_root, pytest.mark.skipif(busybox() is None, reason="needs busybox-static from Debian")]


def look(runtime: Runtime, line: str, change: Callable[[Config], object] | None = None, **process: Any) -> str:
    """The output of a shell line in a container."""
    done = runtime.run("box", "sh", "-c", line, change=change, **process)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout.strip()


def fails(runtime: Runtime, change: Callable[[Config], object]) -> str:
    done = runtime.run("box", "true", change=change)
    assert done.returncode == 1
    return done.stderr


def mounting(destination: str, kind: str, source: str | Path, *options: str, **more: Any) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        entry = {"destination": destination, "type": kind, "source": str(source), "options": list(options)}
        config["mounts"].append({**entry, **more})

    return change


def setting(path: str, value: object) -> Callable[[Config], None]:
    """A change of one field, by its path with dots."""

    def change(config: Config) -> None:
        *folders, name = path.split(".")
        place = config
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = value

    return change


def namespaced(*more: dict[str, str], without: tuple[str, ...] = ()) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        kept = [one for one in config["linux"]["namespaces"] if one["type"] not in without]
        config["linux"]["namespaces"] = [*kept, *more]

    return change


# -- namespaces
KINDS = {"pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts", "mount": "mnt", "cgroup": "cgroup"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_namespace_is_new_where_listed_and_ours_where_not(runtime: Runtime, kind: str) -> None:
    ours = os.readlink(f"/proc/self/ns/{KINDS[kind]}")
    line = f"readlink /proc/self/ns/{KINDS[kind]}"
    assert look(runtime, line) != ours

    def without(config: Config) -> None:
        namespaced(without=(kind,))(config)
        if kind == "uts":
            del config["hostname"]
        if kind == "mount":
            config["linux"]["maskedPaths"] = config["linux"]["readonlyPaths"] = []

    assert look(runtime, line, without) == ours


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "uts", "cgroup", "time"])
def test_a_namespace_is_joined_by_path(runtime: Runtime, kind: str) -> None:
    name = {**KINDS, "time": "time"}[kind]
    options = {"network": "--net", "time": "--time"}.get(kind, f"--{kind}")
    holder = subprocess.Popen(["unshare", options, "--fork", "sleep", "100"])
    try:
        wanted = name if kind not in ("pid", "time") else f"{name}_for_children"
        path = f"/proc/{holder.pid}/ns/{wanted}"
        end = time.monotonic() + 5
        while not os.path.exists(path) or os.readlink(path) == os.readlink(f"/proc/self/ns/{name}"):
            assert time.monotonic() < end
            time.sleep(0.01)

        def change(config: Config) -> None:
            namespaced({"type": kind, "path": path}, without=(kind,))(config)
            if kind == "uts":
                del config["hostname"]

        assert look(runtime, f"readlink /proc/self/ns/{name}", change) == os.readlink(path)
    finally:
        subprocess.run(["pkill", "-P", str(holder.pid)], check=False)
        holder.kill()
        holder.wait()


def test_a_path_that_is_no_namespace_is_refused(runtime: Runtime) -> None:
    for path, words in (("/etc/hostname", "it is none"), ("/none", "cannot join the ipc namespace /none")):
        change = namespaced({"type": "ipc", "path": path}, without=("ipc",))
        assert words in fails(runtime, change)


def test_clocks_of_a_time_namespace(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        namespaced({"type": "time"})(config)
        config["linux"]["timeOffsets"] = {"boottime": {"secs": 1000000, "nanosecs": 0}}

    up = float(look(runtime, "cat /proc/uptime", change).split()[0])
    assert up > 1000000


def with_user(config: Config) -> None:
    namespaced({"type": "user"})(config)
    config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 200000, "size": 1000}]
    config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 300000, "size": 1000}]


def test_a_user_namespace_with_its_maps(runtime: Runtime) -> None:
    line = "id -u; cat /proc/self/uid_map /proc/self/gid_map; test -c /dev/null && echo x >/dev/null && echo devices"
    lines = look(runtime, line, with_user).splitlines()
    assert lines[0] == "0"
    assert [row.split() for row in lines[1:3]] == [["0", "200000", "1000"], ["0", "300000", "1000"]]
    assert lines[3] == "devices"


def test_devices_and_clocks_in_a_user_namespace(runtime: Runtime) -> None:
    """No device can be made there, and its root may not write what belongs to the host's: both are done before."""

    def change(config: Config) -> None:
        with_user(config)
        config["linux"]["namespaces"].append({"type": "time"})
        config["linux"]["timeOffsets"] = {"boottime": {"secs": 1000000, "nanosecs": 0}}
        device = {"path": "/dev/one", "type": "c", "major": 1, "minor": 5, "fileMode": 0o644, "uid": 5, "gid": 6}
        config["linux"]["devices"] = [device]

    line = "stat -c '%u %g %a %t %T' /dev/one; head -c 3 /dev/one | wc -c; stat -c %u /dev/null; cat /proc/uptime"
    lines = look(runtime, line, change).splitlines()
    assert lines[:3] == ["5 6 644 1 5", "3", "0"]
    assert float(lines[3].split()[0]) > 1000000


def test_a_created_container_is_its_users_on_the_host(runtime: Runtime) -> None:
    folder, config = runtime.bundle("box", "sleep", "100")
    with_user(config)
    save(folder, config)
    runtime.good("run", "--detach", "--bundle", folder, "box", stdout=subprocess.DEVNULL)
    pid = runtime.state("box")["pid"]
    assert Path(f"/proc/{pid}").stat().st_uid == 200000
    assert runtime.good("exec", "box", "sh", "-c", "id -u; cat /proc/self/uid_map").split()[:3] == ["0", "0", "200000"]


# -- mounts
@pytest.mark.parametrize("option", ["ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow"])
def test_attributes_of_mounts(runtime: Runtime, tmp_path: Path, option: str) -> None:
    (tmp_path / "src").mkdir()
    for change in (
        mounting("/data", "tmpfs", "tmpfs", option),
        mounting("/data", "bind", tmp_path / "src", "bind", option),
    ):
        shown = look(runtime, "grep ' /data ' /proc/self/mountinfo", change).split()[5].split(",")
        assert option in shown


def test_the_later_option_wins(runtime: Runtime) -> None:
    change = mounting("/data", "tmpfs", "tmpfs", "ro", "nosuid", "rw", "suid", "exec")
    shown = look(runtime, "grep ' /data ' /proc/self/mountinfo", change).split()[5].split(",")
    assert "rw" in shown
    assert "nosuid" not in shown


def test_read_only_for_the_top_or_for_all_below(runtime: Runtime, tmp_path: Path) -> None:
    inner = tmp_path / "src/inner"
    inner.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", inner], check=True)
    try:
        line = "touch /data/x 2>/dev/null && echo top; touch /data/inner/x 2>/dev/null && echo inner; true"
        assert look(runtime, line, mounting("/data", "bind", tmp_path / "src", "rbind", "ro")) == "inner"
        assert look(runtime, line, mounting("/data", "bind", tmp_path / "src", "rbind", "rro")) == ""
        assert look(runtime, "ls /data/inner", mounting("/data", "bind", tmp_path / "src", "bind")) == ""
    finally:
        subprocess.run(["umount", inner], check=True)


def test_tmpcopyup(runtime: Runtime) -> None:
    folder, _ = runtime.bundle("box", "true")
    inside = folder / "rootfs/data"
    (inside / "sub").mkdir()
    (inside / "sub/file").write_text("content")
    os.chown(inside / "sub/file", 11, 22)
    os.chmod(inside / "sub/file", 0o4755)
    (inside / "link").symlink_to("/etc/hostname")
    change = mounting("/data", "tmpfs", "tmpfs", "tmpcopyup", "nodev")
    line = "cat /data/sub/file; stat -c ' %u %g %a' /data/sub/file; readlink /data/link; echo new >/data/new"
    assert look(runtime, line, change).splitlines() == ["content 11 22 4755", "/etc/hostname"]
    assert not (inside / "new").exists()


def test_mapped_ids_of_one_mount(runtime: Runtime, tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "file").write_text("x")
    os.chown(source / "file", 5, 6)
    maps = [{"containerID": 0, "hostID": 1000, "size": 100}]
    change = mounting("/data", "bind", source, "bind", "idmap", uidMappings=maps, gidMappings=maps)
    assert look(runtime, "stat -c '%u %g' /data/file", change) == "1005 1006"


def test_ids_mapped_as_the_container_has_them(runtime: Runtime, tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "file").write_text("x")

    def change(config: Config) -> None:
        with_user(config)
        mounting("/data", "bind", source, "bind", "idmap")(config)

    assert look(runtime, "stat -c '%u %g' /data/file; touch /data/new", change) == "0 0"
    assert (source / "new").stat().st_uid == 0


def test_remount_changes_what_is_there(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        mounting("/data", "tmpfs", "tmpfs", "size=1m")(config)
        mounting("/data", "", "", "remount", "ro", "bind")(config)

    assert " ro" in look(runtime, "grep ' /data ' /proc/self/mountinfo", change)


def test_a_file_is_bound_on_a_file(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("bound")
    assert look(runtime, "cat /new/place", mounting("/new/place", "bind", tmp_path / "file", "bind")) == "bound"


def test_a_relative_source_is_the_bundles(runtime: Runtime) -> None:
    folder, _ = runtime.bundle("box", "true")
    (folder / "beside").write_text("beside the root")
    assert look(runtime, "cat /data/f", mounting("/data/f", "bind", "beside", "bind")) == "beside the root"


def test_the_cgroup_mount_shows_its_own_group(runtime: Runtime) -> None:
    if (Path("/sys/fs/cgroup/cgroup.controllers")).exists():
        line = "cat /sys/fs/cgroup/cgroup.procs"
    else:
        line = "cat /sys/fs/cgroup/memory/cgroup.procs"
    assert "1" in look(runtime, f"{line}; grep -c cgroup /proc/mounts").split()


@pytest.mark.parametrize("word", ["shared", "slave", "private", "unbindable", "rshared", "rprivate"])
def test_propagation_of_the_root(runtime: Runtime, word: str) -> None:
    shown = look(runtime, "grep ' / / ' /proc/self/mountinfo; true", setting("linux.rootfsPropagation", word))
    root = look(runtime, "awk '$5 == \"/\"' /proc/self/mountinfo", setting("linux.rootfsPropagation", word)) or shown
    assert ("shared:" in root) is (word in ("shared", "rshared"))
    assert ("unbindable" in root) is (word == "unbindable")


# -- the process
def test_user_groups_umask_and_limits(runtime: Runtime) -> None:
    user = {"uid": 1000, "gid": 7, "additionalGids": [20, 30], "umask": 0o77}
    limits = [{"type": "RLIMIT_CORE", "soft": 1024, "hard": 2048}, {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]
    line = "id -u; id -G; umask; grep -E 'core file|open files' /proc/self/limits; echo $HOME"
    lines = look(runtime, line, user=user, rlimits=limits).splitlines()
    assert lines[:3] == ["1000", "7 20 30", "0077"]
    assert [row.split()[-3:-1] for row in lines[3:5]] == [["1024", "2048"], ["100", "200"]]
    assert lines[5] == "/home/app"


def test_all_five_sets_of_capabilities(runtime: Runtime) -> None:
    some = ["CAP_CHOWN", "CAP_KILL", "CAP_SYS_TIME"]
    sets = {
        "bounding": some,
        "permitted": some,
        "effective": some[:2],
        "inheritable": some[1:],
        "ambient": ["CAP_SYS_TIME"],
    }
    user = {"uid": 1000, "gid": 1000}
    lines = look(runtime, "grep Cap /proc/self/status", user=user, capabilities=sets).splitlines()
    found = {row.split()[0]: int(row.split()[1], 16) for row in lines}
    # Of an ordinary user only the ambient ones pass an exec (capabilities(7)).
    time_, kill, chown = 1 << 25, 1 << 5, 1
    assert found == {
        "CapInh:": kill | time_,
        "CapPrm:": time_,
        "CapEff:": time_,
        "CapBnd:": chown | kill | time_,
        "CapAmb:": time_,
    }


def test_scheduling_and_accounting(runtime: Runtime) -> None:
    scheduler = {"policy": "SCHED_BATCH", "nice": 5}
    priority = {"class": "IOPRIO_CLASS_IDLE", "priority": 0}
    line = "awk '{print $41, $19}' /proc/self/stat; cat /proc/self/oom_score_adj; ionice -p $$ || true"
    lines = look(runtime, line, scheduler=scheduler, ioPriority=priority, oomScoreAdj=300).splitlines()
    assert lines[:2] == ["3 5", "300"]
    if len(lines) > 2:
        assert lines[2].startswith("idle")


def test_personality(runtime: Runtime) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("only x86 calls itself otherwise")
    assert look(runtime, "uname -m", setting("linux.personality", {"domain": "LINUX32"})) == "i686"


def test_names(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config |= {"hostname": "box.example", "domainname": "nis.example"}

    assert look(runtime, "hostname; cat /proc/sys/kernel/domainname", change).split() == ["box.example", "nis.example"]


def test_security_labels_that_this_kernel_lacks_name_themselves(runtime: Runtime) -> None:
    enabled = Path("/proc/filesystems").read_text()
    if "selinuxfs" not in enabled:
        assert "SELinux is not enabled" in fails(runtime, setting("process.selinuxLabel", "a:b:c:d"))
        assert "SELinux is not enabled" in fails(runtime, setting("linux.mountLabel", "a:b:c:d"))
    if not Path("/sys/kernel/security/apparmor").exists():
        assert "AppArmor is not enabled" in fails(runtime, setting("process.apparmorProfile", "some-profile"))


def test_intel_rdt_where_absent(runtime: Runtime) -> None:
    if "resctrl" in Path("/proc/mounts").read_text():
        pytest.skip("this host has it")
    assert "Intel RDT" in fails(runtime, setting("linux.intelRdt", {"l3CacheSchema": "L3:0=f"}))


# -- devices, settings, covers
def test_devices_of_every_type(runtime: Runtime) -> None:
    devices = [
        {"path": "/dev/my/char", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 3, "gid": 4},
        {"path": "/dev/plain", "type": "u", "major": 1, "minor": 5},
        {"path": "/dev/block", "type": "b", "major": 7, "minor": 99},
        {"path": "/dev/pipe", "type": "p"},
    ]
    line = "stat -c '%F %t:%T %a %u:%g' /dev/my/char /dev/plain /dev/block /dev/pipe"
    assert look(runtime, line, setting("linux.devices", devices)).splitlines() == [
        "character special file 1:3 640 3:4",
        "character special file 1:5 666 0:0",
        "block special file 7:63 666 0:0",
        "fifo 0:0 666 0:0",
    ]


def test_default_devices_without_a_mount_on_dev(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["mounts"] = [one for one in config["mounts"] if not one["destination"].startswith("/dev")]
        config["root"]["readonly"] = False

    assert look(runtime, "echo x >/dev/null; test -c /dev/urandom && readlink /dev/fd", change) == "/proc/self/fd"


def test_a_device_that_is_not_allowed(runtime: Runtime) -> None:
    device = [{"path": "/dev/kernel-log", "type": "c", "major": 1, "minor": 11}]
    line = "dd if=/dev/kernel-log of=/dev/null count=1 2>&1 | grep -o 'not permitted'; echo end"
    assert "not permitted" in look(runtime, line, setting("linux.devices", device))


@pytest.mark.parametrize("name", ["kernel.shm_rmid_forced", "kernel/shm_rmid_forced"])
def test_sysctls(runtime: Runtime, name: str) -> None:
    change = setting("linux.sysctl", {name: "1", "net.ipv4.ip_forward": "1"})
    line = "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_forward"
    assert look(runtime, line, change).split() == ["1", "1"]


def test_masked_and_read_only_paths(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["linux"]["maskedPaths"] = ["/proc/uptime", "/data", "/none"]
        config["linux"]["readonlyPaths"] = ["/tmp", "/none"]
        config["root"]["readonly"] = False

    folder, _ = runtime.bundle("box", "true")
    (folder / "rootfs/data/secret").write_text("x")
    line = "wc -c </proc/uptime; ls /data | wc -l; touch /tmp/x 2>&1 | grep -o Read-only; touch /etc/x && echo etc"
    assert look(runtime, line, change).split() == ["0", "0", "Read-only", "etc"]


# -- hooks
def test_hooks_run_in_their_places_with_the_state(runtime: Runtime, tmp_path: Path) -> None:
    seen = tmp_path / "seen"

    def hook(kind: str, inside: bool = False) -> dict[str, object]:
        where = "/data" if inside else str(tmp_path)
        line = f"(echo {kind}; cat; echo) >>{where}/seen; readlink /proc/self/ns/mnt >>{where}/seen"
        return {"path": "/bin/sh", "args": ["sh", "-c", line], "env": ["PATH=/bin:/usr/bin"]}

    kinds = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]

    def change(config: Config) -> None:
        mounting("/data", "bind", tmp_path, "bind")(config)
        config["hooks"] = {kind: [hook(kind, kind == "startContainer")] for kind in kinds}
        config["annotations"] = {"org.example.key": "value"}

    runtime.run("box", "true", change=change)
    lines = seen.read_text().splitlines()
    assert lines[::3] == kinds
    states = [json.loads(line) for line in lines[1::3]]
    statuses = [state["status"] for state in states]
    assert statuses[:4] == ["creating", "creating", "creating", "created"]
    assert statuses[4] in ("running", "stopped")  # `true` may have ended
    assert statuses[5] == "stopped"
    assert all(state["id"] == "box" and state["annotations"] == {"org.example.key": "value"} for state in states)
    ours = os.readlink("/proc/self/ns/mnt")
    assert [namespace == ours for namespace in lines[2::3]] == [True, True, False, False, True, True]


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "startContainer"])
def test_a_hook_that_fails_is_the_end_of_the_start(runtime: Runtime, tmp_path: Path, kind: str) -> None:
    after = tmp_path / "after"

    def change(config: Config) -> None:
        bad = {"path": "/bin/sh", "args": ["sh", "-c", "echo no good >&2; exit 3"]}
        last = {"path": "/bin/sh", "args": ["sh", "-c", f"/bin/cat >{after}"]}
        config["hooks"] = {kind: [bad], "poststop": [last]}

    words = fails(runtime, change)
    assert f"the {kind} hook /bin/sh failed: it ended with 3: no good" in words
    assert json.loads(after.read_text())["status"] == "stopped"


@pytest.mark.parametrize("kind", ["poststart", "poststop"])
def test_a_later_hook_that_fails_is_a_warning(runtime: Runtime, kind: str) -> None:
    change = setting("hooks", {kind: [{"path": "/bin/false"}, {"path": "/none"}]})
    done = runtime.run("box", "sh", "-c", "sleep 0.3; exit 4", change=change)
    assert done.returncode == 4
    assert f"warning: the {kind} hook /bin/false failed" in done.stderr
    assert f"warning: the {kind} hook /none failed" in done.stderr


def test_a_hook_has_its_time(runtime: Runtime) -> None:
    hook = {"path": "/bin/sleep", "args": ["sleep", "30"], "timeout": 1}
    began = time.monotonic()
    assert "does not end: it was given 1 s" in fails(runtime, setting("hooks", {"createRuntime": [hook]}))
    assert time.monotonic() - began < 10


def test_a_large_configuration(runtime: Runtime) -> None:
    """100 KB and more of annotations and environment (CVE-2021-43784 was an overflow of a length)."""

    def change(config: Config) -> None:
        config["annotations"] = {f"org.example.{number}": "x" * 1000 for number in range(300)}
        config["process"]["env"] += [f"V{number}={'y' * 1000}" for number in range(80)]
        config["hooks"] = {"createRuntime": [{"path": "/bin/true"}]}  # does not read its state

    assert look(runtime, "echo ${#V79}", change) == "1000"


def test_output_files_belong_to_the_user(runtime: Runtime) -> None:
    user = {"uid": 1000, "gid": 1000}
    assert look(runtime, "echo through >/dev/stdout", user=user) == "through"


def test_modes_of_the_root_survive(runtime: Runtime) -> None:
    folder, _ = runtime.bundle("box", "true")
    os.chmod(folder / "rootfs/tmp", 0o1777)
    assert look(runtime, "stat -c %a /tmp") == "1777"
    assert stat.S_IMODE((folder / "rootfs/tmp").stat().st_mode) == 0o1777
