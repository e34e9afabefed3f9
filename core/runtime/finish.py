"""The last steps before exec, the same for a container's first process and for one that joins it.

The process is inside already: root, mounts and namespaces are the container's. It still is root with all
capabilities. It is not dumpable, so that nothing inside can trace it or reach its descriptors, unless the container was
given CAP_SYS_PTRACE: therefore it holds nothing of the host's any more by now (CVE-2016-9962), and :func:`drop` comes
before anything that lasts or that others can meet: the gate, hooks of the container, its pid namespace.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import stat
from collections.abc import Callable, Sequence
from typing import NoReturn, cast

from core.errors import CommandNotExecutable, CommandNotFound, StartFailed
from core.kernel import caps, libc, lsm, process, resolve, userns
from core.runtime import notify
from core.runtime.defaults import Json
from core.runtime.task import Filter, Report
from core.runtime.user import User, identity

_MISSING = (errno.ENOENT, errno.ENOTDIR)
_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")
_PROCESSES = "RLIMIT_NPROC"
_RLIMIT_LOCKS = 10  # the one that Python does not name; without effect since Linux 2.4.25


def guard(report: Report) -> None:
    """First of all: die with the monitor. The question follows the request, so that no gap is left between them."""
    process.set_death_signal(signal.SIGKILL)
    poll = select.poll()
    poll.register(report.fd, 0)
    if poll.poll(0):  # POLLHUP: the monitor has gone already
        os._exit(1)


def keep_only(stdio: tuple[int, int, int] | None, keep: set[int]) -> None:
    """Put ``stdio`` in place as 0, 1, 2 and close every other descriptor that is not in ``keep`` (CVE-2024-21626)."""
    for number, fd in enumerate(stdio or ()):
        os.dup2(fd, number, inheritable=True)
    libc.close_all_but(keep | {0, 1, 2})


def lend_stdio(uids: Sequence[userns.Range], gids: Sequence[userns.Range]) -> None:
    """Give pipes to the root of the container's user namespace, while we have the host's rights: inside, what belongs
    to nobody there cannot be opened (``/dev/stdout``), nor be given to the user (:func:`own_stdio`)."""
    uid, gid = userns.outside(uids, 0), userns.outside(gids, 0)
    if uid is None or gid is None:
        return
    for fd in range(3):
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            with contextlib.suppress(PermissionError):  # the engine is an ordinary user's: it stays the caller's affair
                os.fchown(fd, uid, gid)


def own_stdio(user: User) -> None:
    """Give pipes and terminal to the user, who otherwise could not open /dev/stdout."""
    for fd in range(3):
        status = os.fstat(fd)
        # Not /dev/null: it is the host's, or shared. Only what was made for this container.
        if stat.S_ISFIFO(status.st_mode) or os.isatty(fd):
            try:
                os.fchown(fd, user.uid, status.st_gid if os.isatty(fd) else user.gid)
            except OSError as error:
                # One whose owner is unknown in our user namespace is the caller's affair; it can still be written.
                if error.errno not in (errno.EPERM, errno.EINVAL):
                    raise


def new_session_keyring(report: Report) -> None:
    """The host's session keyring must not be inherited: its keys would be readable inside."""
    report.at("making a session keyring")
    try:
        process.new_session_keyring()
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EDQUOT):
            raise


