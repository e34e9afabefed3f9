"""The namespaces of a container (namespaces(7)): which are new, which are another's, and the order of entering them.

Most containers are forked straight into a new pid namespace and unshare the rest. A user namespace, which owns all
others, and a time namespace, which takes only children, need a *guide*: the forked process goes in first and then makes
the container's first process as its sibling (:func:`guided`).
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from core.errors import StartFailed, Unsupported
from core.kernel import netns, process, userns
from core.runtime.defaults import Json
from core.runtime.task import InitTask, Report

# By their names in config.json.
KINDS = {
    "user": process.CLONE_NEWUSER,
    "mount": process.CLONE_NEWNS,
    "uts": process.CLONE_NEWUTS,
    "ipc": process.CLONE_NEWIPC,
    "network": process.CLONE_NEWNET,
    "cgroup": process.CLONE_NEWCGROUP,
    "time": process.CLONE_NEWTIME,
    "pid": process.CLONE_NEWPID,
}
FILES = {"mount": "mnt", "network": "net"}  # in /proc/PID/ns, where they are called otherwise


def listed(config: Json) -> dict[str, str]:
    """Type → path to join, ``""`` for a new one. What is not listed is the runtime's own."""
    linux = cast(Json, config.get("linux") or {})
    entries = cast("list[Json]", linux.get("namespaces") or [])
    return {str(entry["type"]): str(entry.get("path") or "") for entry in entries}


def guided(config: Json) -> bool:
    """Does the first process need a guide?"""
    found = listed(config)
    return "user" in found or "time" in found


def open_joined(config: Json, given: Mapping[str, int]) -> dict[str, int]:
    """Descriptors of the namespaces to join: those given, and those that config.json names by path.

    :raises StartFailed: a path that leads to no namespace of that kind
    """
    opened = dict(given)
    for kind, path in listed(config).items():
        if not path or kind in given:
            continue
        try:
            opened[kind] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StartFailed(
                f"cannot join the {kind} namespace {path}", str(error.strerror), "Is its process still there?"
            ) from error
    return opened


def enter(task: InitTask, report: Report, joined: Mapping[str, int]) -> None:
    """Without a guide: join, then unshare. The pid namespace is entered by the fork already."""
    report.at("joining namespaces")
    for kind in [kind for kind in joined if kind != "pid"]:
        _join(kind, joined[kind])
    report.at("making namespaces")
    flags = _new_flags(task.config, joined) & ~process.CLONE_NEWPID & ~task.early.unshared
    make(flags)


def make(flags: int) -> None:
    """New namespaces (CLONE_NEW*), with lo up in a network namespace."""
    process.unshare(flags)
    if flags & process.CLONE_NEWNET:
        netns.bring_up_loopback()


def enter_as_guide(
    task: InitTask, report: Report, joined: Mapping[str, int], outside: Callable[[int | None], None]
) -> None:
    """With a guide: everything but the fork.

    :param outside: what must be done while we still have the host's rights, in a mount namespace that can be soiled;
        it is given the user namespace
    """
    config = task.config
    flags = _new_flags(config, joined)
    report.at("joining namespaces")
    # Before the user namespace, while we have rights in others' namespaces; one that belongs to the user namespace
    # that we join may want us inside first.
    late = {kind: fd for kind, fd in joined.items() if kind not in ("user", "mount", "pid") and not _tried(kind, fd)}
    report.at("making the user namespace")
    home = joined.get("user")
    if flags & process.CLONE_NEWUSER:
        home = make_user_namespace(*mappings(config))
    # An ordinary user has no rights outside: what is opened there is opened inside already, as far as it goes.
    ordinary = home is not None and os.geteuid() != 0
    if home is not None and ordinary:
        _become_root_of(home)
    process.unshare(process.CLONE_NEWNS)
    outside(None if ordinary else home)
    # With the host's rights: in the user namespace the file is nobody's, since we are not dumpable.
    clocks = os.open("/proc/self/timens_offsets", os.O_WRONLY | os.O_CLOEXEC) if flags & process.CLONE_NEWTIME else -1
    if home is not None and not ordinary:
        _become_root_of(home)
    if home is not None and "user" not in joined:
        os.close(home)
    report.at("joining namespaces")
    for kind, fd in late.items():
        _join(kind, fd)
    for kind in ("mount", "pid"):
        if kind in joined:
            _join(kind, joined[kind])
    report.at("making namespaces")
    make(flags & ~process.CLONE_NEWUSER)
    if flags & process.CLONE_NEWTIME:
        report.at("setting the clocks of the time namespace")
        _set_clocks(clocks, cast("dict[str, Json]", cast(Json, config["linux"]).get("timeOffsets") or {}))
        os.close(clocks)


def _new_flags(config: Json, joined: Mapping[str, int]) -> int:
    flags = 0
    for kind in listed(config):
        if kind not in joined:
            flags |= KINDS[kind]
    return flags


