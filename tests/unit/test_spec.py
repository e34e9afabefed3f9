"""The OCI configuration, and users as the image's files name them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from core.errors import InvalidArgument
from core.model import ContainerSpec, ExecSpec, ImageConfig, Mount, Resources
from core.runtime import spec as oci
from core.runtime.user import User, check_user, lookup


def config(spec: ContainerSpec | None = None, image: ImageConfig | None = None, netns: str = "new") -> dict[str, Any]:
    return oci.build_config(
        spec or ContainerSpec(image="x"),
        image or ImageConfig(),
        cid="c" * 64,
        argv=["true"],
        hostname="box",
        rootfs="rootfs",
        cgroup_path="/wharf/c",
        etc_files={"/etc/hosts": "/host/hosts"},
        netns=netns,
        volumes={"data": "/volumes/data"},
    )


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\njoe:x:1000:1001::/home/joe:/bin/sh\nbad:x:zero\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nstaff:x:50:joe\nvideo:x:44:ann,joe\nwheel:x:10:root\n")
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", User(0, 0, (0, 10), "/root")),
        ("joe", User(1000, 1001, (44, 50, 1001), "/home/joe")),
        ("1000", User(1000, 1001, (44, 50, 1001), "/home/joe")),
        ("4711", User(4711, 0, (0,), "/")),
        ("joe:staff", User(1000, 50, (), "/home/joe")),
        ("joe:7", User(1000, 7, (), "/home/joe")),
    ],
)
def test_users_are_found(root: int, text: str, expected: User) -> None:
    assert lookup(root, text) == expected


@pytest.mark.parametrize("text", ["nobody", "joe:nogroup"])
def test_unknown_names_are_refused(root: int, text: str) -> None:
    with pytest.raises(InvalidArgument):
        lookup(root, text)


@pytest.mark.parametrize("text", ["4294967296", "-1", "2147483648", "0x0", "1000:", ":0", "a:b:c", "1 2", "0\n"])
def test_what_could_become_root_by_accident_is_refused(text: str) -> None:
    """CVE-2024-40635, CVE-2026-30892: never uid 0 by overflow or by a parse error."""
    with pytest.raises(InvalidArgument):
        check_user(text)


def test_a_fifo_as_passwd_neither_blocks_nor_names_anyone(tmp_path: Path) -> None:
    """CVE-2024-9676"""
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/passwd")
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    assert lookup(fd, "5") == User(5, 0, (0,), "/")
    os.close(fd)


def test_capabilities_are_neither_inheritable_nor_ambient() -> None:
    """CVE-2022-24769"""
    sets = config()["process"]["capabilities"]
    assert set(sets) == {"bounding", "effective", "permitted"}
    assert "CAP_SYS_ADMIN" not in sets["bounding"]
    assert "CAP_CHOWN" in sets["bounding"]


def test_capabilities_can_be_dropped_and_added() -> None:
    sets = config(ContainerSpec(image="x", cap_drop=("ALL",), cap_add=("net_admin",)))["process"]["capabilities"]
    assert sets["bounding"] == ["CAP_NET_ADMIN"]
    with pytest.raises(InvalidArgument):
        config(ContainerSpec(image="x", cap_add=("NONSENSE",)))


@pytest.mark.parametrize("target", ["/proc", "/proc/self", "/sys", "/dev", "relative", "/"])
def test_mounts_where_init_writes_are_refused(target: str) -> None:
    """CVE-2019-16884, CVE-2023-27561"""
    with pytest.raises(InvalidArgument):
        config(ContainerSpec(image="x", mounts=(Mount("tmpfs", "", target),)))


def test_mounts_are_stacked_outermost_first() -> None:
    mounts = (Mount("tmpfs", "", "/a/b"), Mount("volume", "data", "/a", read_only=True))
    found = {m["destination"]: m for m in config(ContainerSpec(image="x", mounts=mounts))["mounts"]}
    order = list(found)
    assert order.index("/a") < order.index("/a/b")
    assert found["/a"]["source"] == "/volumes/data"
    assert "ro" in found["/a"]["options"]


@pytest.mark.parametrize("name", ["kernel.core_pattern", "vm.swappiness", "net.ipv4/../../kernel.x"])
def test_sysctls_of_the_host_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        config(ContainerSpec(image="x", sysctls={name: "1"}))


def test_a_hosts_network_takes_no_sysctls() -> None:
    with pytest.raises(InvalidArgument):
        config(ContainerSpec(image="x", sysctls={"net.ipv4.ip_forward": "1"}), netns="host")


@pytest.mark.parametrize("text", ["nofile", "nofile=a", "nofile=2:1", "nosuch=1:1"])
def test_bad_ulimits_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        config(ContainerSpec(image="x", ulimits=(text,)))


def test_resources_in_the_kernels_units() -> None:
    linux = config(ContainerSpec(image="x", resources=Resources(memory=64 << 20, nano_cpus=500_000_000)))["linux"]
    assert linux["resources"]["memory"] == {"limit": 64 << 20, "swap": 128 << 20}
    assert linux["resources"]["cpu"] == {"period": 100_000, "quota": 50_000}


def test_environment_later_words_win() -> None:
    spec = ContainerSpec(image="x", env=("A=2", "B="))
    env = config(spec, ImageConfig(env=("A=1", "PATH=/image")))["process"]["env"]
    assert env == ["PATH=/image", "HOSTNAME=box", "A=2", "B="]


def test_a_command_inside_takes_what_it_does_not_say_from_the_container() -> None:
    own = config(ContainerSpec(image="x", user="joe", working_dir="/srv", env=("A=1",)))
    inside = oci.exec_process(ExecSpec(("id",), env=("B=2",)), own)
    assert inside["cwd"] == "/srv"
    assert cast("list[str]", inside["env"])[-2:] == ["A=1", "B=2"]
    assert cast("dict[str, str]", inside["annotations"])["io.wharfinger.user"] == "joe"


def test_bundle_holds_a_filter_unless_unconfined(tmp_path: Path) -> None:
    path = oci.write_bundle(tmp_path, config())
    assert os.stat(path).st_size % 8 == 0
    assert oci.write_bundle(tmp_path, config(ContainerSpec(image="x", security_opt=("seccomp=unconfined",)))) == ""
    assert not os.path.exists(path)