def who(own: Json, annotations: Json) -> User:
    """See :func:`core.runtime.user.identity`, of the root that was entered."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return identity(root, own, annotations)
    finally:
        os.close(root)


def enter_folder(path: str, *, make: bool) -> None:
    """Change to the working directory, which must lie inside the root.

    It is opened without following magic links: ``/proc/self/fd/7`` could be a folder of the host (CVE-2024-21626).

    :raises StartFailed: with the reason
    """
    what = f"cannot change to working directory {path}"
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fd = resolve.open_in_root(root, path, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            if not make:
                raise
            fd = resolve.make_dirs(root, path)
        os.fchdir(fd)
        os.close(fd)
        inside = os.getcwd().startswith("/")  # the kernel says "(unreachable)…" for a folder outside the root
    except OSError as error:
        reason = "it leads out of the container" if error.errno == errno.ELOOP else str(error.strerror)
        raise StartFailed(what, reason, step="working directory") from error
    finally:
        os.close(root)
    if not inside:
        raise StartFailed(
            f"cannot change to working directory {path}", "it is outside the root", step="working directory"
        )


def set_limits(own: Json, soft_files: int | None, *, before_fork: bool = False) -> None:
    """Apply ``process.rlimits``.

    :param soft_files: soft limit of open files where they do not say; None: ours
    :param before_fork: leave a lower number of processes to :func:`limit_processes`: while this process and the one
        that it makes are both there, they are one too many
    :raises StartFailed: a hard limit above our own without CAP_SYS_RESOURCE
    """
    if soft_files is not None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft_files, hard), hard))
    for limit in cast("list[Json]", own.get("rlimits") or []):
        if str(limit["type"]) != _PROCESSES or not before_fork or not _lowers(limit):
            _set_limit(limit)


def limit_processes(own: Json) -> None:
    """What ``set_limits(before_fork=True)`` has left. :raises StartFailed:"""
    for limit in cast("list[Json]", own.get("rlimits") or []):
        if str(limit["type"]) == _PROCESSES:
            _set_limit(limit)


def _lowers(limit: Json) -> bool:
    held = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    return held == resource.RLIM_INFINITY or 0 <= _rlimit(limit["hard"]) <= held


def _set_limit(limit: Json) -> None:
    name = str(limit["type"])
    number = _RLIMIT_LOCKS if name == "RLIMIT_LOCKS" else cast(int, getattr(resource, name))
    soft, hard = (_rlimit(limit[key]) for key in ("soft", "hard"))
    try:
        resource.setrlimit(number, (soft, hard))
    except (ValueError, PermissionError) as error:
        raise StartFailed(
            f"cannot set {name} to {soft}:{hard}",
            f"the host's hard limit is {resource.getrlimit(number)[1]}, and raising it needs CAP_SYS_RESOURCE",
            f"Ask for less (docker and podman: --ulimit {name[7:].lower()}=SOFT:HARD)",
            step="limits",
        ) from error


def _rlimit(value: object) -> int:
    number = cast(int, value)
    return resource.RLIM_INFINITY if number >= 1 << 63 else number


def label(own: Json, proc: Callable[[], int], report: Report) -> None:
    """Security labels for the exec, while there is a proc file system that nobody else has.

    :param proc: opens it
    """
    profile, selinux = str(own.get("apparmorProfile") or ""), str(own.get("selinuxLabel") or "")
    if profile and profile != "unconfined":
        report.at("setting the AppArmor profile")
        lsm.set_apparmor(proc(), profile)
    if selinux:
        report.at("setting the SELinux label")
        lsm.set_selinux(proc(), selinux)


def drop(own: Json, user: User, seccomp: Filter, report: Report, *, has_groups: bool) -> None:
    """Become the user, with the capabilities of the command, under its filter, and with nothing else.

    :param has_groups: setgroups(2) may be called in this user namespace (:func:`userns.setgroups_allowed`)

    What is called after this must be allowed by the filter: let it be little.

    :raises StartFailed: :raises OSError:
    """
    report.at("dropping privileges")
    sets = cast("dict[str, list[str]]", own.get("capabilities") or {})
    bits = {name: _mask(sets.get(name) or ()) for name in _SETS}
    no_new_privs = bool(own.get("noNewPrivileges"))
    if not no_new_privs:
        # Without no_new_privs a filter needs CAP_SYS_ADMIN: before that is dropped.
        _install(seccomp, report)
    caps.limit_bounding(bits["bounding"])  # needs CAP_SETPCAP: before it may be dropped
    caps.keep_over_setuid(True)
    _set_ids(user, has_groups)
    caps.set_process(bits["effective"], bits["permitted"], bits["inheritable"])
    caps.set_ambient(bits["ambient"])
    if no_new_privs:
        process.set_no_new_privs()
        _install(seccomp, report)  # as late as can be


def _install(seccomp: Filter, report: Report) -> None:
    if seccomp.program:
        step = report.step
        report.at("installing the seccomp filter")
        notify.install(seccomp, report)
        report.at(step)


def _mask(names: Sequence[str]) -> int:
    """Names that this kernel does not know are passed over, as runc does: an engine may be newer than the kernel."""
    return caps.mask(name for name in names if name in caps.NUMBERS)


def _set_ids(user: User, has_groups: bool) -> None:
    try:
        # Groups first: after setuid we may not any more.
        _set_groups(user, has_groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        ids = {"user": (user.uid,), "group": (user.gid, *user.groups)}
        maps: dict[str, tuple[userns.Range, ...]] = {"user": (), "group": ()}
        with contextlib.suppress(OSError):  # one that joins is not in this /proc yet
            maps = {"user": userns.read_map("uid"), "group": userns.read_map("gid")}
        strange = [f"{kind} {number}" for kind in ids for number in ids[kind] if not userns.mapped(maps[kind], number)]
        raise StartFailed(
            f"cannot run the command as {', '.join(strange) or 'that user'}",
            "its user namespace has no such id",
            "Give the container a larger one (--userns auto:size=N), or choose another user",
            step="user",
        ) from error


def _set_groups(user: User, has_groups: bool) -> None:
    """Called even where there are none, else the host's would stay (CVE-2022-36109, CVE-2023-25173)."""
    try:
        os.setgroups(user.groups)
    except PermissionError as error:
        # A user namespace of a single id has no groups to set; then none may be wanted either.
        if has_groups or set(user.groups) - {user.gid}:
            raise StartFailed(
                "cannot set the groups of the process",
                "this user namespace forbids it: its map was made without privilege",
                "Give the user a range in /etc/subgid, and install uidmap",
                step="groups",
            ) from error


