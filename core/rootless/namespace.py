"""The user and mount namespace that all wharf processes of a user share: found, or made, and entered.

They must share it. A process in a sibling namespace with the same maps could read the same files, and yet neither
signal nor enter a container whose processes are other users: its capabilities count in its own namespace only.

The namespace is known by a mark: an empty tmpfs that is mounted in its mount namespace alone. A container cannot pass
for it: its processes are in another pid namespace, and its root is another.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import subprocess
from pathlib import Path
from typing import NoReturn

from core.errors import NoPrivilege, Unsupported
from core.kernel import mount, process, userns
from core.rootless.ids import Ids, plan
from core.store.paths import ROOTLESS_UID, Instance, find_instance, runtime_folder
from core.supervise.records import load_state

_BOTH = process.CLONE_NEWUSER | process.CLONE_NEWNS
_TRIES = 5  # the last process of a namespace may end just when we want to join it
_SETTINGS = "/proc/sys"
MARK = "wharf-userns-"  # begins the source of the mount that marks the namespace
APPARMOR_FIX = "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or a profile for this Python with `userns,`"


def enter(inst: Instance | None = None) -> None:
    """Move this process into its user's namespace, where it is root; nothing happens where it is root already.

    It must have a single thread. Its working directory stays, by name.

    :param inst: whose containers have to be within reach, though nothing else may run any more; the default one

    :raises NoPrivilege: the host does not allow user namespaces, or this process has threads
    :raises Unsupported: newuidmap refuses what /etc/subuid promises
    """
    if os.geteuid() == 0:
        return
    if len(os.listdir("/proc/self/task")) > 1:
        raise NoPrivilege(
            "an ordinary user's engine must be root in a user namespace, and this process cannot enter one",
            "it has several threads, and the kernel moves only a process of one (setns(2))",
            "Call core.engine.become_root() at the beginning of the program, before any thread is started",
        )
    uid, gid = os.getuid(), os.getgid()
    folder = runtime_folder(uid)
    fd = os.open(folder / "wharf-userns.pid", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # two processes at once must not make two namespaces
        if not _join_existing(uid, fd):
            if not _join_orphan(uid, (inst or find_instance()).run):
                _make(plan(uid, gid))
            _set_mark(uid, folder / "wharf-userns")
            _note(fd, os.getpid())
    finally:
        os.close(fd)
    os.environ[ROOTLESS_UID] = str(uid)


def _join_existing(uid: int, hint: int) -> bool:
    """:param hint: a file with the pid of a process that was in the namespace a while ago"""
    for _ in range(_TRIES):
        member = find(uid, os.pread(hint, 32, 0).decode("ascii", "replace"))
        if member is None:
            return False
        pid, pidfd = member
        try:
            _join(pidfd)
        except ProcessLookupError:
            continue
        finally:
            os.close(pidfd)
        _note(hint, pid)
        return True
    return False


def _join_orphan(uid: int, run: Path) -> bool:
    """Enter by a container whose launcher and monitor were both killed: its user namespace, and a mount namespace anew,
    for its own is not the host's."""
    for folder in run.glob("c/*"):
        state = load_state(folder)
        pidfd = process.open_pidfd(state.pid, state.pid_start) if state is not None and state.pid else None
        if state is None or pidfd is None:
            continue
        try:
            # One that has a user namespace of its own shows other ids: ours is around it then, and out of reach.
            if userns.read_map("uid", state.pid)[:1] == (userns.Range(0, uid, 1),):
                _join(pidfd, process.CLONE_NEWUSER)
                process.unshare(process.CLONE_NEWNS)
                return True
        except (FileNotFoundError, ProcessLookupError):
            continue
        finally:
            os.close(pidfd)
    return False


def _note(hint: int, pid: int) -> None:
    """For the next one, who then need not search."""
    with contextlib.suppress(OSError):  # a full disk
        os.ftruncate(hint, 0)
        os.pwrite(hint, str(pid).encode(), 0)


def _join(pidfd: int, flags: int = _BOTH) -> None:
    """:raises ProcessLookupError: it has ended meanwhile :raises NoPrivilege:"""
    try:
        here: str | None = os.getcwd()
    except FileNotFoundError:
        here = None
    try:
        process.setns(pidfd, flags)
    except ProcessLookupError:
        raise
    except OSError as error:
        raise _refused(error) from error
    # setns(2) has led to the root of the mount namespace; the same files are there by the same names.
    with contextlib.suppress(OSError):
        os.chdir(here or "/")


# -- finding it
def mark_of(uid: int) -> str:
    """The source of the mount that marks the namespace of a user."""
    return f"{MARK}{uid}"


