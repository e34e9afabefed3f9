"""What ``config.json`` may hold: the OCI runtime specification 1.2 for Linux (config.md and config-linux.md), field by
field. Rules between fields are in :mod:`core.runtime.check`.

Where the specification leaves a range open, it is the kernel's: what is refused here is refused there too, but with a
number instead of words. Other platforms' parts and unknown fields are not described, so they are ignored
(config.md, "Extensibility").
"""

from __future__ import annotations

from core.runtime.schema import Fields, Flag, List, Map, Text, Whole

LAST_ID = (1 << 32) - 2  # 2^32-1 is -1, which setresuid(2) takes as "leave it": root would stay root (CVE-2024-40635)
NAMESPACES = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")
_CPU_LIMIT = 8192  # NR_CPUS of the largest kernel configuration
_TASKS_MOST = 1 << 22  # PID_MAX_LIMIT
_INT64, _UINT64 = (1 << 63) - 1, (1 << 64) - 1

_flag, _text = Flag(), Text()
_absolute = Text(r"/.*", "is not an absolute path")
_uint64, _uint32, _uint16 = Whole(0, _UINT64), Whole(0, (1 << 32) - 1), Whole(0, 65535)
_id = Whole(0, LAST_ID)
_bytes = Whole(-1, _INT64)  # -1: no limit


def _choice(prefix: str, names: str) -> Text:
    return Text(choices=tuple(prefix + name for name in names.split()))


def _members(text: str) -> str:
    """The rule that a list of CPUs or memory nodes breaks (cpuset(7), "List format"); "" for none."""
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        ends = (first, last) if dash else (first,)
        if not all(end.isascii() and end.isdecimal() and len(end) < 6 for end in ends):
            return "it is not a list like 0-3,7"
        if int(ends[0]) > int(ends[-1]):
            return f"the range {part.strip()} runs backwards"
        if int(ends[-1]) >= _CPU_LIMIT:
            return f"no kernel counts up to {ends[-1]}"
    return ""


_set = Text(check=_members)
_variable = Text(r"[^=]+=.*", "is not NAME=VALUE")
_version = Text(
    r"1\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?",
    "is not a version 1.x.y of the specification (semver.org)",
)
_line = Text(r"[^\n]*", "has more than one line")

_mapping = Fields({"containerID": _id, "hostID": _id, "size": Whole(1, (1 << 32) - 1)}, {})
_mappings = List(_mapping)

# -- process
_capability = List(_text)  # unknown names are a warning
_rlimit_type = _choice(
    "RLIMIT_",
    "AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME SIGPENDING STACK",
)
_scheduler = Fields(
    {"policy": _choice("SCHED_", "OTHER FIFO RR BATCH IDLE DEADLINE")},  # SCHED_ISO never came into the kernel
    {
        "nice": Whole(-20, 19),
        "priority": Whole(0, 99),
        "flags": List(
            _choice(
                "SCHED_FLAG_",
                "RESET_ON_FORK RECLAIM DL_OVERRUN KEEP_POLICY KEEP_PARAMS UTIL_CLAMP_MIN UTIL_CLAMP_MAX",
            )
        ),
        "runtime": _uint64,
        "deadline": _uint64,
        "period": _uint64,
    },
)
PROCESS = Fields(
    {"cwd": _absolute, "args": List(_text, least=1)},
    {
        "terminal": _flag,
        # The kernel's winsize has 16 bits.
        "consoleSize": Fields({"height": _uint16, "width": _uint16}, {}),
        "env": List(_variable),
        "user": Fields({}, {"uid": _id, "gid": _id, "umask": Whole(0, 0o777), "additionalGids": List(_id)}),
        "capabilities": Fields(
            {}, dict.fromkeys(("bounding", "effective", "inheritable", "permitted", "ambient"), _capability)
        ),
        "rlimits": List(Fields({"type": _rlimit_type, "soft": _uint64, "hard": _uint64}, {})),
        "noNewPrivileges": _flag,
        "apparmorProfile": _line,
        "selinuxLabel": _line,
        "oomScoreAdj": Whole(-1000, 1000),
        "scheduler": _scheduler,
        "ioPriority": Fields({"class": _choice("IOPRIO_CLASS_", "RT BE IDLE")}, {"priority": Whole(0, 7)}),
        "execCPUAffinity": Fields({}, {"initial": _set, "final": _set}),
    },
)

