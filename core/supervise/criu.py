"""CRIU: where it is, what it is asked, what it answers, and what its errors mean.

``criu swrk FD`` takes requests on a socket (SOCK_SEQPACKET) and, unlike its command line, tells each step, waits for
the answer, and hands over the terminal that it has made. The messages are those of ``images/rpc.proto`` in CRIU's
sources, in the wire format of Protocol Buffers ("Encoding": varints and lengths); the few that are needed are written
out here, as the monitor has the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from core.errors import Unsupported, WharfError
from core.kernel import netns
from core.kernel.process import CLONE_NEWNET

PROGRAM = "WHARF_CRIU"  # environment variable: which one to use
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # what it calls: tar, iptables-restore, ip
DUMP_LOG, RESTORE_LOG = "dump.log", "restore.log"
_WORDS = "criu.err"
_MOST_LOG = 16 << 20  # bytes
NETWORK, PID = "outer-net", "outer-pid"  # our names of namespaces that are not CRIU's to make
MESSAGE = 65536  # bytes, at most
_DUMP, _RESTORE, _NOTIFY = 1, 2, 6  # criu_req_type
_SOFT = 3  # criu_cg_mode: limits are set only on cgroups that it makes itself
_NFTABLES, _SKIP = 2, 3  # criu_network_lock_method
_SKIP_SINCE = (3, 19)  # version
_VERBOSE = 4
Value: TypeAlias = "int | str | bytes | Sequence[tuple[int, Value]]"
Fields: TypeAlias = "Sequence[tuple[int, Value]]"


@dataclass(frozen=True)
class Options:
    """What a checkpoint takes along, and its restore must know.

    :param tcp_established: connections of TCP: both ends must be able to find each other again
    :param file_locks: locks on files: only where no process outside holds one on the same file
    :param ext_unix: unix sockets whose other end is outside; they are restored without a peer
    :param shell_job: a terminal, session or group of processes that is the caller's
    :param empty_net: nothing of the network namespace: whoever restores fills the new one
    """

    tcp_established: bool = False
    file_locks: bool = False
    ext_unix: bool = False
    shell_job: bool = False
    empty_net: bool = False


@dataclass(frozen=True)
class Reply:
    """One message of CRIU's: ``script`` names a step that waits for its answer; "" in the last one.

    :param pid: of the restored first process, as we see it
    """

    script: str
    success: bool
    pid: int


def find(named: str = "") -> str:
    """The program: ``named``, else ``$WHARF_CRIU``, else by ``PATH``, else in the folders of system programs.

    :raises Unsupported: there is none
    """
    named = named or os.environ.get(PROGRAM, "")
    found = shutil.which(named or "criu", path=f"{os.environ.get('PATH', '')}:{PATH}")
    if found is None:
        raise Unsupported(
            "cannot checkpoint or restore",
            f"{named or 'criu'} is not installed",
            "Install criu (on Linux 6.13 and later version 4.1 or newer), or name its program in $WHARF_CRIU",
        )
    return os.path.abspath(found)


# What CRIU drops all packets by, but its own (they carry that mark): rules for iptables-restore.
_HOLD = b"""*filter
:CRIU - [0:0]
-I INPUT -j CRIU
-I OUTPUT -j CRIU
-A CRIU -m mark --mark 0xC114 -j ACCEPT
-A CRIU -j DROP
COMMIT
"""


def hold_connections(network: int) -> None:
    """Drop what comes into a network namespace until CRIU has restored its connections: a packet for one that is not
    there yet would end it. Once, and only where :func:`by_iptables` said so at the dump: CRIU takes the rules away,
    as they are those that it made then.

    :param network: descriptor
    :raises OSError: no process can be made
    """
    rules = os.memfd_create("rules")
    try:
        os.write(rules, _HOLD)
        with netns.inside(network):
            for name in ("iptables-restore", "ip6tables-restore"):
                program = shutil.which(name, path=PATH)
                if program is not None:
                    os.lseek(rules, 0, os.SEEK_SET)
                    streams = [(os.POSIX_SPAWN_DUP2, rules, 0)]
                    os.waitpid(os.posix_spawn(program, [name], {"PATH": PATH}, file_actions=streams), 0)
    finally:
        os.close(rules)


# -- the wire format
def _varint(number: int) -> bytes:
    number &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def encode(fields: Fields) -> bytes:
    """(number, value) pairs as one message; a sequence of such pairs is a message within it."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += _varint(number << 3) + _varint(value)
            continue
        data = os.fsencode(value) if isinstance(value, str) else value if isinstance(value, bytes) else encode(value)
        out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return out


