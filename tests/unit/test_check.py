"""config.json: every rule names the field, the value and itself; good ones pass; nonsense ends in no other error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.configs import DROP, as_runc_spec, refusal, with_value, without

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
