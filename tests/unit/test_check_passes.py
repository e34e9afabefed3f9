"""config.json: what passes, what is made of it on the way, warnings, and that nonsense ends in no other error."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import resource
from pathlib import Path
from typing import Any

import pytest

from core.errors import InvalidArgument
from core.model import ContainerSpec, ImageConfig, Mount, Resources
from core.runtime import spec as oci
from core.runtime import sysctl
from core.runtime.check import check_config, check_process_file
from tests.unit.configs import as_runc_spec, everything, refusal, with_value


@pytest.mark.parametrize("nonsense", [None, [], "x", 3, True])
def test_something_else_is_no_configuration(nonsense: object) -> None:
    assert "it is not an object" in refusal(nonsense)


def test_a_whole_configuration_passes_and_is_not_changed() -> None:
    config = everything()
    warnings: list[str] = []
    checked = check_config(config, warnings=warnings)
    assert config == everything()
    assert warnings == []
    assert checked["unknown"] == config["unknown"]
    assert checked["process"] == config["process"]


@pytest.mark.parametrize(
    ("netns", "spec"),
    [
        ("host", ContainerSpec(image="x")),
        ("/run/netns/a", ContainerSpec(image="x", privileged=True, tty=True, init=True, user="1000:1000")),
        (
            "new",
            ContainerSpec(
                image="x",
                domainname="d",
                ulimits=("nofile=64:128",),
                sysctls={"net.ipv4.ip_forward": "1"},
                resources=Resources(memory=1 << 26, nano_cpus=10**9, pids_limit=5, cpu_shares=512),
                mounts=(Mount("tmpfs", "", "/t", options=("size=1m",)), Mount("bind", "/srv", "/srv")),
            ),
        ),
    ],
)
def test_what_the_engine_writes_passes(netns: str, spec: ContainerSpec) -> None:
    config = oci.build_config(
        spec,
        ImageConfig(),
        cid="c" * 64,
        argv=["true"],
        hostname="box",
        rootfs="/r",
        cgroup_path="/wharf/c",
        etc_files={"/etc/hosts": "/host/hosts"},
        netns=netns,
    )
    warnings: list[str] = []
    checked = check_config(json.loads(json.dumps(config)), warnings=warnings)
    assert warnings == []
    assert checked["linux"] == {key: value for key, value in oci_linux(config).items() if value != ""}


def oci_linux(config: dict[str, Any]) -> dict[str, Any]:
    linux: dict[str, Any] = config["linux"]
    return linux


def test_what_runc_spec_writes_passes_without_its_ambient_set() -> None:
    warnings: list[str] = []
    checked: Any = check_config(as_runc_spec(), warnings=warnings)
    assert checked["process"]["capabilities"]["ambient"] == []
    assert warnings[0] == (
        'process.capabilities.ambient[0] is "CAP_AUDIT_WRITE": it is not both permitted and inheritable; left out'
    )


def test_the_least_configuration_passes() -> None:
    assert check_config({"ociVersion": "1.0.0", "root": {"path": "."}}) == {
        "ociVersion": "1.0.0",
        "root": {"path": "."},
        "linux": {},
    }


def test_null_and_empty_fields_are_absent() -> None:
    config = everything()
    config["hooks"] = config["linux"]["devices"] = config["linux"]["seccomp"] = None
    config["linux"]["rootfsPropagation"] = config["linux"]["mountLabel"] = config["domainname"] = ""
    checked: Any = check_config(config)
    assert not {"hooks", "domainname"} & set(checked)
    assert not {"devices", "seccomp", "rootfsPropagation", "mountLabel"} & set(checked["linux"])


def test_a_console_size_without_a_terminal_is_ignored() -> None:
    config = with_value("process.terminal", False)
    config["process"]["consoleSize"] = "nonsense"
    checked: Any = check_config(config)
    assert "consoleSize" not in checked["process"]


def test_a_user_left_out_is_root() -> None:
    config = as_runc_spec()
    del config["process"]["user"]
    checked: Any = check_config(config)
    assert checked["process"]["user"] == {"uid": 0, "gid": 0}


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("process.capabilities.bounding[2]", "CAP_FLY", "knows no such capability"),
        ("process.capabilities.bounding[2]", "kill", "knows no such capability"),
        ("process.capabilities.effective[1]", "CAP_NET_RAW", "not permitted"),
        ("process.capabilities.inheritable[1]", "CAP_NET_RAW", "not in the bounding set"),
        ("process.capabilities.ambient[1]", "CAP_KILL", "not both permitted and inheritable"),
    ],
)
def test_capabilities_that_cannot_be_given_are_left_out(path: str, value: str, words: str) -> None:
    warnings: list[str] = []
    checked: Any = check_config(with_value(path, value), warnings=warnings)
    assert len(warnings) == 1
    assert warnings[0].startswith(f'{path} is "{value}": ')
    assert words in warnings[0]
    assert checked == check_config(everything())


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("mounts[0].destination", "proc", "it is taken from /"),
        ("mounts[1].type", "bind", "it is added"),
        ("mounts[2].options[4]", "size=1m", "no option for a bind mount"),
        ("mounts[2].options", ["rbind"], "idmap is not among the options"),
        ("linux.namespaces[6].path", "/proc/1/ns/user", "has its own mappings"),
        ("linux.uidMappings[0].containerID", 1, "id 0 is not mapped"),
        ("mounts[2].options[4]", "sync", "no option for a bind mount"),
        ("linux.resources.memory.kernel", 1 << 20, "kernels ignore it"),
        ("linux.netDevices", {"eth0": {}}, "version 1.3"),
        ("linux.memoryPolicy", {"mode": "MPOL_LOCAL"}, "version 1.3"),
        ("windows", {}, "another kind of host"),
        ("vm", {"kernel": {"path": "/k"}}, "another kind of host"),
    ],
)
def test_the_odd_is_a_warning(path: str, value: object, words: str) -> None:
    config = with_value(path, value)
    if value == "bind":
        config["mounts"][1]["options"] = ["ro"]
    if words.startswith("has its own"):
        config["process"]["user"] = {"uid": 99_999, "gid": 99_999}  # only the joined namespace knows
    warnings: list[str] = []
    check_config(config, warnings=warnings)
    assert warnings
    assert words in warnings[0]


def test_paths_become_absolute(tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    config = everything()
    config["mounts"][0]["destination"] = "proc"
    config["mounts"][2]["source"] = "data"
    checked: Any = check_config(config, bundle=tmp_path)
    assert checked["root"]["path"] == str(tmp_path / "rootfs")
    assert checked["mounts"][0]["destination"] == "/proc"
    assert checked["mounts"][2]["source"] == str(tmp_path / "data")
    assert checked["mounts"][2]["type"] == "bind"


def test_the_root_is_a_folder(tmp_path: Path) -> None:
    assert 'root.path is "rootfs": there is no such folder in ' in refusal(everything(), bundle=tmp_path)
    (tmp_path / "rootfs").write_text("")
    assert 'root.path is "rootfs": it is not a folder' in refusal(everything(), bundle=tmp_path)
    long = with_value("root.path", "x" * 300)
    assert "File name too long" in refusal(long, bundle=tmp_path)
    os.remove(tmp_path / "rootfs")
    os.symlink("nowhere", tmp_path / "rootfs")
    assert "it is not a folder" in refusal(everything(), bundle=tmp_path)


def test_every_limit_has_a_number() -> None:
    names = (
        refusal(with_value("process.rlimits[0].type", "RLIMIT_TEST")).split("none of ")[1].split(". ")[0].split(", ")
    )
    assert len(names) == 16  # RLIM_NLIMITS
    assert [name for name in names if not hasattr(resource, name)] == ["RLIMIT_LOCKS"]  # finish.py knows that one


def test_a_remount_needs_no_source() -> None:
    config = everything()
    config["mounts"] += [
        {"destination": "/tmp", "options": ["bind", "remount", "ro"]},
        {"destination": "/proc", "options": ["remount", "ro"]},
    ]
    check_config(config)


def test_the_kind_of_file_is_taken_from_a_mode() -> None:
    checked: Any = check_config(with_value("linux.devices[0].fileMode", 0o020660))
    assert checked["linux"]["devices"][0]["fileMode"] == 0o660


def test_the_same_device_twice_is_no_contradiction() -> None:
    config = everything()
    config["linux"]["devices"].append(config["linux"]["devices"][0])
    check_config(config)


def test_a_process_alone() -> None:
    warnings: list[str] = []
    process: Any = check_process_file(
        {"args": ["id"], "cwd": "/", "capabilities": {"bounding": ["CAP_X"]}}, warnings=warnings
    )
    assert process["user"] == {"uid": 0, "gid": 0}
    assert len(warnings) == 1
    for bad, words in (
        ([], "process is a list of 0: it is not an object"),
        ({"args": ["id"]}, "invalid process: process.cwd is missing"),
        ({"args": [""], "cwd": "/"}, 'process.args[0] is "": no program'),
    ):
        with pytest.raises(InvalidArgument, match=re.escape(words)):
            check_process_file(bad)


@pytest.mark.parametrize(
    ("name", "path", "kind"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward", "network"),
        ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding", "network"),
        ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding", "network"),
        ("kernel/sem", "kernel/sem", "ipc"),
        ("kernel.semaphores", "kernel/semaphores", ""),
        ("kernel.domainname", "kernel/domainname", "uts"),
        ("fs.mqueue.msg_max", "fs/mqueue/msg_max", "ipc"),
        ("user.max_net_namespaces", "user/max_net_namespaces", "user"),
        ("kernel.core_pattern", "kernel/core_pattern", ""),
        ("network.x", "network/x", ""),
    ],
)
def test_kernel_parameters(name: str, path: str, kind: str) -> None:
    assert sysctl.path_of(name) == path
    assert sysctl.namespace_of(name) == kind
    assert sysctl.is_name(name)


@pytest.mark.parametrize("name", ["", "net", "net..x", "net/../x", "net. x", "/net/x", "net.x."])
def test_what_is_no_kernel_parameter(name: str) -> None:
    assert not sysctl.is_name(name)


NONSENSE: list[object] = [
    None, True, False, 0, -1, 1, 1 << 31, 1 << 32, 1 << 63, 1 << 64, 10**5000, 0.5, float("nan"), float("inf"),
    "", "x", "/", "..", "\0", "\ud800", "a=b", "x" * 5000, "0-3", "mount", "bind", "CAP_KILL", "SCMP_ACT_NOTIFY",
    [], [None], [[]], ["bind"], [{}], {}, {"": ""}, {"type": "user"}, {"path": "/"}, {"containerID": 0}, b"bytes",
]  # fmt: skip


def places(value: object) -> list[tuple[Any, Any]]:
    """Every (container, key) below ``value``."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        found.append((value, key))
        found.extend(places(item))
    return found


def test_five_thousand_mutations_end_in_nothing_but_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    dice = random.Random(20_240_902)
    passed = refused = longest = 0
    for _ in range(5_000):
        config = everything()
        for _ in range(dice.choice((1, 1, 1, 2, 5))):
            container, key = dice.choice(places(config))
            change = dice.randrange(4)
            if change == 0:
                del container[key]
            elif change == 1 and isinstance(container, list):
                container.append(copy.deepcopy(container[key]))
            elif change == 2:
                other, name = dice.choice(places(config))
                container[key] = copy.deepcopy(other[name])
            else:
                container[key] = copy.deepcopy(dice.choice(NONSENSE))
        try:
            check_config(config, bundle=tmp_path)
            passed += 1
        except InvalidArgument as error:
            longest = max(longest, len(str(error)))
            refused += 1
    assert longest < 1_500
    assert passed > 200  # it does not refuse blindly either
    assert refused > 2_000
