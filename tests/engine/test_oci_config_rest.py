"""``config.json``, carried out: the process, devices, paths and hooks."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from tests.conftest import needs_root
from tests.engine.test_oci_config import fails, look, mounting, setting
from tests.imagemaker import busybox
from tests.oci import Config, Runtime

pytestmark = [needs_root, pytest.mark.skipif(busybox() is None, reason="needs busybox-static from Debian")]


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
    hook = {"path": "/bin/sleep", "args": ["sleep", "300"], "timeout": 1}  # longer than the command is waited for
    assert "does not end: it was given 1 s" in fails(runtime, setting("hooks", {"createRuntime": [hook]}))


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
