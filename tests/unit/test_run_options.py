"""The options about namespaces, devices, rights and disks: from words to a specification, and on to ``config.json``."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.cli.run import read_options
from core.errors import InvalidArgument, Unsupported
from core.model import ContainerSpec, DeviceLimit, DeviceMapping, ImageConfig, Mount, Resources
from core.ops.inspect_host import host_config
from core.options import parse_device, parse_device_limit
from core.runtime import labels, limits, security
from core.runtime import spec as oci
from core.runtime.mounts import merged
from core.store.codec import from_plain, to_plain
from tests.unit.test_cli_parse import spec
from tui.equivalent import docker_run

WORDS = """--ipc shareable --pid host --uts container:u --cgroupns host --userns host --cgroup-parent /a/b/
    --oom-score-adj 5 --umask 027 --group-add 44 --group-add video --annotation k=v=w --device /dev/null:/dev/n:r
    --device /dev/zero --device-cgroup-rule c\\ 1:*\\ rwm --volumes-from x:ro --memory-swappiness 0 --blkio-weight 500
    --blkio-weight-device /dev/sda:20 --device-read-bps /dev/sda:1mb --device-write-bps /dev/sda:2k
    --device-read-iops /dev/sda:3 --device-write-iops /dev/sda:4 --cpu-rt-period 1000 --cpu-rt-runtime 500
    --isolation default --kernel-memory 1g --oom-kill-disable --runtime r --security-opt label=type:t"""
SPEC = ContainerSpec(
    image="x",
    ipc="shareable",
    pid="host",
    uts="container:u",
    cgroupns="host",
    userns="host",
    runtime="r",
    cgroup_parent="a/b",
    oom_score_adj=5,
    umask="027",
    group_add=("44", "video"),
    annotations={"k": "v=w"},
    devices=(DeviceMapping("/dev/null", "/dev/n", "r"), DeviceMapping("/dev/zero")),
    device_cgroup_rules=("c 1:* rwm",),
    volumes_from=("x:ro",),
    security_opt=("label=type:t",),
    resources=Resources(
        memory_swappiness=0,
        oom_kill_disable=True,
        blkio_weight=500,
        blkio_weight_device=(DeviceLimit("/dev/sda", 20),),
        device_read_bps=(DeviceLimit("/dev/sda", 1 << 20),),
        device_write_bps=(DeviceLimit("/dev/sda", 2048),),
        device_read_iops=(DeviceLimit("/dev/sda", 3),),
        device_write_iops=(DeviceLimit("/dev/sda", 4),),
        cpu_rt_period=1000,
        cpu_rt_runtime=500,
    ),
)


def words_of(text: str) -> list[str]:
    return [word.replace("\0", " ") for word in text.replace("\\ ", "\0").split()]


def config(asked: ContainerSpec, **fields: Any) -> dict[str, Any]:
    return oci.build_config(
        asked,
        fields.pop("image", ImageConfig()),
        cid="c" * 64,
        argv=["true"],
        hostname="box",
        rootfs="rootfs",
        cgroup_path="/wharf/c",
        etc_files={"/etc/hosts": "/host/hosts"},
        netns=fields.pop("netns", "new"),
        joined=fields.pop("joined", {}),
        volumes={},
    )


def test_every_option_reaches_the_specification() -> None:
    assert spec(*words_of(WORDS), "x") == SPEC


def test_the_specification_survives_its_row() -> None:
    assert from_plain(ContainerSpec, to_plain(SPEC)) == SPEC


def test_the_equivalent_command_says_the_same() -> None:
    """Read by our own command line, it gives what it was made from; docker has no --umask."""
    import shlex

    words = shlex.split(docker_run(SPEC))
    assert words[:3] == ["docker", "run", "-d"]
    assert spec(*words[3:]) == replace(SPEC, umask="")


def test_the_equivalent_command_makes_no_folder_that_had_to_be_there() -> None:
    import shlex

    words = "-v /a:/b:ro --mount type=bind,source=/c,target=/d,readonly,bind-propagation=rslave,idmap x".split()
    made = spec(*words)
    assert shlex.split(docker_run(made)) == ["docker", "run", "-d", *words]
    assert spec(*shlex.split(docker_run(made))[3:]) == made


def test_empty_modes_are_the_default() -> None:
    assert spec("--ipc", "", "--pid", "", "--uts", "", "--cgroupns", "", "x") == ContainerSpec("x")


@pytest.mark.parametrize(
    "words",
    [
        "--gpus all",
        "--isolation hyperv",
        "--device dev/null",
        "--device /dev/a:/dev/b:/dev/c",
        "--device-read-bps /dev/sda",
        "--device-read-iops /dev/sda:1m",
        "--blkio-weight-device sda:5",
        "--annotation x",
        "--kernel-memory lots",
        "--oom-score-adj high",
    ],
)
def test_words_that_are_none(words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        spec(*words.split(), "x")
    assert caught.value.what


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/dev/a", DeviceMapping("/dev/a")),
        ("/dev/a:/dev/b", DeviceMapping("/dev/a", "/dev/b")),
        ("/dev/a:rw", DeviceMapping("/dev/a", "", "rw")),
        ("/dev/a:/dev/b:m", DeviceMapping("/dev/a", "/dev/b", "m")),
    ],
)
def test_devices(text: str, expected: DeviceMapping) -> None:
    assert parse_device(text) == expected


def test_a_limit_of_a_device_with_a_colon_in_its_name() -> None:
    assert parse_device_limit("/dev/disk/by-path/pci-0:1:5") == DeviceLimit("/dev/disk/by-path/pci-0:1", 5)


def test_options_of_a_form() -> None:
    assert read_options(words_of(WORDS)) == replace(SPEC, image="")
    for line in ("x", "--init x", "--bogus", "--help", "--cidfile /x", "--pull never", "-- x"):
        with pytest.raises(InvalidArgument):
            read_options(line.split())


# -- config.json
def kinds(made: dict[str, Any]) -> dict[str, str]:
    return {entry["type"]: entry.get("path", "") for entry in made["linux"]["namespaces"]}


def test_namespaces() -> None:
    assert set(kinds(config(ContainerSpec("x")))) == {"mount", "pid", "uts", "ipc", "cgroup", "network"}
    shared = ContainerSpec("x", ipc="host", pid="host", uts="host", cgroupns="host")
    made = config(shared, netns="host")
    assert kinds(made) == {"mount": ""}
    assert "hostname" not in made
    shared = ContainerSpec("x", ipc="container:a", pid="container:b", uts="container:c")
    joined = {"ipc": "/proc/7/ns/ipc", "pid": "/proc/8/ns/pid", "uts": "/proc/9/ns/uts"}
    made = config(shared, joined=joined)
    assert kinds(made) == {"mount": "", "cgroup": "", "network": "", **joined}
    assert "hostname" not in made


def test_shared_memory_goes_with_ipc() -> None:
    def shm(ipc: str) -> list[dict[str, Any]]:
        made = config(ContainerSpec("x", ipc=ipc), joined={"ipc": "/proc/7/ns/ipc"})
        return [mount for mount in made["mounts"] if mount["destination"] == "/dev/shm"]

    assert shm("private")[0]["type"] == shm("shareable")[0]["type"] == "tmpfs"
    assert shm("none") == []
    assert shm("host")[0]["source"] == "/dev/shm"
    assert shm("container:a")[0]["source"] == "/proc/7/root/dev/shm"
    own = Mount("tmpfs", "", "/dev/shm", options=("size=1m",))
    made = config(ContainerSpec("x", ipc="host", mounts=(own,)))
    assert [mount["type"] for mount in made["mounts"] if mount["destination"] == "/dev/shm"] == ["tmpfs"]


def test_user_words_and_numbers() -> None:
    made = config(ContainerSpec("x", user="7:8", group_add=("44", "video", "005"), umask="27"))
    assert made["process"]["user"] == {"uid": 7, "gid": 8, "umask": 0o27, "additionalGids": [44, 5]}
    assert made["annotations"]["io.wharfinger.groups"] == "video"
    inside = oci.exec_process(oci.ExecSpec(("id",), user="9"), made)
    assert inside["user"] == {"uid": 9, "gid": 0, "umask": 0o27, "additionalGids": [44, 5]}
    assert inside["annotations"] == {"io.wharfinger.user": "9", "io.wharfinger.groups": "video"}


def test_devices_and_their_rules() -> None:
    made = config(ContainerSpec("x", devices=(DeviceMapping("/dev/null", "/dev/n", "r"),)))["linux"]
    (node,) = made["devices"]
    assert (node["path"], node["type"], node["major"], node["minor"]) == ("/dev/n", "c", 1, 3)
    assert made["resources"]["devices"][-1] == {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"}
    rule = config(ContainerSpec("x", device_cgroup_rules=("b 8:* rw",)))["linux"]["resources"]["devices"][-1]
    assert rule == {"allow": True, "type": "b", "major": 8, "access": "rw"}


def test_privileged_devices_are_not_made_twice() -> None:
    made = config(ContainerSpec("x", privileged=True, devices=(DeviceMapping("/dev/loop-control"),)))["linux"]
    paths = [node["path"] for node in made["devices"]]
    assert paths.count("/dev/loop-control") == 1
    assert made["resources"]["devices"] == [{"allow": True, "access": "rwm"}]


def test_read_only_goes_for_the_files_about_names_too() -> None:
    (hosts,) = [m for m in config(ContainerSpec("x", read_only=True))["mounts"] if m["destination"] == "/etc/hosts"]
    assert "ro" in hosts["options"]


def test_later_options_of_a_mount_win() -> None:
    assert merged(["nosuid", "noexec", "exec", "size=1m", "rw", "size=2m", "ro"]) == ["nosuid", "size=2m", "ro"]
    assert merged(["ro", "rw"]) == []


def test_a_volumes_own_options_do_not_make_it_propagate(tmp_path: Path) -> None:
    mounts = (Mount("bind", str(tmp_path), "/a", options=("nosuid",)), Mount("bind", "/", "/b", options=("rslave",)))
    made = {mount["destination"]: mount["options"] for mount in config(ContainerSpec("x", mounts=mounts))["mounts"]}
    assert made["/a"] == ["rbind", "rprivate", "nosuid"]
    assert made["/b"] == ["rbind", "rslave"]


def test_block_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = tmp_path / "disk"
    if os.geteuid() != 0:
        pytest.skip("making a device node needs root")
    os.mknod(node, 0o60600, os.makedev(8, 16))
    found = limits.cgroup_limits(
        Resources(
            blkio_weight=100,
            blkio_weight_device=(DeviceLimit(str(node), 20),),
            device_write_iops=(DeviceLimit(str(node), 5),),
            memory_swappiness=0,
            cpu_rt_runtime=5,
        )
    )
    assert found == {
        "memory": {"swappiness": 0},
        "cpu": {"realtimeRuntime": 5},
        "blockIO": {
            "weight": 100,
            "weightDevice": [{"major": 8, "minor": 16, "weight": 20}],
            "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 5}],
        },
    }


def test_ulimits_without_bounds() -> None:
    assert limits.parse_ulimits(("core=-1", "NOFILE=5:-1")) == [("core", -1, -1), ("nofile", 5, -1)]
    assert limits.rlimits(("core=0",)) == [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]


# -- security options
def test_both_separators() -> None:
    for text in ("seccomp=/a=b:c", "seccomp:/a=b:c"):
        assert security.parse(ContainerSpec("x", security_opt=(text,))).seccomp == "/a=b:c"
    found = security.parse(ContainerSpec("x", security_opt=("no-new-privileges", "systempaths:unconfined")))
    assert (found.no_new_privileges, found.open_paths, found.writable_cgroups) == (True, True, False)


@pytest.fixture
def selinux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files by which a host with SELinux is known. The kernel's part is not in question here."""
    (tmp_path / "enforce").write_text("1")
    (tmp_path / "config").write_text("SELINUX=enforcing\nSELINUXTYPE=mine\n")
    contexts = tmp_path / "mine/contexts/lxc_contexts"
    contexts.parent.mkdir(parents=True)
    contexts.write_text(
        'process = "system_u:system_r:container_t:s0"\nfile = "system_u:object_r:container_file_t:s0"\n'
    )
    monkeypatch.setattr(labels, "_ENFORCE", tmp_path / "enforce")
    monkeypatch.setattr(labels, "_CONFIG", tmp_path / "config")
    return contexts