# -- linux.resources
_major, _minor = Whole(0, (1 << 12) - 1), Whole(0, (1 << 20) - 1)  # linux/kdev_t.h
_disk = {"major": _major, "minor": _minor}
_weight = Whole(0, 1000)  # blkio: 10 to 1000, io.bfq: 1 to 1000; 0 leaves it
_rates = List(Fields({**_disk, "rate": _uint64}, {}))
RESOURCES = Fields(
    {},
    {
        "devices": List(
            Fields(
                # Without `access` a rule would allow nothing, or everything: runc refuses it too.
                {"allow": _flag, "access": Text(r"[rwm]{1,3}", "is not made of r, w and m")},
                # -1 is "any", as in runc and containerd.
                {"type": _choice("", "a b c"), "major": Whole(-1, _major.high), "minor": Whole(-1, _minor.high)},
            )
        ),
        "memory": Fields(
            {},
            {
                "limit": _bytes,
                "reservation": _bytes,
                "swap": _bytes,
                "kernel": _bytes,
                "kernelTCP": _bytes,
                "swappiness": Whole(0, 100),
                "disableOOMKiller": _flag,
                "useHierarchy": _flag,
                "checkBeforeUpdate": _flag,
            },
        ),
        "cpu": Fields(
            {},
            {
                "shares": Whole(0, 262_144),
                "quota": Whole(-1, _INT64),
                "burst": _uint64,
                "period": Whole(0, 1_000_000),
                "realtimeRuntime": Whole(-1, _INT64),
                "realtimePeriod": _uint64,
                "cpus": _set,
                "mems": _set,
                "idle": Whole(0, 1),
            },
        ),
        "pids": Fields({}, {"limit": Whole(-1, _TASKS_MOST)}),
        "blockIO": Fields(
            {},
            {
                "weight": _weight,
                "leafWeight": _weight,
                "weightDevice": List(Fields(_disk, {"weight": _weight, "leafWeight": _weight})),
                "throttleReadBpsDevice": _rates,
                "throttleWriteBpsDevice": _rates,
                "throttleReadIOPSDevice": _rates,
                "throttleWriteIOPSDevice": _rates,
            },
        ),
        "hugepageLimits": List(
            Fields(
                {"pageSize": Text(r"[1-9][0-9]*[KMG]B", "is not a size like 64KB, 2MB or 1GB"), "limit": _uint64}, {}
            )
        ),
        "network": Fields(
            {},
            {
                "classID": _uint32,
                "priorities": List(
                    Fields({"name": Text(r"[^/\s]+", "is no name of an interface", most=15), "priority": _uint32}, {})
                ),
            },
        ),
        "rdma": Map(
            Fields({}, {"hcaHandles": _uint32, "hcaObjects": _uint32}), Text(r"[^\s]+", "is no name of a device")
        ),
        # A name with a slash would leave the container's own cgroup.
        "unified": Map(_text, Text(r"[a-z][a-z0-9_]*\.[A-Za-z0-9_.]+", "is no file of a cgroup, like memory.high")),
    },
)

# -- linux.seccomp
_action = _choice("SCMP_ACT_", "KILL KILL_PROCESS KILL_THREAD TRAP ERRNO TRACE ALLOW LOG NOTIFY")
_argument = Fields(
    {"index": Whole(0, 5), "value": _uint64, "op": _choice("SCMP_CMP_", "NE LT LE EQ GE GT MASKED_EQ")},
    {"valueTwo": _uint64},
)
_errno = Whole(0, 4095)  # MAX_ERRNO of the kernel
_seccomp = Fields(
    {"defaultAction": _action},
    {
        "defaultErrnoRet": _errno,
        "architectures": List(
            _choice(
                "SCMP_ARCH_",
                "X86 X86_64 X32 ARM AARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE S390 "
                "S390X PARISC PARISC64 RISCV64 LOONGARCH64 M68K SH SHEB",
            )
        ),
        "flags": List(_choice("SECCOMP_FILTER_FLAG_", "TSYNC LOG SPEC_ALLOW WAIT_KILLABLE_RECV")),
        "listenerPath": Text(_absolute.pattern, _absolute.rule, most=107),  # sun_path of unix(7)
        "listenerMetadata": _text,
        "syscalls": List(
            Fields(
                {"names": List(Text(r".+", "is empty"), least=1), "action": _action},
                {"errnoRet": _errno, "args": List(_argument)},
            )
        ),
    },
)

# -- linux
_offset = Fields({}, {"secs": Whole(-_INT64 - 1, _INT64), "nanosecs": Whole(0, 999_999_999)})
_device = Fields(
    {"type": _choice("", "c u b p"), "path": _absolute},
    # Docker writes the whole st_mode, with the kind of file in it.
    {"major": _uint64, "minor": _uint64, "fileMode": Whole(0, 0o177777), "uid": _id, "gid": _id},
)
_propagation = _choice("", "private rprivate shared rshared slave rslave unbindable runbindable")
_clos = Text(r"/|(?!\.{1,2}$)[^/\n]+", "is no name of a folder")
LINUX = Fields(
    {},
    {
        "namespaces": List(Fields({"type": Text(choices=NAMESPACES)}, {"path": _absolute})),
        "uidMappings": _mappings,
        "gidMappings": _mappings,
        "timeOffsets": Map(_offset, _choice("", "monotonic boottime")),
        "devices": List(_device),
        "cgroupsPath": Text(r"(?!(.*/)?\.\.(/|$)).*", "holds .. as a part"),
        "resources": RESOURCES,
        "sysctl": Map(Text(r"[^\n]*", "has more than one line")),
        "seccomp": _seccomp,
        "rootfsPropagation": _propagation,
        "maskedPaths": List(_absolute),
        "readonlyPaths": List(_absolute),
        "mountLabel": _line,
        "intelRdt": Fields(
            {},
            {
                "closID": _clos,
                "schemata": List(_line),
                "l3CacheSchema": _line,
                "memBwSchema": Text(r"MB:[^\n]*", "does not begin with MB: or has more than one line"),
                "enableCMT": _flag,
                "enableMBM": _flag,
            },
        ),
        "personality": Fields({"domain": _choice("", "LINUX LINUX32")}, {"flags": List(_text)}),
    },
)

# -- the whole
_mount = Fields(
    {"destination": _text},
    {
        "type": _text,
        "source": _text,
        "options": List(Text(r".+", "is empty")),
        "uidMappings": _mappings,
        "gidMappings": _mappings,
    },
)
_hooks = List(
    Fields({"path": _absolute}, {"args": List(_text), "env": List(_variable), "timeout": Whole(1, (1 << 31) - 1)})
)
_uts = Text(most=64)  # __NEW_UTS_LEN
CONFIG = Fields(
    {"ociVersion": _version, "root": Fields({"path": _text}, {"readonly": _flag})},
    {
        "process": PROCESS,
        "hostname": _uts,
        "domainname": _uts,
        "mounts": List(_mount),
        "hooks": Fields(
            {},
            dict.fromkeys(
                ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"), _hooks
            ),
        ),
        "annotations": Map(Text(free=True), Text(free=True)),
        "linux": LINUX,
    },
)
