"""Traps in a bundle's root file system, for ``wharf runtime``: whatever the image puts in the way of /proc, /dev, a
mount, a device or a mask, nothing of the host changes. What the engine's own containers cannot be given (no mount on
/dev, odd spellings of a destination) is asked for here.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import needs_root
from tests.engine.netlab import soon
from tests.engine.test_attacks import CORE_PATTERN
from tests.engine.test_oci_config import fails, look, mounting, namespaced, setting
from tests.imagemaker import busybox
from tests.oci import MAPPED, Config, Runtime, make_rootfs, save

pytestmark = [needs_root, pytest.mark.skipif(busybox() is None, reason="needs busybox-static from Debian")]


@pytest.fixture
def runtime(runtime: Runtime) -> Runtime:
    make_rootfs(runtime.base / "box/rootfs")
    return runtime


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A folder of the host that must be the same afterwards, and the kernel's settings too."""
    folder = tmp_path / "canary"
    folder.mkdir()
    (folder / "file").write_text("host\n")
    before, pattern = state(folder), CORE_PATTERN.read_text()
    yield folder
    assert state(folder) == before
    assert CORE_PATTERN.read_text() == pattern


def state(folder: Path) -> dict[str, tuple[int, ...]]:
    found = {}
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, status.st_mtime_ns)
    return found


def replaced(runtime: Runtime, name: str, target: str | Path) -> Path:
    """A link in the place of a folder of the image."""
    place = runtime.base / "box/rootfs" / name
    place.rmdir()
    place.symlink_to(target)
    return place


def without(*destinations: str) -> Any:
    def change(config: Config) -> None:
        config["mounts"] = [entry for entry in config["mounts"] if not entry["destination"].startswith(destinations)]
        config["root"]["readonly"] = False

    return change


def several(*changes: Any) -> Any:
    def change(config: Config) -> None:
        for one in changes:
            one(config)

    return change


# -- /proc
@pytest.mark.parametrize("spelled", ["/proc", "/proc/", "//proc", "/dev/../proc", "proc"])
def test_proc_is_a_link(runtime: Runtime, canary: Path, spelled: str) -> None:
    """CVE-2019-16884, CVE-2019-19921, CVE-2023-27561: masks and settings would go where the link leads."""
    replaced(runtime, "proc", canary)

    def change(config: Config) -> None:
        next(entry for entry in config["mounts"] if entry["destination"] == "/proc")["destination"] = spelled

    assert "/proc in the image is not a directory" in fails(runtime, change)


@pytest.mark.parametrize("destination", ["/proc/sys", "/sys/../proc/self/attr", "/link/sys", "/sys/in"])
def test_a_mount_that_leads_into_proc(runtime: Runtime, canary: Path, destination: str) -> None:
    """CVE-2019-19921, CVE-2025-52881: what is written below /proc would be written to a file of the image's."""
    replaced(runtime, "data", "proc").rename(runtime.base / "box/rootfs/link")
    (runtime.base / "box/rootfs/sys/in").symlink_to("/proc/sys")
    change = several(without("/sys"), mounting(destination, "bind", canary, "bind"))
    assert "which init needs itself" in fails(runtime, change)


@pytest.mark.parametrize("target", ["/sys", "/proc/sys/kernel"])
def test_a_remount_that_leads_elsewhere(runtime: Runtime, target: str) -> None:
    """By a link in the image the order to make one mount writable would make another one so."""
    replaced(runtime, "data", target)
    change = mounting("/data", "", "", "remount", "bind", "rw")
    assert "which init needs itself" in fails(runtime, change)
    assert look(runtime, "grep -c ' /sys sysfs ro,' /proc/mounts", mounting("/sys", "", "", "remount", "bind", "ro"))


def test_labels_are_not_written_into_the_image(runtime: Runtime) -> None:
    """CVE-2019-16884, CVE-2023-28642: a label that a fake /proc has swallowed would leave the process unconfined."""
    attr = runtime.base / "box/rootfs/proc/thread-self/attr"
    (attr / "apparmor").mkdir(parents=True)
    for name in ("exec", "apparmor/exec"):
        (attr / name).write_text("")
    (runtime.base / "box/rootfs/proc/filesystems").write_text("nodev\tselinuxfs\n")
    (runtime.base / "box/rootfs/proc/self").symlink_to("thread-self")
    for field in ("apparmorProfile", "selinuxLabel"):
        change = several(without("/proc"), setting(f"process.{field}", "wharf_t"))
        words = fails(runtime, change)
        assert "is not enabled in this kernel" in words or "wharf_t" in words
        _, config = runtime.bundle("box", "sleep", "100")
        without("/proc")(config)
        save(runtime.base / "box", config)
        runtime.good("run", "--detach", "--bundle", runtime.base / "box", "box", stdout=subprocess.DEVNULL)
        option = "--apparmor" if field == "apparmorProfile" else "--process-label"
        assert runtime.call("exec", option, "wharf_t", "box", "true").returncode == 1
        runtime.good("delete", "--force", "box")
    assert [(attr / name).read_text() for name in ("exec", "apparmor/exec")] == ["", ""]