def decode(data: bytes) -> dict[int, int | bytes]:
    """Number → value of a message's fields, of several with one number the last. :raises ValueError: it is none"""
    found: dict[int, int | bytes] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    try:
        while at < len(data):
            key = varint()
            if key & 7 == 0:
                found[key >> 3] = varint()
                continue
            length = {1: 8, 2: -1, 5: 4}[key & 7]
            length = varint() if length < 0 else length
            found[key >> 3] = data[at : at + length]
            at += length
    except (IndexError, KeyError):
        raise ValueError("not a message of Protocol Buffers") from None
    return found


# -- requests and answers
def dump_request(
    pid: int,
    images: int,
    work: int,
    options: Options,
    external: Sequence[str],
    freezer: str,
    *,
    leave_running: bool,
    version: tuple[int, ...],
) -> bytes:
    """Save the tree of processes below ``pid``.

    :param images: descriptor, in the process that has made the socket, of the folder for the images; ``work`` for logs
    :param external: what is not to be saved (see :func:`outside_mount` and its like)
    :param freezer: folder of the cgroup to freeze meanwhile; "": processes are stopped one by one
    :param version: CRIU's
    """
    more: list[tuple[int, Value]] = [(2, pid), (3, leave_running), (10, DUMP_LOG)]
    if freezer:
        more.append((44, freezer))
    more += [(37, name) for name in external]
    lock = _network_lock(options, version)
    if lock:
        more.append((64, lock))
    return encode([(1, _DUMP), (2, [*_common(images, work, options), *more])])


def restore_request(
    images: int,
    work: int,
    options: Options,
    root: str,
    external: Sequence[str],
    inherited: Iterable[tuple[str, int]],
    cgroups: Mapping[str, str],
) -> bytes:
    """Make the processes again, as siblings of CRIU.

    :param root: mount point of the container's root
    :param inherited: (name in the images, descriptor in CRIU): each descriptor once, CRIU closes it
    :param cgroups: controller → path of the group that takes the place of the one that was saved
    """
    more: list[tuple[int, Value]] = [(10, RESTORE_LOG), (13, root), (26, True)]
    more += [(25, [(1, name), (2, path)]) for name, path in cgroups.items()]
    more += [(27, [(1, name), (2, fd)]) for name, fd in inherited]
    more += [(37, name) for name in external]
    return encode([(1, _RESTORE), (2, [*_common(images, work, options), *more])])


def _common(images: int, work: int, options: Options) -> list[tuple[int, Value]]:
    fields: list[tuple[int, Value]] = [(1, images), (17, work), (9, _VERBOSE), (12, True), (24, True), (34, _SOFT)]
    fields += [(4, options.ext_unix), (5, options.tcp_established), (7, options.shell_job), (8, options.file_locks)]
    # The master side of a terminal is ours, outside. Binds may be slaves of the host's mounts.
    fields += [(50, True), (29, True), (30, True)]
    if options.empty_net:
        fields.append((38, CLONE_NEWNET))
    return fields


def locks_network(tcp_established: bool, release: str) -> bool:
    """Are all packets of the network namespace dropped from a dump until the restore?"""
    return tcp_established or parse_version(release) < _SKIP_SINCE


def _network_lock(options: Options, version: tuple[int, ...]) -> int:
    """How connections are held back meanwhile; 0: by iptables, as it does by itself."""
    if not options.tcp_established and version >= _SKIP_SINCE:
        return _SKIP  # there are none
    return 0 if by_iptables() else _NFTABLES


def by_iptables() -> bool:
    """Does CRIU, at a dump now, hold connections back by iptables, and at the restore look for these rules?"""
    return shutil.which("iptables-restore", path=PATH) is not None


