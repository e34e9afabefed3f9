"""config.json: every rule names the field, the value and itself; good ones pass; nonsense ends in no other error."""

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

DROP = object()  # as a value: the field goes


def mapping() -> dict[str, int]:
    return {"containerID": 0, "hostID": 100_000, "size": 65_536}


def everything() -> dict[str, Any]:
    """A good configuration with each part of the specification in it."""
    namespaces = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup", "user", "time")]
    disk = {"major": 8, "minor": 0}
    return {
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "box",
        "domainname": "example.org",
        "process": {
            "terminal": True,
            "consoleSize": {"height": 25, "width": 80},
            "user": {"uid": 1000, "gid": 1000, "umask": 0o22, "additionalGids": [5, 6]},
            "args": ["sh", ""],
            "env": ["PATH=/bin", "EMPTY="],
            "cwd": "/",
            "capabilities": {
                "bounding": ["CAP_KILL", "CAP_CHOWN"],
                "effective": ["CAP_KILL"],
                "permitted": ["CAP_KILL", "CAP_CHOWN"],
                "inheritable": ["CAP_CHOWN"],
                "ambient": ["CAP_CHOWN"],
            },
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 2048},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": (1 << 64) - 1},
            ],
            "noNewPrivileges": True,
            "apparmorProfile": "acme",
            "selinuxLabel": "system_u:system_r:container_t:s0",
            "oomScoreAdj": -500,
            "scheduler": {"policy": "SCHED_FIFO", "priority": 10, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
            "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 4},
            "execCPUAffinity": {"initial": "7", "final": "0-3, 7"},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=64k", "tmpcopyup"]},
            {
                "destination": "/data",
                "source": "/srv/data",
                "options": ["rbind", "rro", "rslave", "idmap"],
                "uidMappings": [mapping()],
                "gidMappings": [mapping()],
            },
        ],
        "hooks": {
            kind: [{"path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 5}]
            for kind in ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
        },
        "annotations": {"org.example": "", "key": "\0 as you like"},
        "linux": {
            "namespaces": namespaces,
            "uidMappings": [mapping(), {"containerID": 100_000, "hostID": 1000, "size": 1}],
            "gidMappings": [mapping()],
            "timeOffsets": {"monotonic": {"secs": 172_800, "nanosecs": 5}, "boottime": {"secs": -3}},
            "devices": [
                {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0},
                {"path": "/dev/pipe", "type": "p"},
            ],
            "cgroupsPath": "/wharf/box",
            "resources": {
                "devices": [
                    {"allow": False, "access": "rwm"},
                    {"allow": True, "type": "c", "major": 10, "access": "r"},
                ],
                "memory": {"limit": 1 << 29, "reservation": 1 << 28, "swap": 1 << 29, "swappiness": 0},
                "cpu": {
                    "shares": 1024,
                    "quota": 100_000,
                    "burst": 1000,
                    "period": 50_000,
                    "realtimeRuntime": 950_000,
                    "realtimePeriod": 1_000_000,
                    "cpus": "0-1",
                    "mems": "0",
                    "idle": 0,
                },
                "pids": {"limit": 32_771},
                "blockIO": {
                    "weight": 10,
                    "weightDevice": [{**disk, "weight": 500}],
                    "throttleReadBpsDevice": [{**disk, "rate": 600}],
                },
                "hugepageLimits": [{"pageSize": "2MB", "limit": 209_715_200}],
                "network": {"classID": 1_048_577, "priorities": [{"name": "eth0", "priority": 500}]},
                "rdma": {"mlx5_1": {"hcaHandles": 3}},
                "unified": {"memory.high": "1000000", "hugetlb.1GB.max": "0"},
            },
            "sysctl": {
                "net.ipv4.ip_forward": "1",
                "net/ipv4/conf/eth0.100/forwarding": "1",
                "kernel.shmmax": "1",
                "fs.mqueue.msg_max": "5",
                "kernel.domainname": "x",
                "user.max_user_namespaces": "3",
            },
            "seccomp": {
                "defaultAction": "SCMP_ACT_ERRNO",
                "defaultErrnoRet": 38,
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
                "flags": ["SECCOMP_FILTER_FLAG_LOG"],
                "listenerPath": "/run/agent.sock",
                "listenerMetadata": "box",
                "syscalls": [
                    {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
                    {
                        "names": ["mkdir"],
                        "action": "SCMP_ACT_NOTIFY",
                        "args": [{"index": 1, "value": (1 << 64) - 1, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
                    },
                ],
            },
            "rootfsPropagation": "slave",
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
            "mountLabel": "system_u:object_r:container_file_t:s0",
            "intelRdt": {"closID": "guaranteed", "schemata": ["L3:0=7f0"], "memBwSchema": "MB:0=20"},
            "personality": {"domain": "LINUX32"},
        },
        "unknown": {"anything": [None, {}]},
    }


# What `runc spec` writes; Debian's version gives ambient capabilities that are not inheritable.
def as_runc_spec() -> dict[str, Any]:
    names = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    return {
        "ociVersion": "1.0.2-dev",
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted", "ambient"), names),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "runc",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "ro"]},
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "maskedPaths": ["/proc/acpi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus"],
        },
    }


def keys_of(path: str) -> list[str | int]:
    """``a.b[2]["c.d"]`` → a, b, 2, c.d"""
    found = re.findall(r'([A-Za-z0-9_]+)|\[(\d+)\]|\["([^"]*)"\]', path)
    return [int(index) if index else name or quoted for name, index, quoted in found]


def with_value(path: str, value: object) -> dict[str, Any]:
    """:func:`everything` with one field changed; an index one past the end appends."""
    config = everything()
    *way, last = keys_of(path)
    place: Any = config
    for key in way:
        place = place[key]
    if value is DROP:
        del place[last]
    elif isinstance(place, list) and last == len(place):
        place.append(value)
    else:
        place[last] = value
    return config


def without(kind: str, *more: str) -> dict[str, Any]:
    """:func:`everything` without a namespace, and without the fields ``more``."""
    config = everything()
    config["linux"]["namespaces"] = [entry for entry in config["linux"]["namespaces"] if entry["type"] != kind]
    for path in more:
        *way, last = keys_of(path)
        place: Any = config
        for key in way:
            place = place[key]
        del place[last]
    return config


SHAPES: list[tuple[str, object, str]] = [  # path, a value it cannot have, part of the rule
    ("ociVersion", "2.0.0", "version 1.x.y"),
    ("ociVersion", "1.2", "version 1.x.y"),
    ("ociVersion", "invalid", "version 1.x.y"),
    ("ociVersion", 1, "not a string"),
    ("root.readonly", "yes", "neither true nor false"),
    ("root.path", "a\0b", "zero byte"),
    ("root.path", "\ud800", "surrogate"),
    ("hostname", "x" * 65, "longer than 64 bytes"),
    ("domainname", "ä" * 33, "longer than 64 bytes"),
    ("process", [], "not an object"),
    ("process.terminal", 1, "neither true nor false"),
    ("process.consoleSize.height", 65_536, "between 0 and 65535"),
    ("process.user.uid", 4_294_967_295, "between 0 and 4294967294"),
    ("process.user.uid", -1, "between 0 and 4294967294"),
    ("process.user.uid", 4_294_967_296, "between 0 and 4294967294"),
    ("process.user.uid", 1.0, "not a whole number"),
    ("process.user.uid", "0", "not a whole number"),
    ("process.user.uid", True, "not a whole number"),
    ("process.user.gid", 1 << 32, "between"),
    ("process.user.umask", 0o1000, "between 0 and 511"),
    ("process.user.additionalGids[1]", -5, "between"),
    ("process.args", "sh", "not a list"),
    ("process.args", [], "fewer than 1"),
    ("process.args[0]", "", "no program"),
    ("process.args[0]", "a\0", "zero byte"),
    ("process.args[1]", 7, "not a string"),
    ("process.env[0]", "PATH", "not NAME=VALUE"),
    ("process.env[1]", "=x", "not NAME=VALUE"),
    ("process.cwd", "tmp", "not an absolute path"),
    ("process.capabilities.bounding[0]", 3, "not a string"),
    ("process.rlimits[0].type", "RLIMIT_TEST", "none of RLIMIT_AS"),
    ("process.rlimits[0].soft", 1 << 64, "between"),
    ("process.rlimits[0].soft", 4096, "exceeds the hard one, which is 2048"),
    ("process.rlimits[1].type", "RLIMIT_NOFILE", "set twice"),
    ("process.oomScoreAdj", 1001, "between -1000 and 1000"),
    ("process.apparmorProfile", "a\nb", "more than one line"),
    ("process.selinuxLabel", "a\nb", "more than one line"),
    ("process.scheduler.policy", "SCHED_ISO", "none of SCHED_OTHER"),
    ("process.scheduler.priority", 0, "SCHED_FIFO has priorities from 1"),
    ("process.scheduler.priority", 100, "between 0 and 99"),
    ("process.scheduler.nice", 20, "between -20 and 19"),
    ("process.scheduler.flags[0]", "SCHED_FLAG_X", "none of"),
    ("process.scheduler.runtime", 5, "only SCHED_DEADLINE"),
    ("process.ioPriority.class", "IOPRIO_CLASS_NONE", "none of"),
    ("process.ioPriority.priority", 8, "between 0 and 7"),
    ("process.execCPUAffinity.initial", "3-1", "runs backwards"),
    ("process.execCPUAffinity.final", "1,,2", "not a list like"),
    ("process.execCPUAffinity.final", "٣", "not a list like"),
    ("mounts[0].options", ["ro", ""], "is empty"),
    ("mounts[1].source", 3, "not a string"),
    ("mounts[2].uidMappings[0].size", 0, "between 1"),
    ("hooks.poststop[0].path", "bin/true", "not an absolute path"),
    ("hooks.prestart[0].timeout", 0, "between 1"),
    ("hooks.createRuntime[0].env[0]", "A", "not NAME=VALUE"),
    ("annotations.key", 1, "not a string"),
    ("annotations.key", None, "not a string"),
    ("linux.namespaces[2].type", "netwrk", "none of pid, network"),
    ("linux.namespaces[2].type", "pid", "there twice"),
    ("linux.namespaces[2].path", "proc/1/ns/ipc", "not an absolute path"),
    ("linux.uidMappings[0].hostID", 1 << 32, "between"),
    ("linux.uidMappings[0].size", 0, "between 1"),
    ("linux.gidMappings[0].hostID", 4_294_967_294, "leaves the 32 bits"),
    ("linux.uidMappings[1].containerID", 5, "overlaps with linux.uidMappings[0], which ends at 65535"),
    ("linux.uidMappings[1].hostID", 100_001, "overlaps"),
    ("linux.timeOffsets.monotonic.nanosecs", 1_000_000_000, "between 0 and 999999999"),
    ("linux.devices[0].type", "x", "none of c, u, b, p"),
    ("linux.devices[0].path", "dev/fuse", "not an absolute path"),
    ("linux.devices[0].major", 4096, "between 0 and 4095"),
    ("linux.devices[0].minor", 1 << 20, "between 0 and 1048575"),
    ("linux.devices[0].fileMode", 0o200000, "between"),
    ("linux.devices[1].path", "/dev/./fuse", "another device is already there"),
    ("linux.cgroupsPath", "/a/../../b", "holds .. as a part"),
    ("linux.cgroupsPath", "..", "holds .. as a part"),
    ("linux.resources.devices[0].access", "x", "not made of r, w and m"),
    ("linux.resources.devices[0].type", "p", "none of a, b, c"),
    ("linux.resources.memory.limit", -2, "between -1"),
    ("linux.resources.memory.swappiness", 101, "between 0 and 100"),
    ("linux.resources.memory.swap", 1 << 28, "whose limit of 536870912 is larger"),
    ("linux.resources.cpu.shares", 1, "the kernel takes 2 and more"),
    ("linux.resources.cpu.quota", 999, "the kernel takes 1000 and more"),
    ("linux.resources.cpu.period", 1_000_001, "between"),
    ("linux.resources.cpu.burst", 100_001, "exceeds the quota, which is 100000"),
    ("linux.resources.cpu.realtimeRuntime", 2_000_000, "exceeds the realtimePeriod, which is 1000000"),
    ("linux.resources.cpu.idle", 2, "between 0 and 1"),
    ("linux.resources.cpu.cpus", "0-99999", "no kernel counts up to 99999"),
    ("linux.resources.cpu.mems", "all", "not a list like"),
    ("linux.resources.pids.limit", 1 << 23, "between -1"),
    ("linux.resources.blockIO.weight", 1001, "between 0 and 1000"),
    ("linux.resources.blockIO.throttleReadBpsDevice[0].rate", -1, "between"),
    ("linux.resources.hugepageLimits[0].pageSize", "2mb", "not a size like"),
    ("linux.resources.network.classID", 1 << 32, "between"),
    ("linux.resources.network.priorities[0].name", "a/b", "no name of an interface"),
    ("linux.resources.network.priorities[0].name", "x" * 16, "longer than 15 bytes"),
    ("linux.resources.rdma.mlx5_1.hcaHandles", -1, "between"),
    ('linux.sysctl["kernel.shmmax"]', "1\n2", "more than one line"),
    ("linux.seccomp.defaultAction", "SCMP_ACT_NONE", "none of SCMP_ACT_KILL"),
    ("linux.seccomp.defaultAction", "SCMP_ACT_NOTIFY", "cannot be the default"),
    ("linux.seccomp.defaultErrnoRet", 4096, "between 0 and 4095"),
    ("linux.seccomp.architectures[1]", "SCMP_ARCH_Z80", "none of"),
    ("linux.seccomp.flags[0]", "SECCOMP_FILTER_FLAG_NEW_LISTENER", "none of"),
    ("linux.seccomp.listenerPath", "agent.sock", "not an absolute path"),
    ("linux.seccomp.listenerPath", "/" + "x" * 107, "longer than 107 bytes"),
    ("linux.seccomp.syscalls[0].names", [], "fewer than 1"),
    ("linux.seccomp.syscalls[0].names[1]", "", "is empty"),
    ("linux.seccomp.syscalls[0].errnoRet", 1, "SCMP_ACT_ALLOW returns no errno"),
    ("linux.seccomp.syscalls[0].action", "SCMP_ACT_DENY", "none of"),
    ("linux.seccomp.syscalls[1].names[0]", "write", "would wait for ever"),
    ("linux.seccomp.syscalls[1].args[0].index", 6, "between 0 and 5"),
    ("linux.seccomp.syscalls[1].args[0].op", "SCMP_CMP_EQUALS", "none of"),
    ("linux.seccomp.syscalls[1].args[0].value", -1, "between"),
    ("linux.rootfsPropagation", "public", "none of private"),
    ("linux.maskedPaths[0]", "proc/kcore", "not an absolute path"),
    ("linux.readonlyPaths[0]", "proc/sys", "not an absolute path"),
    ("linux.intelRdt.closID", "..", "no name of a folder"),
    ("linux.intelRdt.closID", "a/b", "no name of a folder"),
    ("linux.intelRdt.schemata[0]", "L3:0=f\nL3:1=f", "more than one line"),
    ("linux.intelRdt.memBwSchema", "L3:0=f", "does not begin with MB:"),
    ("linux.personality.domain", "BSD", "none of LINUX, LINUX32"),
    ("linux.personality.flags", ["ADDR_NO_RANDOMIZE"], "no flags are defined"),
]

MISSING: list[tuple[str, str]] = [
    ("ociVersion", "required"),
    ("root", "required"),
    ("root.path", "required"),
    ("process.cwd", "required"),
    ("process.args", "required"),
    ("process.consoleSize.width", "required"),
    ("process.rlimits[0].hard", "required"),
    ("process.scheduler.policy", "required"),
    ("process.ioPriority.class", "required"),
    ("mounts[0].destination", "required"),
    ("mounts[0].type", "needs the type of its file system"),
    ("mounts[2].source", "a bind mount needs one"),
    ("mounts[2].gidMappings", "only both make sense"),
    ("hooks.poststart[0].path", "required"),
    ("linux.namespaces[0].type", "required"),
    ("linux.uidMappings", "a new user namespace needs mappings"),
    ("linux.gidMappings", "a new user namespace needs mappings"),
    ("linux.uidMappings[0].hostID", "required"),
    ("linux.devices[0].path", "required"),
    ("linux.devices[0].major", "a device of type c needs one"),
    ("linux.devices[0].minor", "a device of type c needs one"),
    ("linux.resources.devices[0].allow", "required"),
    ("linux.resources.devices[0].access", "required"),
    ("linux.resources.blockIO.weightDevice[0].weight", "weight or leafWeight"),
    ("linux.resources.blockIO.throttleReadBpsDevice[0].rate", "required"),
    ("linux.resources.hugepageLimits[0].limit", "required"),
    ("linux.resources.network.priorities[0].name", "required"),
    ("linux.resources.rdma.mlx5_1.hcaHandles", "hcaHandles or hcaObjects"),
    ("linux.seccomp.defaultAction", "required"),
    ("linux.seccomp.syscalls[0].names", "required"),
    ("linux.seccomp.syscalls[1].args[0].op", "required"),
    ("linux.seccomp.listenerPath", "nobody would answer for linux.seccomp.syscalls[1]"),
    ("linux.personality.domain", "required"),
]

BETWEEN: list[tuple[dict[str, Any], str, str, str]] = [  # configuration, path, shown, part of the rule
    (without("uts"), "hostname", '"box"', "needs a uts namespace"),
    (without("uts", "hostname"), "domainname", '"example.org"', "needs a uts namespace"),
    (without("user"), "linux.uidMappings", "a list of 2", "needs a user namespace"),
    (without("time"), "linux.timeOffsets", "an object with 2 fields", "needs a time namespace"),
    (without("mount"), "linux.maskedPaths", "a list of 1", "needs a mount namespace"),
    (without("network"), 'linux.sysctl["net.ipv4.ip_forward"]', '"1"', "needs a network namespace"),
    (without("ipc"), 'linux.sysctl["kernel.shmmax"]', '"1"', "needs a ipc namespace"),
    (
        with_value("linux.namespaces[1].path", "/proc/self/ns/net"),
        'linux.sysctl["net.ipv4.ip_forward"]',
        '"1"',
        "/proc/self/ns/net is the host's network",
    ),
    (
        with_value("linux.namespaces[7].path", "/proc/1/ns/time"),
        "linux.timeOffsets",
        "an object with 2 fields",
        "only a new time namespace",
    ),
    (with_value('linux.sysctl["vm.swappiness"]', "1"), 'linux.sysctl["vm.swappiness"]', '"1"', "whole host"),
    (with_value('linux.sysctl["kernel.hostname"]', "a"), 'linux.sysctl["kernel.hostname"]', '"a"', "field hostname"),
    (with_value('linux.sysctl["net/../vm/x"]', "1"), 'linux.sysctl["net/../vm/x"]', '"1"', "no name of a kernel"),
    (with_value("linux.sysctl.net", "1"), "linux.sysctl.net", '"1"', "no name of a kernel"),
    (with_value('annotations[""]', "x"), 'annotations[""]', '"x"', "its name is empty"),
    (
        with_value("linux.timeOffsets.realtime", {}),
        "linux.timeOffsets.realtime",
        "an object with 0 fields",
        "its name is none of monotonic, boottime",
    ),
    (
        with_value('linux.resources.unified["../memory.max"]', "1"),
        'linux.resources.unified["../memory.max"]',
        '"1"',
        "its name is no file of a cgroup",
    ),
    (with_value("process.user.uid", 70_000), "process.user.uid", "70000", "linux.uidMappings has no range with it"),
    (
        with_value("process.user.additionalGids", [5, 65_536]),
        "process.user.additionalGids[1]",
        "65536",
        "linux.gidMappings has no range with it",
    ),
    (
        with_value("process.user.additionalGids", [5] * 65_537),
        "process.user.additionalGids",
        "a list of 65537",
        "at most 65536 groups",
    ),
    (
        with_value("linux.gidMappings", [{"containerID": n, "hostID": n, "size": 1} for n in range(341)]),
        "linux.gidMappings",
        "a list of 341",
        "at most 340 ranges",
    ),
    (
        with_value("process.scheduler", {"policy": "SCHED_OTHER", "priority": 3}),
        "process.scheduler.priority",
        "3",
        "SCHED_OTHER knows no priority",
    ),
    (
        with_value("process.scheduler", {"policy": "SCHED_DEADLINE", "runtime": 1000, "deadline": 9}),
        "process.scheduler.runtime",
        "1000",
        "at least 1024",
    ),
    (
        with_value(
            "process.scheduler", {"policy": "SCHED_DEADLINE", "runtime": 5000, "deadline": 9000, "period": 8000}
        ),
        "process.scheduler.deadline",
        "9000",
        "runtime <= deadline <= period",
    ),
    (
        with_value("linux.seccomp.defaultAction", "SCMP_ACT_ALLOW"),
        "linux.seccomp.defaultErrnoRet",
        "38",
        "SCMP_ACT_ALLOW returns no errno",
    ),
    (
        with_value("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}),
        "linux.seccomp.listenerMetadata",
        '"x"',
        "there is no listenerPath",
    ),
    (
        with_value("mounts[1].options", ["ridmap"]),
        "mounts[1].options",
        "a list of 1",
        "only bind mounts can have their ids mapped",
    ),
    (
        {**as_runc_spec(), "mounts": [{"destination": "/d", "source": "/s", "options": ["bind", "idmap"]}]},
        "mounts[0].options[1]",
        '"idmap"',
        "neither mappings nor a user namespace",
    ),
    (with_value("linux.resources.memory.limit", -1), "linux.resources.memory.swap", "536870912", "has no limit"),
    ({"ociVersion": "1.2.0", "root": {"path": "c"}, "windows": {}}, "windows", "an object with 0 fields", "is Linux"),
]


def refusal(config: object, **how: Any) -> str:
    with pytest.raises(InvalidArgument) as caught:
        check_config(config, **how)
    assert caught.value.fix
    return str(caught.value)


@pytest.mark.parametrize(("path", "value", "rule"), SHAPES, ids=[f"{path}={value!r:.20}" for path, value, _ in SHAPES])
def test_a_bad_value_is_named_with_its_rule(path: str, value: object, rule: str) -> None:
    message = refusal(with_value(path, value))
    shown = f"a list of {len(value)}" if isinstance(value, list) else json.dumps(value)
    first = message.split("; there ")[0]
    place = "mounts[0].options[1]" if value == ["ro", ""] else path
    shown = '""' if value == ["ro", ""] else shown
    # A value of 107 bytes is cut in the message.
    if value in ("", None) and not path.startswith(("annotations", "process.args", "linux.seccomp.syscalls")):
        assert f"{place} is missing" in first
    else:
        assert f"{place} is {shown[:80]}" in first
    assert rule in first


@pytest.mark.parametrize(("path", "rule"), MISSING)
def test_a_missing_field_is_named_with_its_rule(path: str, rule: str) -> None:
    for absent in (DROP, None):  # tools in Go write null where they have nothing
        message = refusal(with_value(path, absent))
        assert f"{path} is missing: " in message
        assert rule in message


@pytest.mark.parametrize(("config", "path", "shown", "rule"), BETWEEN, ids=[f"{b[1]} {b[3][:20]}" for b in BETWEEN])
def test_rules_between_fields(config: dict[str, Any], path: str, shown: str, rule: str) -> None:
    message = refusal(config).split("; there ")[0]
    assert f"{path} is {shown}: " in message
    assert rule in message


def test_the_message_reads_as_a_sentence() -> None:
    assert refusal(with_value("process.cwd", "tmp")) == (
        'invalid config.json: process.cwd is "tmp": it is not an absolute path. Write another'
    )


def test_further_problems_are_counted_and_placed() -> None:
    config = with_value("process.cwd", "tmp")
    config["hostname"] = 5
    assert refusal(config).endswith("; there is one more problem: hostname. Write another")
    config["linux"]["namespaces"] = [{}] * 7
    assert "; there are 8 more problems: hostname, linux.namespaces[0].type" in refusal(config)


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