class Command:
    """What is executed, made ready so far that nothing but execve(2) is left: before a filter is in force, which need
    not allow what this takes.

    :param preserve: so many descriptors from 3 on go to it
    """

    def __init__(self, own: Json, user: User, preserve: int) -> None:
        self._argv = cast("list[str]", own["args"])
        self._env = dict(entry.partition("=")[::2] for entry in cast("list[str]", own.get("env") or []))
        self._env.setdefault("HOME", user.home)
        name, self._path = self._argv[0], self._env.get("PATH", "")
        self._places = [name] if "/" in name else [f"{folder}/{name}" for folder in _folders(self._path)]
        mask = cast(Json, own.get("user") or {}).get("umask")
        os.umask(0o022 if mask is None else cast(int, mask))
        # Python ignores these two; an ignored signal would stay so in the command.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        # Whatever is open beside 0, 1, 2 must not reach the command: also descriptors that we do not know of.
        libc.close_range(3 + preserve, cloexec=True)

    def execute(self, report: Report) -> NoReturn:
        """It is looked for in the container's ``PATH``. Returns only by an exception.

        :raises CommandNotFound: :raises CommandNotExecutable: :raises StartFailed:
        """
        report.at("executing the command")
        report.ready()
        name = self._argv[0]
        denied: OSError | None = None
        for place in self._places:
            try:
                os.execve(place, self._argv, self._env)
            except OSError as error:
                if place == name:
                    raise _refused(name, error) from error
                if error.errno not in _MISSING:
                    denied = denied or error
        if denied:
            raise _refused(name, denied) from denied
        raise _not_in_path(name, self._path)


def check_command(own: Json) -> None:
    """Is there something to execute at all? Whether the user may, only the exec itself can tell.

    :raises CommandNotFound: :raises CommandNotExecutable:
    """
    name = cast("list[str]", own["args"])[0]
    env = dict(entry.partition("=")[::2] for entry in cast("list[str]", own.get("env") or []))
    places = [name] if "/" in name else [f"{folder}/{name}" for folder in _folders(env.get("PATH", ""))]
    found = [place for place in places if os.path.exists(place)]
    if not found and "/" in name:
        raise _refused(name, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
    if not found:
        raise _not_in_path(name, env.get("PATH", ""))
    if not any(os.path.isfile(place) and os.access(place, os.X_OK) for place in found):
        raise _refused(name, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def _folders(path: str) -> list[str]:
    """Of ``PATH``; an empty part is not the working directory, where anybody may have put something."""
    return [folder for folder in path.split(":") if folder]


def _not_in_path(name: str, path: str) -> CommandNotFound:
    return CommandNotFound(
        f'exec: "{name}": executable file not found in $PATH',
        f"none of {path} has it",
        "Check the command's name, or give its full path",
        step="exec",
    )


def _refused(name: str, error: OSError) -> StartFailed:
    what = f'exec: "{name}": {(error.strerror or "cannot be executed").lower()}'
    if error.errno in _MISSING:
        if os.path.exists(name):
            return CommandNotFound(what, "the interpreter that it names is not in the image", "Add it", step="exec")
        return CommandNotFound(what, "the image has no such file", "Check the command's path", step="exec")
    if error.errno == errno.E2BIG:
        return StartFailed(
            f'exec: "{name}": arguments or environment too long',
            "one word of them has more than 128 KiB, or all together take more than a quarter of the stack limit",
            "Pass large values by a file",
            step="exec",
        )
    if error.errno == errno.ENOEXEC:
        why, fix = "it is for another architecture, or a script without #!", "Use an image for this machine"
    elif os.path.isdir(name):
        why, fix = "it is a directory", "Name a program"
    else:
        why, fix = "it may not be executed by this user", "chmod +x it in the image"
    return CommandNotExecutable(what, why, fix, step="exec")