def parse_version(text: str) -> tuple[int, ...]:
    """Of ``4.1.1`` and the like, what can be compared."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def parse_reply(data: bytes) -> Reply:
    """:raises ValueError: it is none"""
    fields = decode(data)

    def part(number: int) -> dict[int, int | bytes]:
        inner = fields.get(number, b"")
        return decode(inner) if isinstance(inner, bytes) else {}

    def whole(value: int | bytes | None) -> int:
        return value if isinstance(value, int) else 0

    if fields.get(1) == _NOTIFY:
        notice = part(5)
        script = notice.get(1, b"")
        return Reply(script.decode() if isinstance(script, bytes) else "", True, whole(notice.get(2)))
    return Reply("", bool(fields.get(2)), whole(part(4).get(1)))


def acknowledge(*, success: bool) -> bytes:
    """The answer to a step: CRIU goes on, or gives up and undoes what it has done."""
    return encode([(1, _NOTIFY), (3, success)])


def outside_mount(point: str, key: str) -> str:
    """At a dump: the mount at ``point`` is given at the restore under the name ``key``."""
    return f"mnt[{point}]:{key}"


def given_mount(key: str, path: str) -> str:
    """At a restore: what ``path`` leads to."""
    return f"mnt[{key}]:{path}"


def outside_namespace(kind: str, inode: int, key: str) -> str:
    return f"{kind}[{inode}]:{key}"


def outside_file(mount_id: int, inode: int) -> str:
    """The name of an open file that lies on no mount of the container's."""
    return f"file[{mount_id:x}:{inode:x}]"


# -- errors
def open_words(folder: int) -> int:
    """A file in the folder of the log, for CRIU's standard error: what it says before it has a log."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(_WORDS, flags, 0o600, dir_fd=folder)


def read_log(folder: int, name: str) -> bytes:
    """What CRIU has said, in its log and before."""
    found = b""
    for each in (_WORDS, name):
        with contextlib.suppress(OSError):
            fd = os.open(each, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            with open(fd, "rb") as file:
                found += file.read(_MOST_LOG)
    return found


_ERROR = re.compile(r"^(?:\([0-9.]+\)\s+)?(?:pie: )?(?:\d+: )?Error \([^)]*\): (.*)$")
_HARMLESS = ("rlimit: Can't setup RLIMIT_NOFILE", "cg: cgroupd: recv req error")
_LAST = "ing FAILED."
_CURES = (
    ("Unexpected rt vDSO", "This criu is older than the kernel: Linux 6.13 and later need criu 4.1"),
    ("kerndat", "This criu is older than the kernel, or may not do its work here: see `criu check`"),
    ("onnected TCP socket", "Take connections along with --tcp-established, or have them closed first"),
    ("external stream socket", "A unix socket leads outside: --ext-unix-sk saves it without its peer"),
    ("External socket is used", "A unix socket leads outside: --ext-unix-sk saves it without its peer"),
    ("ext-unix-sk", "A unix socket leads outside: --ext-unix-sk saves it without its peer"),
    ("file locks", "Take locks along with --file-locks, if no process outside holds one on the same file"),
    ("iptables", "Install iptables: it holds connections back while they are saved"),
    ("has bad size", "A file is not as it was at the checkpoint: the container has run, or a volume changed, since"),
    ("has bad build-ID", "A program or library is not the one that ran at the checkpoint"),
    ("an't open file", "A file that was open at the checkpoint is not there any more"),
    ("exec tar", "Install tar: it packs what lies in the container's memory file systems"),
    ("Diag module missing", "modprobe -a unix_diag tcp_diag udp_diag raw_diag af_packet_diag netlink_diag"),
    ("Can't get rlimit", "criu needs CAP_SYS_RESOURCE where processes run as other users than root"),
    ("seccomp", "A filter that asks a supervisor cannot be saved"),
)


def printable(text: str) -> str:
    """Without anything that a terminal would act on."""
    return "".join(char if char.isprintable() else "?" for char in text)


def explain(what: str, log: bytes, kind: type[WharfError] = WharfError) -> WharfError:
    """The error for a failure: ``why`` by the first of the log's that say something, ``fix`` where a cure is known."""
    lines = [match[1].strip() for line in log.decode(errors="replace").splitlines() if (match := _ERROR.match(line))]
    told = [line for line in lines if not line.startswith(_HARMLESS) and not line.endswith(_LAST)]
    why = "criu: " + "; ".join(dict.fromkeys(told[:2])) if told else "criu gave up and did not say why"
    why = printable(why)  # names of the container's files are in it
    cure = next((cure for word, cure in _CURES if any(word in line for line in told)), "")
    return kind(what, why, cure)
