"""``doctor``: what the kernel and the host offer, what follows from each gap, and how to mend it.

Quick (well under 200 ms) and without traces: features are tried where nobody sees them (core.ops.probes).
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from core import cgroups
from core.errors import WharfError
from core.kernel import bpf, caps, netns
from core.kernel.userns import contained
from core.model import Check
from core.ops import criuinfo, probes, runtimes
from core.ops.doctor_user import check_user, networks, no_cgroups
from core.ops.hostinfo import nearest
from core.store.paths import Instance, find_instance, rootless_user
from core.units import human_size

_LOW_SPACE = 2 << 30  # bytes: a few images
_NEEDED = (
    "CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_ADMIN NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_ADMIN "
    "SYS_CHROOT SYS_PTRACE"
).split()
_USEFUL = {
    "SYS_RESOURCE": "no limit (ulimit) of a container can be raised above this process's own hard limits",
    "NET_RAW": "a container cannot be given raw sockets: ping needs ping_group_range",
    "AUDIT_WRITE": "login programs in containers cannot write audit records",
    "SYS_MODULE": "missing kernel modules cannot be loaded on demand",
    "SYSLOG": "privileged containers cannot read the kernel's log",
}


def doctor(inst: Instance) -> list[Check]:
    """Every finding, the most basic first. Never raises: what cannot be found out is a finding too."""
    found: list[Check] = []
    parts = (_privilege, _cgroups, _layers, _disk, _network, _firewall, _kernel, _security)
    for check in (*parts, runtimes.check, criuinfo.check):
        try:
            found += check(inst)
        except (OSError, WharfError) as exc:
            found.append(_gap(check.__name__.strip("_"), "warn", f"cannot be found out: {exc}", "", ""))
    return found


def examine(error: WharfError, root: Path | None, run: Path | None) -> list[Check]:
    """The findings where the engine cannot be opened, for which ``error`` says why."""
    fix = error.fix if "doctor" not in error.fix else "Mend what it names, or choose another data root (--root)"
    found = [Check("engine", "fail", f"{error.what}: {error.why}", "no command of wharf works", fix)]
    try:
        inst = find_instance(root, run)
    except WharfError:
        return found  # that is the error, and says what to do
    return found + doctor(inst)


def _ok(name: str, found: str) -> Check:
    return Check(name, "ok", found)


def _gap(name: str, status: str, found: str, consequence: str, fix: str) -> Check:
    return Check(name, status, found, consequence, fix)


def _privilege(inst: Instance) -> Iterator[Check]:
    user = rootless_user()
    if user is not None:
        yield from check_user(inst, user)
    held = set(caps.bounding())
    missing = [name for name in _NEEDED if f"CAP_{name}" not in held]
    if missing:
        yield _gap(
            "capabilities",
            "fail",
            f"missing: {' '.join(missing)}",
            "starting a container will fail where one of them is needed",
            "Run on the host itself, or give the surrounding container these capabilities",
        )
    lost = [name for name in _USEFUL if f"CAP_{name}" not in held]
    for name in lost:
        yield _gap("capabilities", "warn", f"missing: {name}", _USEFUL[name], f"Start the engine with CAP_{name}")
    if not missing and not lost:
        yield _ok("capabilities", "all that the engine uses")


def _cgroups(inst: Instance) -> Iterator[Check]:
    try:
        if not cgroups.usable() and rootless_user() is not None:
            yield no_cgroups()
            return
        # Of a user's engine the part that is delegated; root sees what there is, and then that it may not be used.
        layout = cgroups.detect() if cgroups.usable() else cgroups.host()
    except WharfError as exc:
        yield _gap("cgroups", "fail", exc.why, "no limits, no meters, no start", exc.fix)
        return
    held = set(layout.controllers)
    yield _ok("cgroups", f"{layout.version}: {' '.join(sorted(held))}")
    for name, consequence in (
        ("memory", "no memory limits, no memory meter, no OOM report"),
        ("cpu", "no CPU quota and no shares"),
        ("pids", "no limit on the number of processes: a fork bomb takes the host along"),
        ("cpuset", "containers cannot be bound to CPUs"),
        ("io" if layout.version == "v2" else "blkio", "no block I/O meter and limits"),
    ):
        if name not in held:
            fix = "Boot with cgroup_enable=memory" if name == "memory" else "Boot a kernel that has this controller"
            yield _gap("cgroups", "warn", f"no {name} controller", consequence, fix)
    if not os.access(layout.mounts[-1], os.W_OK) or os.statvfs(layout.mounts[-1]).f_flag & os.ST_RDONLY:
        yield _gap(
            "cgroups",
            "fail",
            f"{layout.mounts[-1]} is not writable",
            "no container can be started",
            "Mount it writable (docker run --privileged --cgroupns=private for an engine in a container)",
        )
    memory = layout.mount_of("memory")
    if memory and not os.path.exists(f"{memory}/memory.memsw.limit_in_bytes"):
        yield _gap("swap limit", "warn", "no swap accounting", "--memory-swap is ignored", "Boot with swapaccount=1")


def _layers(inst: Instance) -> Iterator[Check]:
    where = nearest(inst.root)
    with probes.user_namespace() as (namespace, reason):
        result = probes.overlay(where, namespace)
        if contained():
            pass  # the user's own, of which check_user tells
        elif namespace is None:
            yield _gap(
                "user namespaces",
                "warn",
                reason,
                "no remapped users, no rootless containers",
                "sysctl user.max_user_namespaces=65536 (in a chroot the kernel forbids them whatever it is set to)",
            )
        else:
            yield _ok("user namespaces", "available")
    if not result.upper:
        yield _ok("overlay", f"works on {where}")
    elif not result.legacy:
        yield _ok("overlay", f"works on {where}, mounted the old way (lowerdir+ needs Linux 6.8)")
    else:
        yield _gap(
            "overlay",
            "fail",
            f"{where}: {result.upper}",
            "this file system cannot carry a container's writable layer",
            "Put the data root (WHARF_ROOT) on ext4, xfs or btrfs; not on another overlay or NFS",
        )
    features = [("volatile", result.volatile, "throw-away containers cannot skip syncing their writes")]
    if not contained():  # these need privilege over the file system itself
        features += [
            ("metacopy", result.metacopy, "changing a file's owner copies the whole file up"),
            ("idmap", result.idmap, "no ids of their own for containers (--userns auto, remap)"),
        ]
    for name, problem, consequence in features:
        if problem:
            yield _gap(f"overlay {name}", "warn", problem, consequence, "Boot a newer kernel (5.19 has them all)")
        else:
            yield _ok(f"overlay {name}", "available")


def _disk(inst: Instance) -> Iterator[Check]:
    where = nearest(inst.root)
    space = os.statvfs(where)
    free, total = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
    found = f"{human_size(free, binary=True)} of {human_size(total, binary=True)} free for {inst.root}"
    if free < _LOW_SPACE:
        yield _gap("disk", "warn", found, "pulls and writes will soon fail", "Remove unused images: wharf rmi")
    elif space.f_files and space.f_favail < 100_000:
        found = f"{space.f_favail} inodes free for {inst.root}"
        yield _gap("disk", "warn", found, "images of many small files will not fit", "Remove unused images: wharf rmi")
    else:
        yield _ok("disk", found)


def _network(inst: Instance) -> Iterator[Check]:
    if not netns.administered():
        yield from networks()
        return
    problem = probes.links()
    if problem:
        yield _gap(
            "bridge and veth",
            "fail",
            problem,
            "only --network none and host work",
            "modprobe bridge veth; in a container: give it CAP_NET_ADMIN",
        )
    else:
        yield _ok("bridge and veth", "work")
    try:
        tables = probes.nft_tables()
    except OSError as exc:
        yield _gap(
            "nftables",
            "fail",
            exc.strerror or str(exc),
            "no masquerading and no published ports",
            "modprobe nf_tables nft_chain_nat nft_masq; it needs CAP_NET_ADMIN",
        )
    else:
        yield _ok("nftables", f"answers over netlink, {len(tables)} tables")
    if _text("/proc/sys/net/ipv4/ip_forward") == "0":
        yield _gap(
            "ip_forward",
            "warn",
            "0",
            "containers reach each other, not the world, until the engine switches it on with its first network",
            "sysctl -w net.ipv4.ip_forward=1, and in /etc/sysctl.d to keep it",
        )
    else:
        yield _ok("ip_forward", "1")
        if probes.guards(inst.nft_table):
            yield _ok("forward guard", "this host routed nothing before wharf: now to and from bridges only")


def _firewall(inst: Instance) -> Iterator[Check]:
    if not netns.administered():
        return
    try:
        names = {name for _, name in probes.nft_tables()}
    except OSError:
        names = set()
    foreign = []
    if os.path.exists("/sys/class/net/docker0") or os.path.exists("/run/docker.sock"):
        foreign.append("docker")
    if "ENABLED=yes" in _text("/etc/ufw/ufw.conf"):
        foreign.append("ufw")
    if "firewalld" in names or os.path.isdir("/run/firewalld"):
        foreign.append("firewalld")
    if foreign:
        yield _gap(
            "firewall",
            "warn",
            " ".join(foreign),
            "it may drop what containers forward; published ports do not pass through its rules for input",
            "The engine adds accepts for its bridges (where firewalld lets nobody into its table: firewall-cmd "
            "--zone=trusted --add-interface=BRIDGE); who reaches what: wharf network reach",
        )
    else:
        yield _ok("firewall", "no other one found")


def _kernel(inst: Instance) -> Iterator[Check]:
    yield _ok("kernel", f"{os.uname().release} {os.uname().machine}")
    yield _have(
        "time namespace", os.path.exists("/proc/self/ns/time"), "containers share the host's boot clock", "Linux 5.6"
    )
    yield _have("pressure (PSI)", _psi(), "no pressure figures", "psi=1 on the kernel's command line")
    yield _have(
        "pidfd info",
        _pidfd_info(),
        "the exit code of a container whose monitor was killed can be lost: its state is then unknown",
        "Linux 6.15",
    )


def _have(name: str, present: bool, consequence: str, needs: str) -> Check:
    if present:
        return _ok(name, "available")
    return _gap(name, "warn", "missing", consequence, f"It needs {needs}")


def _psi() -> bool:
    try:
        return "avg10" in Path("/proc/pressure/cpu").read_text("ascii")
    except OSError:
        return False


def _pidfd_info() -> bool:
    """PIDFD_GET_INFO with PIDFD_INFO_EXIT: kernels that know the request at all may still lack the exit status."""
    fd = os.pidfd_open(os.getpid())
    try:
        buffer = bytearray(64)
        buffer[0] = 1 << 3
        fcntl.ioctl(fd, 0xC040FF0B, buffer)  # _IOWR(0xFF, 11, struct pidfd_info)
    except OSError as exc:
        return exc.errno not in (errno.ENOTTY, errno.EINVAL)
    finally:
        os.close(fd)
    return _release() >= (6, 15)


def _release() -> tuple[int, int]:
    parts = os.uname().release.split("-")[0].split(".")
    return int(parts[0]), int(parts[1])


def _security(inst: Instance) -> Iterator[Check]:
    actions = {"kill_process": 0x80000000, "errno": 0x00050000, "log": 0x7FFC0000, "allow": 0x7FFF0000}
    absent = [name for name, value in actions.items() if not bpf.action_available(value)]
    if absent:
        yield _gap(
            "seccomp",
            "fail",
            f"missing: {' '.join(absent)}",
            "containers start only with --security-opt seccomp=unconfined",
            "Boot a kernel with CONFIG_SECCOMP_FILTER",
        )
    else:
        yield _ok("seccomp", "filters with all actions used")
    apparmor = _text("/sys/module/apparmor/parameters/enabled") == "Y"
    selinux = os.path.exists("/sys/fs/selinux/enforce")
    if apparmor or selinux:
        yield _ok("security module", "AppArmor" if apparmor else "SELinux")
    else:
        yield _gap(
            "security module",
            "warn",
            "neither AppArmor nor SELinux",
            "containers are held by namespaces, capabilities and seccomp alone",
            "Boot with security=apparmor where the kernel has it",
        )


def _text(path: str) -> str:
    """A small file's text; empty where there is none."""
    try:
        return Path(path).read_text("utf-8", "replace").strip()
    except OSError:
        return ""