def test_labels(selinux: Path) -> None:
    asked = ContainerSpec("x", security_opt=("label=type:my_t", "label:level:s0:c1,c2", "label=user:u"))
    made = config(asked)
    assert made["process"]["selinuxLabel"] == "u:system_r:my_t:s0:c1,c2"
    assert made["linux"]["mountLabel"] == "system_u:object_r:container_file_t:s0:c1,c2"
    assert labels.container_labels(["filetype:my_file_t"])[1] == "system_u:object_r:my_file_t:s0"
    assert labels.container_labels(["type:x", "disable"]) == ("", "")
    assert labels.container_labels([]) == ("", "")
    selinux.unlink()
    with pytest.raises(Unsupported, match="SELinux"):
        labels.container_labels(["type:x"])


def test_apparmor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "_APPARMOR", tmp_path / "enabled")
    monkeypatch.setattr(security, "_PROFILES", tmp_path / "profiles")
    with pytest.raises(Unsupported, match="AppArmor"):
        config(ContainerSpec("x", security_opt=("apparmor=mine",)))
    (tmp_path / "enabled").write_text("Y\n")
    (tmp_path / "profiles").write_text("docker-default (enforce)\nmine (complain)\n")
    assert config(ContainerSpec("x", security_opt=("apparmor=mine",)))["process"]["apparmorProfile"] == "mine"
    assert config(ContainerSpec("x", privileged=True))["process"]["apparmorProfile"] == "unconfined"
    assert "apparmorProfile" not in config(ContainerSpec("x"))["process"]
    with pytest.raises(InvalidArgument, match="mine2"):
        config(ContainerSpec("x", security_opt=("apparmor=mine2",)))