def find(uid: int, hint: str = "") -> tuple[int, int] | None:
    """A process in the user's namespace: pid, and a descriptor that the caller owns; None where nobody is in it.

    :param hint: the pid to look at first
    """
    own = os.readlink("/proc/self/ns/user")
    for name in (hint.strip(), *os.listdir("/proc")):
        if name.isdecimal() and (pidfd := _member(int(name), uid, own)) is not None:
            return int(name), pidfd
    return None


def _member(pid: int, uid: int, own: str) -> int | None:
    """A descriptor of the process, if it is in the user's namespace and on the host otherwise."""
    base = f"/proc/{pid}"
    try:
        if os.readlink(f"{base}/ns/user") == own:
            return None
        pidfd = os.pidfd_open(pid)
    except OSError:  # gone, or of somebody else
        return None
    try:
        if _is_marked(base, uid):
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(0):  # it still runs: so all that was read was its own, and of no other with its pid
                return pidfd
    except OSError:
        pass
    os.close(pidfd)
    return None


def _is_marked(base: str, uid: int) -> bool:
    # Containers first: whoever is root in one could mount our mark there, and have us enter.
    if os.readlink(f"{base}/ns/pid") != os.readlink("/proc/self/ns/pid"):
        return False
    ours, theirs = os.stat("/"), os.stat(f"{base}/root")
    if (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino):
        return False
    with open(f"{base}/mountinfo", "rb") as file:
        return b" - tmpfs %s " % mark_of(uid).encode() in file.read()


def _set_mark(uid: int, place: Path) -> None:
    """:raises NoPrivilege: mounts are forbidden"""
    place.mkdir(mode=0o700, exist_ok=True)
    try:
        mark = mount.filesystem("tmpfs", [("size", "4k"), ("mode", "0700")], mount.ATTR_RDONLY, source=mark_of(uid))
        target = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        mount.attach(mark, target)
    except OSError as error:
        raise _refused(error) from error
    os.close(mark)
    os.close(target)


# -- making it
def _make(ids: Ids) -> None:
    """:raises NoPrivilege: the host does not allow it :raises Unsupported: newuidmap refuses"""
    # A child makes the namespace and this process enters it when all is well: a failure leaves us where we were.
    told, tell = os.pipe2(os.O_CLOEXEC)
    rest, leave = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(leave)
        _seed(ids, tell, rest)
    try:
        os.close(tell)
        code = int.from_bytes(os.read(told, 4) or b"\5")  # EIO: it was killed
        if code:
            raise _refused(OSError(code, os.strerror(code)))
        for program, ranges in zip(ids.helpers or (), (ids.uids, ids.gids), strict=False):
            _write_map(program, pid, ranges)
        pidfd = os.pidfd_open(pid)
        try:
            _join(pidfd)
        finally:
            os.close(pidfd)
    finally:
        for fd in (told, rest, leave):
            os.close(fd)
        os.waitpid(pid, 0)


def _seed(ids: Ids, tell: int, rest: int) -> NoReturn:
    """The child that makes the namespace, and keeps it until its parent is inside."""
    code = 0
    try:
        process.unshare(_BOTH)
        if ids.helpers is None:
            userns.deny_setgroups()
            userns.write_own("uid", ids.uids)
            userns.write_own("gid", ids.gids)
    except OSError as error:
        code = error.errno or errno.EIO
    try:
        os.write(tell, code.to_bytes(4))
        os.read(rest, 1)
    finally:
        os._exit(0)


def _write_map(program: str, pid: int, ranges: tuple[userns.Range, ...]) -> None:
    """Have newuidmap or newgidmap write it. :raises Unsupported: it refuses"""
    argv = [program, str(pid), *(word for piece in ranges for word in str(piece).split())]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split()) or f"it ended with {done.returncode}"
        raise Unsupported(
            "the ids of your containers cannot be mapped",
            f"{program}: {said}",
            f"It must be set-user-ID root, on a file system without nosuid (chmod u+s {program}); /etc/subuid and "
            "/etc/subgid must name ranges that are yours alone",
        )


def _refused(error: OSError) -> NoPrivilege:
    """The kernel's no, with the setting that is behind it."""
    why, fix = why_not() or (
        f"{error.strerror or error}: in a chroot there are none, and a container's seccomp profile may forbid them",
        "Run wharf on the host itself, or as root",
    )
    return NoPrivilege("an ordinary user's containers need a user namespace, which this host refuses", why, fix)


def why_not() -> tuple[str, str] | None:
    """The setting of this host that keeps users from user namespaces, and how to change it; None where none does."""
    for path, forbidding, fix in (
        ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=28633"),
        ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", APPARMOR_FIX),
    ):
        with contextlib.suppress(OSError):
            if Path(_SETTINGS, path).read_text().strip() == forbidding:
                return f"{path.replace('/', '.')} is {forbidding}", fix
    return None
