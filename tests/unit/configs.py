"""Configurations for tests of what checks them: one with every field, and ways to change it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from core.errors import InvalidArgument
from core.runtime.check import check_config

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


def refusal(config: object, **how: Any) -> str:
    with pytest.raises(InvalidArgument) as caught:
        check_config(config, **how)
    assert caught.value.fix
    return str(caught.value)