# -- inspect
def test_host_config() -> None:
    from core.model import Container, State

    made = host_config(Container("c" * 64, "n", SPEC, "sha256:x", State.CREATED, 0.0))
    expected = {
        "IpcMode": "shareable",
        "PidMode": "host",
        "UTSMode": "container:u",
        "CgroupnsMode": "host",
        "UsernsMode": "host",
        "CgroupParent": "a/b",
        "OomScoreAdj": 5,
        "GroupAdd": ["44", "video"],
        "Annotations": {"k": "v=w"},
        "VolumesFrom": ["x:ro"],
        "DeviceCgroupRules": ["c 1:* rwm"],
        "BlkioWeight": 500,
        "BlkioWeightDevice": [{"Path": "/dev/sda", "Weight": 20}],
        "BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 1 << 20}],
        "BlkioDeviceWriteIOps": [{"Path": "/dev/sda", "Rate": 4}],
        "CpuRealtimePeriod": 1000,
        "MemorySwappiness": 0,
        "Runtime": "r",
        "Isolation": "default",
    }
    assert {key: made[key] for key in expected} == expected
    assert made["Devices"][0] == {  # type: ignore[index]
        "PathOnHost": "/dev/null",
        "PathInContainer": "/dev/n",
        "CgroupPermissions": "r",
    }
    plain = host_config(
        Container(
            "c" * 64,
            "n",
            ContainerSpec(
                "x", ulimits=("nofile=1:2",), mounts=(Mount("bind", "/a", "/b", True), Mount("tmpfs", "", "/t"))
            ),
            "sha256:x",
            State.CREATED,
            0.0,
        )
    )
    assert (plain["IpcMode"], plain["PidMode"], plain["UTSMode"]) == ("private", "", "")
    assert plain["Ulimits"] == [{"Name": "nofile", "Soft": 1, "Hard": 2}]
    assert (plain["Binds"], plain["Tmpfs"]) == (["/a:/b:ro"], {"/t": ""})