def test_a_fake_proc_does_not_hold_who_joins(runtime: Runtime) -> None:
    """What is asked of /proc inside (may groups be set?) is the image's to answer: with a FIFO it would never end."""
    fake = runtime.base / "box/rootfs/proc/self"
    fake.mkdir()
    for name in ("setgroups", "stat", "uid_map", "gid_map"):
        os.mkfifo(fake / name)

    def change(config: Config) -> None:
        without("/proc")(config)
        config["annotations"] = {"io.wharfinger.init": "true"}
        namespaced({"type": "user"})(config)
        for kind in ("uidMappings", "gidMappings"):
            config["linux"][kind] = [{"containerID": 0, "hostID": MAPPED, "size": 1000}]

    _, config = runtime.bundle("box", "sleep", "100")
    change(config)
    save(runtime.base / "box", config)
    runtime.good("run", "--detach", "--bundle", runtime.base / "box", "box", stdout=subprocess.DEVNULL)
    assert runtime.good("exec", "box", "id", "-G") == "0\n"


# -- /dev
@pytest.mark.parametrize("target", ["/canary", "../../../canary"])
@pytest.mark.parametrize("name", ["dev", "dev/pts"])
def test_dev_is_a_link_while_devices_are_made(runtime: Runtime, canary: Path, name: str, target: str) -> None:
    """CVE-2026-41579, CVE-2026-47766: nodes of the host's devices would be made where the link leads."""
    target = str(canary) if target == "/canary" else target
    if name == "dev/pts":
        (runtime.base / "box/rootfs/dev/pts").mkdir()
    replaced(runtime, name, target)
    line = "echo x >/dev/null && echo well"
    for change in (without(), without("/dev"), several(without("/dev"), mounting("/dev/pts", "devpts", "devpts"))):
        done = runtime.run("box", "sh", "-c", line, change=change)
        assert done.stdout == "well\n" or done.returncode == 1
        assert "Traceback" not in done.stderr


def test_devices_do_not_follow_links_into_a_volume(runtime: Runtime, canary: Path) -> None:
    """There the node would be the host's, for any of its users to open."""
    link = replaced(runtime, "data", "vol")
    device = [{"path": "/data/disk", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666}]
    change = several(mounting("/vol", "bind", canary, "bind"), without(), setting("linux.devices", device))
    assert "making the device /data/disk failed" in fails(runtime, change)
    link.unlink()
    assert look(runtime, "stat -c %F /data/disk", change) == "character special file"


