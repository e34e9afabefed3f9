"""``wharf runtime``: what config.json says is what the container has, field by field (runtime-spec 1.2)."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import needs_root
from tests.imagemaker import busybox
from tests.oci import MAPPED, Config, Runtime, save
from tests.patience import patience

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
        end = time.monotonic() + patience(20)
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
    # It is there from the creation on, before the command has been executed.
    folder, config = runtime.bundle("made", "sleep", "100")
    change(config)
    save(folder, config)
    runtime.good("create", "--bundle", folder, "made", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert float(runtime.good("exec", "made", "cat", "/proc/uptime").split()[0]) > 1000000


def with_user(config: Config) -> None:
    namespaced({"type": "user"})(config)
    config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": MAPPED, "size": 1000}]
    config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": MAPPED + 5000, "size": 1000}]


def test_a_user_namespace_with_its_maps(runtime: Runtime) -> None:
    line = "id -u; cat /proc/self/uid_map /proc/self/gid_map; test -c /dev/null && echo x >/dev/null && echo devices"
    lines = look(runtime, line, with_user).splitlines()
    assert lines[0] == "0"
    assert [row.split() for row in lines[1:3]] == [["0", str(MAPPED), "1000"], ["0", str(MAPPED + 5000), "1000"]]
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
    assert Path(f"/proc/{pid}").stat().st_uid == MAPPED
    said = runtime.good("exec", "box", "sh", "-c", "id -u; cat /proc/self/uid_map")
    assert said.split()[:3] == ["0", "0", str(MAPPED)]


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