def _join(kind: str, fd: int) -> None:
    try:
        process.setns(fd, KINDS[kind])
    except OSError as error:
        if kind == "user" and os.path.samestat(os.fstat(fd), os.stat("/proc/self/ns/user")):
            return  # the one that we are in already, which the kernel does not let us join
        raise StartFailed(
            f"cannot join the {kind} namespace",
            f"it is none, or of another kind: {error.strerror}" if error.errno == errno.EINVAL else str(error.strerror),
            f"Give a file like /proc/PID/ns/{FILES.get(kind, kind)}",
        ) from error


def _tried(kind: str, fd: int) -> bool:
    try:
        process.setns(fd, KINDS[kind])
    except PermissionError:
        return False
    return True


def _set_clocks(file: int, offsets: Mapping[str, Json]) -> None:
    """``linux.timeOffsets`` (time_namespaces(7)); only before the first process is in."""
    lines = [f"{clock} {offset.get('secs') or 0} {offset.get('nanosecs') or 0}\n" for clock, offset in offsets.items()]
    if lines:
        os.write(file, "".join(lines).encode())


# -- user namespaces
def mappings(config: Json) -> tuple[tuple[userns.Range, ...], tuple[userns.Range, ...]]:
    """``linux.uidMappings`` and ``linux.gidMappings``."""
    linux = cast(Json, config.get("linux") or {})
    return ranges(linux.get("uidMappings")), ranges(linux.get("gidMappings"))


def ranges(entries: object) -> tuple[userns.Range, ...]:
    """Mappings as config.json writes them."""
    return tuple(
        userns.Range(cast(int, entry["containerID"]), cast(int, entry["hostID"]), cast(int, entry["size"]))
        for entry in cast("list[Json]", entries or [])
    )


def make_user_namespace(uids: tuple[userns.Range, ...], gids: tuple[userns.Range, ...]) -> int:
    """A new user namespace with these maps; returns a descriptor of it.

    :raises InvalidArgument: the maps are refused
    :raises Unsupported: this host lets nobody make one
    """
    return make_owned(uids, gids, ())["user"]


def make_owned(
    uids: tuple[userns.Range, ...], gids: tuple[userns.Range, ...], kinds: Sequence[str], home: int | None = None
) -> dict[str, int]:
    """A new user namespace with these maps, and new namespaces that belong to it: its root may do there what root may
    do in the host's. Returns descriptors by kind.

    A child of ours makes them and holds them while the maps are written, from outside, as the kernel wants it. Only for
    a process with a single thread.

    :param kinds: of the further ones
    :param home: a user namespace that is there already, and shall own them; the maps are its own then
    :raises InvalidArgument: the maps are refused
    :raises Unsupported: this host lets nobody make one
    """
    ready, made = os.pipe()
    child = os.fork()
    if child == 0:
        _hold_namespaces(made, sum(KINDS[kind] for kind in kinds), home)
    os.close(made)
    try:
        answer = int(os.read(ready, 16) or b"0")
        if answer <= 0:
            raise _no_namespace(-answer)
        if home is None:
            userns.write_for(answer, uids, gids)
        return {
            kind: os.open(f"/proc/{answer}/ns/{FILES.get(kind, kind)}", os.O_RDONLY | os.O_CLOEXEC)
            for kind in ("user", *kinds)
        }
    finally:
        os.close(ready)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _hold_namespaces(made: int, flags: int, home: int | None) -> None:
    answer = "0"
    try:
        process.set_death_signal(signal.SIGKILL)
        if home is None:
            process.unshare(process.CLONE_NEWUSER | flags)
        else:
            process.setns(home, process.CLONE_NEWUSER)
            process.unshare(flags)
        if home is None:
            # newuidmap, and an ordinary user, want to see whose process it is; nobody else is in there yet.
            process.set_dumpable(True)
        # Our pid as /proc has it: that may be the host's, while we have been forked in a pid namespace already.
        answer = os.readlink("/proc/self")
    except OSError as error:
        answer = str(-(error.errno or 1))
    finally:
        os.write(made, answer.encode())
        while True:
            signal.pause()


def _no_namespace(code: int) -> Unsupported:
    return Unsupported(
        "cannot make a user namespace",
        os.strerror(code),
        "Check /proc/sys/user/max_user_namespaces and (if it is there) kernel.apparmor_restrict_unprivileged_userns; "
        "in a chroot there are none",
    )


def _become_root_of(home: int) -> None:
    """Enter a user namespace as its root, where it has one."""
    _join("user", home)
    if userns.mapped(userns.read_map("gid"), 0):
        if userns.setgroups_allowed():
            os.setgroups([])
        os.setresgid(0, 0, 0)
    if userns.mapped(userns.read_map("uid"), 0):
        os.setresuid(0, 0, 0)
    # The kernel makes a process dumpable or not anew with its identity.
    process.set_dumpable(False)