def test_a_bound_dev_keeps_its_devices(runtime: Runtime) -> None:
    """``-v /dev:/dev``, with devices listed: making them would change owners and modes of the host's own."""
    canary = runtime.base / "hosts"
    canary.mkdir()
    (canary / "file").write_text("")
    os.mknod(canary / "null", 0o620 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(canary / "zero", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    for name, mode in (("null", 0o620), ("zero", 0o600)):
        os.chmod(canary / name, mode)
        os.chown(canary / name, 7, 8)
    before = state(canary)
    listed = [{"path": f"/dev/{name}", "type": "c", "major": 1, "minor": 5} for name in ("zero", "more")]
    listed[0]["fileMode"] = 0o666
    for kind in ("bind", "rbind"):
        change = several(without("/dev"), mounting("/dev", "bind", canary, kind), setting("linux.devices", listed))
        shown = look(runtime, "stat -c '%a %u %g' /dev/zero; ls /dev", change)
        assert shown.split() == "600 7 8 file null zero".split()
        assert state(canary) == before


@pytest.mark.parametrize("trap", ["console", "ptmx", "fifo"])
def test_the_terminal_of_the_image(runtime: Runtime, canary: Path, trap: str) -> None:
    """CVE-2025-52565: what stands at /dev/console, or where a terminal comes from, is the image's without a mount."""
    dev = runtime.base / "box/rootfs/dev"
    if trap == "console":
        (dev / "console").symlink_to(canary / "file")
        change = several(without("/dev"), mounting("/dev/pts", "devpts", "devpts", "newinstance", "ptmxmode=0666"))
    else:
        (dev / "pts").mkdir()
        change = without("/dev")
        if trap == "fifo":
            os.mkfifo(dev / "pts/ptmx")
        else:
            os.mknod(dev / "pts/ptmx", 0o666 | stat.S_IFCHR, os.makedev(5, 2))  # of no devpts at all
    config = runtime.bundle("box", "sh", "-c", "tty; stat -c %F /dev/console", terminal=True)[1]
    change(config)
    save(runtime.base / "box", config)
    done = runtime.call("run", "--bundle", runtime.base / "box", "box")
    assert done.returncode == 1 or done.stdout.split() == ["/dev/pts/0", "character", "special", "file"]
    assert "Traceback" not in done.stderr


# -- masks
@pytest.mark.parametrize("dev", ["none", "bound"])
def test_the_null_device_is_a_link(runtime: Runtime, dev: str) -> None:
    """CVE-2025-31133: a masked file would become a way to whatever /dev/null leads to."""
    pattern = CORE_PATTERN.read_text()
    (runtime.base / "box/rootfs/dev/null").symlink_to("/proc/sys/kernel/core_pattern")
    changes = [without("/dev"), setting("linux.maskedPaths", ["/proc/timer_list", "/proc/uptime"])]
    if dev == "bound":
        changes.append(mounting("/dev", "bind", runtime.base / "box/rootfs/dev", "bind"))
    done = runtime.run("box", "sh", "-c", "echo '|/evil' >/proc/uptime; echo started", change=several(*changes))
    assert (done.returncode, done.stdout) == (1, "")
    assert CORE_PATTERN.read_text() == pattern


def test_masks_follow_the_links_of_the_image_inside(runtime: Runtime, canary: Path) -> None:
    """/var/run is a link in most images: what is to be hidden there must be hidden, and nothing of the host's."""
    rootfs = runtime.base / "box/rootfs"
    for name in ("run/secrets", "var", "etc/conf"):
        (rootfs / name).mkdir(parents=True)
    (rootfs / "run/secrets/key").write_text("secret")
    (rootfs / "etc/conf/file").write_text("x")
    (rootfs / "var/run").symlink_to("/run")
    (rootfs / "var/conf").symlink_to("../../../../etc/conf")
    (rootfs / "var/out").symlink_to(canary)
    (rootfs / "var/irqs").symlink_to("/proc/self/root/proc/interrupts")

    def change(config: Config) -> None:
        config["root"]["readonly"] = False
        config["linux"]["maskedPaths"] += ["/var/run/secrets", "/var/out", "/var/none"]
        config["linux"]["readonlyPaths"] += ["/var/conf", "/var/out/file"]

    line = "ls /run/secrets | wc -l; touch /etc/conf/file 2>&1 | grep -o Read-only; wc -c </proc/interrupts"
    assert look(runtime, line, change).split() == ["0", "Read-only", "0"]
    for links in ("/var/irqs", "/loop"):
        (rootfs / "loop").unlink(missing_ok=True)
        (rootfs / "loop").symlink_to("loop")
        assert "Too many levels of symbolic links" in fails(runtime, setting("linux.maskedPaths", [links]))


def test_writes_to_the_kernel(runtime: Runtime) -> None:
    """As root with all of Docker's rights, and without its filter."""
    pattern = CORE_PATTERN.read_text()
    files = "/proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/vm/panic_on_oom /proc/sysrq-trigger "
    files += "/proc/irq/default_smp_affinity /sys/kernel/uevent_helper /sys/kernel/mm/ksm/run /sys/fs/cgroup/x"
    line = f"for f in {files} $(find /sys/fs/cgroup -type f); do (echo 0 >$f) 2>/dev/null && echo $f; done; true"

    def change(config: Config) -> None:
        rights = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "MKNOD", "SETUID", "SETGID", "SETPCAP", "SYS_CHROOT", "NET_RAW"]
        for kind in ("bounding", "effective", "permitted"):
            config["process"]["capabilities"][kind] = [f"CAP_{name}" for name in rights]

    assert look(runtime, line, change) == ""
    assert CORE_PATTERN.read_text() == pattern


# -- the working directory
def test_the_working_directory_is_a_descriptor(runtime: Runtime) -> None:
    """CVE-2024-21626, by ``process.cwd`` and ``exec --cwd``; some twenty folders in one go each."""
    rootfs = runtime.base / "box/rootfs"
    places = [f"/proc/self/fd/{number}" for number in range(3, 21)] + ["/proc/self/cwd", "/proc/1/root", "/link"]
    (rootfs / "link").symlink_to("/proc/self/fd/7/../..")
    _, config = runtime.bundle("box", "sleep", "100")
    save(runtime.base / "box", config)
    runtime.good("run", "--detach", "--bundle", runtime.base / "box", "box", stdout=subprocess.DEVNULL)
    for place in places[::4]:
        _, other = runtime.bundle("other", "ls", cwd=place)
        other["root"]["path"] = str(rootfs)
        done = runtime.call("run", "--bundle", save(runtime.base / "other", other), "other")
        assert done.returncode == 1, (place, done.stdout)
    for place in places[::3]:
        done = runtime.call("exec", "--cwd", place, "box", "ls")
        assert (done.returncode, done.stdout) == (1, ""), place


def test_copy_up_stays_inside(runtime: Runtime, canary: Path) -> None:
    """``tmpcopyup``: links are copied as links, devices and pipes not at all, and the folder itself may be a link."""
    folder = runtime.base / "box/rootfs/data"
    (folder / "out").symlink_to(canary / "file")
    (folder / "passwd").symlink_to("/etc/passwd")
    os.mkfifo(folder / "fifo")
    os.mknod(folder / "disk", 0o666 | stat.S_IFBLK, os.stat("/").st_dev)
    folder.rename(runtime.base / "box/rootfs/real")
    for link in ("/real", str(canary)):
        folder.symlink_to(link)
        change = several(mounting("/data", "tmpfs", "tmpfs", "tmpcopyup"), without())
        done = runtime.run("box", "sh", "-c", "ls /real; readlink /real/out; cat /real/out", change=change)
        if link == "/real":
            assert done.stdout.split() == ["out", "passwd", str(canary / "file")]
        assert "host" not in done.stdout
        folder.unlink()


# -- sizes
def test_thousands_of_mounts(runtime: Runtime) -> None:
    """CVE-2021-43784: 16 bits of length in a message to the process that sets a container up."""

    def change(config: Config) -> None:
        config["root"]["readonly"] = False
        config["annotations"] = {f"org.example.{number}": "x" * 70000 for number in range(10)}
        for number in range(1500):
            mounting(f"/data/{'d' * 60}{number}", "tmpfs", "tmpfs", "size=4k", "ro")(config)

    assert look(runtime, "grep -c ' /data/d' /proc/mounts; id -u", change).split() == ["1500", "0"]


# -- users
def test_users_that_are_none(runtime: Runtime) -> None:
    """CVE-2024-40635, CVE-2026-30892: -1 is "leave it as it is" for the kernel, and 2³² is 0."""
    numbers = (-1, 4294967295, 4294967296, "0", 0.5, True)
    for number, field in zip(numbers, ("uid", "gid") * 3, strict=True):
        assert f"process.user.{field}" in fails(runtime, setting(f"process.user.{field}", number))
    _, config = runtime.bundle("box", "sleep", "100")
    save(runtime.base / "box", config)
    runtime.good("run", "--detach", "--bundle", runtime.base / "box", "box", stdout=subprocess.DEVNULL)
    for user in ("4294967295", "-1", "1000:", ":0", "1:2:3", "1000:4294967296"):
        done = runtime.call("exec", f"--user={user}", "box", "id")
        assert (done.returncode, done.stdout) == (1, ""), user


def test_groups_of_the_caller_stay_outside(runtime: Runtime) -> None:
    """CVE-2022-36109: who calls the runtime may be in many groups; the process is in those that it was given."""
    for groups in ([], [7]):
        _, config = runtime.bundle("box", "sh", "-c", "id -G; sleep 100", user={"uid": 5, "gid": 6})
        config["process"]["user"]["additionalGids"] = groups
        save(runtime.base / "box", config)
        with (runtime.base / "out").open("w") as file:
            runtime.good("run", "-d", "--bundle", runtime.base / "box", "box", stdout=file, extra_groups=[1, 2, 3])
        inside = runtime.good("exec", "box", "id", "-G", extra_groups=[1, 2, 3])
        assert inside.split() == ["6", *map(str, groups)]
        assert soon(lambda: (runtime.base / "out").read_text().endswith("\n"), 20)
        runtime.good("delete", "--force", "box")
        assert (runtime.base / "out").read_text() == inside
