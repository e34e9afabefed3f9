"""Docker's defaults for a container, in the words of the OCI runtime specification 1.2."""

from __future__ import annotations

Json = dict[str, object]
OWN_ANNOTATIONS = "io.wharfinger."  # what they begin with that the engine writes, and nobody else may
INIT_ANNOTATION = "io.wharfinger.init"  # "true": pid 1 is our reaper (core.runtime.reaper)
FILTER_FILE = "seccomp.bpf"  # the compiled seccomp filter, beside config.json

CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT "
        "KILL AUDIT_WRITE"
    ).split()
)

MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Made in every /dev: name, major, minor (runtime-spec config-linux.md, "Default Devices"). All are 0666.
DEVICES = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)
DEVICE_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
)


def _device(allow: bool, kind: str, major: int | None, minor: int | None, access: str = "rwm") -> Json:
    rule: Json = {"allow": allow, "type": kind, "access": access}
    if major is not None:
        rule["major"] = major
    if minor is not None:
        rule["minor"] = minor
    return rule


NO_FUSE = _device(False, "c", 10, 229)


def device_rules() -> list[Json]:
    """The device cgroup: nothing, then mknod of anything, then use of the harmless ones; no FUSE (c 10:229)."""
    return [{"allow": False, "access": "rwm"}, *needed_devices(), NO_FUSE]


def needed_devices() -> list[Json]:
    """What every container is allowed, whatever it asks for: without it not even its own /dev could be made."""
    return [
        _device(True, "c", None, None, "m"),
        _device(True, "b", None, None, "m"),
        *(_device(True, "c", major, minor) for _, major, minor in DEVICES),
        _device(True, "c", 5, 1),  # /dev/console
        _device(True, "c", 5, 2),  # /dev/ptmx
        _device(True, "c", 136, None),  # /dev/pts/*
    ]


def mounts(shm_size: int) -> list[Json]:
    """The file systems every container gets, in the order in which they are stacked."""
    safe = ["nosuid", "noexec", "nodev"]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": safe},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*safe, "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*safe, "relatime", "ro"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": safe},
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": [*safe, "mode=1777", f"size={shm_size}"],
        },
    ]
