"""What each option of ``run`` does, seen from inside a real container; and what Docker's rules refuse."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.engine import Engine
from core.kernel import caps
from core.model import ContainerSpec, DeviceLimit, DeviceMapping, ExecSpec, Mount, Resources
from tests.engine.test_lifecycle import output, run, sleeper, until


async def inside(engine: Engine, cid: str, *argv: str, **fields: Any) -> tuple[int, str]:
    """Run a command in a container; exit code and output."""
    session = await engine.exec(cid, ExecSpec(argv, **fields))
    await session.close_stdin()
    text = b""
    while chunk := await session.read():
        text += chunk[1]
    code = await session.wait()
    await session.close()
    return code, text.decode().strip()


async def shell(engine: Engine, image: str, script: str, **fields: Any) -> list[str]:
    """The lines of a script that ends well."""
    code, lines = await run(engine, image, "sh", "-c", script, **fields)
    assert code == 0, lines
    return lines


async def host_config(engine: Engine, cid: str) -> dict[str, Any]:
    view: Any = (await engine.inspect(cid))["HostConfig"]
    assert isinstance(view, dict)
    return view


# -- pid 1
async def test_init_reaps_forwards_and_hands_the_exit_code_on(engine: Engine, busybox_image: str) -> None:
    script = "cat /proc/1/comm; (sleep 0.1 & exit) ; sleep 0.4; ps -o stat | grep -c Z; exit 7"
    code, lines = await run(engine, busybox_image, "sh", "-c", script, init=True)
    assert (code, lines) == (7, ["wharf-init", "0"])
    cid = await sleeper(engine, busybox_image, init=True)
    await until(lambda: has_line(engine, cid, "ready"))
    await engine.stop(cid)
    assert (await engine.container(cid)).exit_code == 0  # the trap: the signal came through
    assert (await host_config(engine, cid))["Init"] is True


async def has_line(engine: Engine, cid: str, line: str) -> bool:
    return line in await output(engine, cid)


async def test_stop_signal(engine: Engine, busybox_image: str) -> None:
    script = "trap 'exit 3' USR1; trap '' TERM; echo ready; while :; do sleep 1 & wait $!; done"
    box = await engine.create(ContainerSpec(busybox_image, command=("sh", "-c", script), stop_signal="USR1"))
    await engine.start(box.id)
    await until(lambda: has_line(engine, box.id, "ready"))
    await engine.stop(box.id)
    assert (await engine.container(box.id)).exit_code == 3


# -- file systems
async def test_read_only_root_with_writable_memory(engine: Engine, busybox_image: str) -> None:
    script = (
        "exec 2>&1; touch /x; touch /etc/hosts; echo a > /etc/hosts; touch /run/x /dev/shm/x && echo fine;"
        "grep ' /run ' /proc/mounts"
    )
    mounts = (Mount("tmpfs", "", "/run", options=("size=1m",)),)
    lines = await shell(engine, busybox_image, script, read_only=True, mounts=mounts)
    assert sum("Read-only file system" in line for line in lines) == 3
    assert lines[-2] == "fine"
    assert set("rw,nosuid,nodev,noexec,size=1024k".split(",")) <= set(lines[-1].split()[3].split(","))


async def test_tmpfs_options_stand_over_the_defaults(engine: Engine, busybox_image: str) -> None:
    options = ("exec", "size=9m", "size=4m", "mode=700", "uid=7", "nr_inodes=9")
    script = "grep ' /t ' /proc/mounts; stat -c '%a %u' /t; cp /bin/busybox /t/ && /t/busybox true && echo ran"
    spec = {"mounts": (Mount("tmpfs", "", "/t", options=options),)}
    lines = await shell(engine, busybox_image, script, **spec)
    shown = set(lines[0].split()[3].split(","))
    assert {"rw", "nosuid", "nodev", "size=4096k", "mode=700", "nr_inodes=9"} <= shown
    assert "noexec" not in shown
    assert lines[1] == "700 7"


async def test_none_of_dev_shm_and_its_size(engine: Engine, busybox_image: str) -> None:
    script = "grep ' /dev/shm ' /proc/mounts || echo none"
    assert (await shell(engine, busybox_image, script, ipc="none")) == ["none"]
    lines = await shell(engine, busybox_image, script, shm_size=1 << 20)
    assert "size=1024k" in lines[0]


async def test_volumes_from_another_container(engine: Engine, busybox_image: str, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine").touch()
    mounts = (
        Mount("bind", str(tmp_path / "shared"), "/a"),
        Mount("volume", "data", "/b"),
        Mount("bind", str(tmp_path / "shared"), "/c"),
        Mount("tmpfs", "", "/t"),
    )
    box = await engine.create(ContainerSpec(busybox_image, name="store", mounts=mounts, command=("touch", "/b/there")))
    await engine.start(box.id)
    await engine.wait(box.id)
    own = (Mount("bind", str(tmp_path / "other"), "/c"),)
    script = "ls /b /c; touch /a/x 2>&1; test -e /t || echo no /t"
    lines = await shell(engine, busybox_image, script, volumes_from=("store:ro",), mounts=own)
    assert lines == ["/b:", "there", "", "/c:", "mine", "touch: /a/x: Read-only file system", "no /t"]
    with pytest.raises(errors.NotFound):
        await engine.create(ContainerSpec(busybox_image, volumes_from=("nobody",)))


# -- devices
@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    """A folder with two device nodes: /dev/zero's and /dev/full's."""
    folder = tmp_path / "nodes"
    (folder / "below").mkdir(parents=True)
    os.mknod(folder / "zero", 0o20640, os.makedev(1, 5))
    os.mknod(folder / "below/ptmx", 0o20666, os.makedev(5, 2))
    (folder / "below/ptmx").chmod(0o666)  # whatever our umask
    (folder / "file").touch()
    return folder


async def test_devices(engine: Engine, busybox_image: str, nodes: Path) -> None:
    node = Path("/dev/loop-control")
    if not node.exists():
        pytest.skip("the host has no /dev/loop-control")
    mapping = DeviceMapping(str(node), "/dev/mine", "r")
    script = "stat -c '%t:%T %F' /dev/mine; : < /dev/mine && echo read; : > /dev/mine 2>&1; mknod /d c 10 237; : < /d"
    code, lines = await run(engine, busybox_image, "sh", "-c", script, devices=(mapping,))
    assert lines[:2] == ["a:ed character special file", "read"]
    assert "Operation not permitted" in lines[2]  # only r was asked for
    code, lines = await run(engine, busybox_image, "sh", "-c", "mknod /d c 10 237; : < /d")
    assert code != 0
    assert "Operation not permitted" in lines[0]
    # A folder means all in it; modes are the host's.
    mapping = DeviceMapping(str(nodes), "/dev/more")
    lines = await shell(engine, busybox_image, "cd /dev/more; stat -c '%n %a %t:%T' * below/*", devices=(mapping,))
    assert lines == ["below 755 0:0", "zero 640 1:5", "below/ptmx 666 5:2"]


async def test_device_rules(engine: Engine, busybox_image: str) -> None:
    script = "mknod /d c 10 237; : < /d"
    assert (await run(engine, busybox_image, "sh", "-c", script))[0] != 0
    await shell(engine, busybox_image, script, device_cgroup_rules=("c 10:237 r",))
    await shell(engine, busybox_image, script, device_cgroup_rules=("c 10:* rwm",))


async def test_privileged_has_all(engine: Engine, busybox_image: str) -> None:
    script = (
        "grep -E 'CapEff|Seccomp:' /proc/self/status; grep -c ' /proc/kcore \\| /proc/sys ' /proc/mounts;"
        "grep ' /sys ' /proc/mounts; ls /dev | wc -l; mount -t tmpfs none /mnt && echo mounted"
    )
    box = await engine.create(
        ContainerSpec(busybox_image, privileged=True, command=("sh", "-c", f"mkdir /mnt; {script}"))
    )
    await engine.start(box.id)
    await engine.wait(box.id)
    lines = await output(engine, box.id)
    assert int(lines[0].split()[1], 16) == caps.mask(caps.bounding())
    assert lines[1:3] == ["Seccomp:\t0", "0"]
    assert lines[3].split()[3].split(",")[0] == "rw"
    assert int(lines[4]) >= len([name for name in os.listdir("/dev") if not name.startswith(".")]) - 6
    assert lines[5] == "mounted"
    view = await host_config(engine, box.id)
    assert (view["Privileged"], view["MaskedPaths"], view["ReadonlyPaths"]) == (True, [], [])


# -- rights
@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ((), (), {"CHOWN", "NET_RAW", "MKNOD"}),
        ((), ("ALL",), set()),
        (("net_admin",), ("ALL",), {"NET_ADMIN"}),
        (("ALL",), ("CAP_CHOWN",), None),
        (("ALL",), ("ALL",), None),
    ],
)
async def test_capabilities(
    engine: Engine, busybox_image: str, add: tuple[str, ...], drop: tuple[str, ...], expected: set[str] | None
) -> None:
    lines = await shell(engine, busybox_image, "grep CapBnd /proc/self/status", cap_add=add, cap_drop=drop)
    bits = int(lines[0].split()[1], 16)
    if expected is None:
        everything = caps.mask(caps.bounding())
        assert bits == everything & ~(caps.mask(["CAP_CHOWN"]) if drop == ("CAP_CHOWN",) else 0)
    elif expected == {"CHOWN", "NET_RAW", "MKNOD"}:
        assert bits & caps.mask(f"CAP_{name}" for name in expected) == caps.mask(f"CAP_{name}" for name in expected)
        assert not bits & caps.mask(["CAP_SYS_ADMIN"])
    else:
        assert bits == caps.mask(f"CAP_{name}" for name in expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ["NoNewPrivs:\t0", "Seccomp:\t2", "1"]),
        (("no-new-privileges",), ["NoNewPrivs:\t1", "Seccomp:\t2", "1"]),
        (("no-new-privileges:true", "seccomp:unconfined"), ["NoNewPrivs:\t1", "Seccomp:\t0", "1"]),
        (("no-new-privileges=false", "seccomp=builtin"), ["NoNewPrivs:\t0", "Seccomp:\t2", "1"]),
        (("systempaths=unconfined", "apparmor=unconfined", "label=disable"), ["NoNewPrivs:\t0", "Seccomp:\t2", "0"]),
    ],
)
async def test_security_options(
    engine: Engine, busybox_image: str, options: tuple[str, ...], expected: list[str]
) -> None:
    script = "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status; grep -c ' /proc/sys ' /proc/mounts; true"
    assert await shell(engine, busybox_image, script, security_opt=options) == expected


async def test_a_profile_holds_for_a_privileged_container_too(
    engine: Engine, busybox_image: str, tmp_path: Path
) -> None:
    profile = tmp_path / "p.json"
    profile.write_text(
        '{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],'
        '"syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}'
    )
    spec = {"privileged": True, "security_opt": (f"seccomp={profile}",)}
    code, lines = await run(engine, busybox_image, "mkdir", "/x", **spec)
    assert code != 0
    assert "not supported" in lines[0]


@pytest.mark.skipif(
    Path("/sys/module/apparmor").exists() or Path("/sys/fs/selinux/enforce").exists(), reason="the host has the module"
)
@pytest.mark.parametrize("option", ["apparmor=some-profile", "label=type:container_t"])
async def test_a_security_module_that_the_host_lacks_is_named(engine: Engine, busybox_image: str, option: str) -> None:
    with pytest.raises(errors.Unsupported, match=r"AppArmor|SELinux"):
        await engine.create(ContainerSpec(busybox_image, security_opt=(option,)))


async def test_writable_cgroups(engine: Engine, busybox_image: str) -> None:
    script = "f=/sys/fs/cgroup/pids; test -d $f || f=/sys/fs/cgroup; mkdir $f/below"
    assert (await run(engine, busybox_image, "sh", "-c", script))[0] != 0
    await shell(engine, busybox_image, script, security_opt=("writable-cgroups=true",))


async def test_groups_umask_and_ulimits(engine: Engine, busybox_image: str) -> None:
    script = "id -G; umask; ulimit -n; ulimit -Hn; ulimit -c; touch x; stat -c %a x"
    lines = await shell(
        engine,
        busybox_image,
        script,
        user="1000",
        working_dir="/tmp",
        group_add=("44", "extra", "root"),
        umask="027",
        ulimits=("nofile=64:128", "core=0"),
    )
    assert sorted(map(int, lines[0].split())) == [0, 44, 1000, 2000]
    assert lines[1:] == ["0027", "64", "128", "0", "640"]


async def test_exec_has_the_groups_and_the_umask(engine: Engine, busybox_image: str) -> None:
    cid = await sleeper(engine, busybox_image, group_add=("44", "extra"), umask="077")
    _, text = await inside(engine, cid, "sh", "-c", "id -G; umask", user="app")
    assert sorted(map(int, text.split()[:-1])) == [44, 1000, 2000]
    assert text.split()[-1] == "0077"
    view = await host_config(engine, cid)
    assert view["GroupAdd"] == ["44", "extra"]


async def test_an_unknown_group_fails_the_start(engine: Engine, busybox_image: str) -> None:
    box = await engine.create(ContainerSpec(busybox_image, command=("true",), group_add=("nosuch",)))
    with pytest.raises(errors.StartFailed, match="nosuch"):
        await engine.start(box.id)


async def test_oom_score(engine: Engine, busybox_image: str) -> None:
    script = "cat /proc/self/oom_score_adj"
    assert await shell(engine, busybox_image, script, oom_score_adj=500) == ["500"]
    if "CAP_SYS_RESOURCE" not in caps.bounding():
        with pytest.raises(errors.InvalidArgument, match="OOM score"):
            await engine.create(ContainerSpec(busybox_image, oom_score_adj=-500))
    else:
        assert await shell(engine, busybox_image, script, oom_score_adj=-500) == ["-500"]


async def test_sysctls(engine: Engine, busybox_image: str) -> None:
    wanted = {
        "net.ipv4.ip_unprivileged_port_start": "80",
        "kernel.shm_rmid_forced": "1",
        "fs.mqueue.msg_max": "7",
        "kernel/msgmax": "4096",
        "kernel.domainname": "inner",
    }
    files = " ".join(f"/proc/sys/{name.replace('.', '/')}" for name in wanted)
    assert await shell(engine, busybox_image, f"cat {files}", sysctls=wanted) == list(wanted.values())


REFUSED: list[dict[str, Any]] = [
    {"sysctls": {"net.ipv4.ip_forward": "1"}, "network": "host"},
    {"sysctls": {"kernel.msgmax": "1"}, "ipc": "host"},
    {"sysctls": {"fs.mqueue.msg_max": "1"}, "ipc": "host"},
    {"sysctls": {"kernel.domainname": "x"}, "uts": "host"},
    {"sysctls": {"kernel.hostname": "x"}},
    {"sysctls": {"user.max_user_namespaces": "1"}},
    {"hostname": "x", "uts": "host"},
    {"domainname": "x", "uts": "host"},
    {"shm_size": 1 << 20, "ipc": "host"},
    {"ipc": "public"},
    {"ipc": "container"},
    {"ipc": "container:"},
    {"pid": "shareable"},
    {"uts": "none"},
    {"cgroupns": "container:x"},
    {"userns": "mine"},
    {"oom_score_adj": 1001},
    {"umask": "9"},
    {"group_add": ("a b",)},
    {"group_add": ("a,b",)},
    {"group_add": ("4294967296",)},
    {"annotations": {"io.wharfinger.user": "0"}},
    {"cgroup_parent": "a/../b"},
    {"devices": (DeviceMapping("/nonexistent"),)},
    {"devices": (DeviceMapping("/etc/hostname"),)},
    {"devices": (DeviceMapping("/etc"),)},
    {"devices": (DeviceMapping("/dev/null", "/proc/null"),)},
    {"devices": (DeviceMapping("/dev/null", access="x"),)},
    {"device_cgroup_rules": ("c 1:3 x",)},
    {"device_cgroup_rules": ("a 1:3 rwm",)},
    {"device_cgroup_rules": ("c 1:3 rr",)},
    {"volumes_from": ("x:wide",)},
    {"resources": Resources(memory_swappiness=101)},
    {"resources": Resources(blkio_weight=9)},
    {"resources": Resources(cpu_rt_period=1000, cpu_rt_runtime=2000)},
    {"resources": Resources(device_read_bps=(DeviceLimit("/dev/null", 1),))},
    {"resources": Resources(device_read_bps=(DeviceLimit("/dev/nonexistent", 1),))},
    {"security_opt": ("label=colour:red",)},
    {"security_opt": ("apparmor",)},
    {"security_opt": ("no-new-privileges:true=x",)},
]


async def test_what_cannot_be_is_refused(engine: Engine, busybox_image: str) -> None:
    accepted = []
    for spec in REFUSED:
        try:
            await engine.create(ContainerSpec(busybox_image, command=("true",), **spec))
            accepted.append(spec)
        except errors.InvalidArgument:
            pass
    assert accepted == []
    assert await engine.containers() == []


async def test_the_reaper_is_under_the_commands_filter(engine: Engine, busybox_image: str) -> None:
    """With CAP_SYS_PTRACE the command could have pid 1 do what its own filter forbids."""
    spec = ContainerSpec(busybox_image, command=("sleep", "100"), init=True, security_opt=("no-new-privileges",))
    box = await engine.start((await engine.create(spec)).id)
    status = Path(f"/proc/{box.pid}/status").read_text()
    assert "wharf-init" in status
    assert "\nSeccomp:\t2" in status
    assert "\nNoNewPrivs:\t1" in status
