"""A further process inside a running container (``exec``, health checks).

Two processes, as with runc. The first stays *outside* the container's pid namespace, where nobody inside can see it:
it lets go of every descriptor of the host, enters cgroup and namespaces, and then makes the second, which is born in
the pid namespace. A container with CAP_SYS_PTRACE may trace that one, dumpable or not, and finds 0, 1, 2 and the line
to its own monitor there, nothing else (CVE-2016-9962, CVE-2024-21626).
"""

from __future__ import annotations

import contextlib
import os
from typing import NoReturn, cast

from core.errors import StartFailed
from core.kernel import mount, process, userns
from core.kernel.clone import fork_sibling
from core.runtime import attributes, finish, terminal
from core.runtime.defaults import Json
from core.runtime.namespaces import FILES, KINDS
from core.runtime.task import ExecTask, Report


def join(task: ExecTask) -> NoReturn:
    """Run the command inside, in a sibling of this process. Never returns; a failure goes to the monitor."""
    report = Report(task.report)
    try:
        finish.guard(report)
        proc = _enter(task, report)
        assert task.place is not None
        if fork_sibling(task.place):
            os._exit(0)
        finish.guard(report)  # again: a fork clears the death signal
        _run(task, report, proc)
    except BaseException as error:
        report.fail(error)


def _enter(task: ExecTask, report: Report) -> int:
    """In the first process: all that needs something of the host, and what must be done before we can be seen.

    :returns: a proc file system that nobody else has, where a security label has to be written; else -1
    """
    own = task.process
    attributes.set_affinity(own, "initial")
    report.at("setting the OOM score")
    attributes.set_oom_score(own)
    if task.keyring:
        finish.new_session_keyring(report)
    # The cgroup first, by its path on the host, and before the device rules could be escaped.
    report.at("entering the cgroup")
    task.enter_cgroup()
    attributes.set_affinity(own, "final")
    report.at("joining namespaces")
    # The container's root as its first process has it: the mount namespace's own root is another directory where the
    # engine itself runs in a chroot.
    root = os.open(f"/proc/{task.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    flags = _other_namespaces(task.pid)
    finish.keep_only(task.stdio, {task.report, task.pidfd, root, *range(3, 3 + task.preserve)})
    if flags & KINDS["user"]:
        finish.lend_stdio(userns.read_map("uid", task.pid), userns.read_map("gid", task.pid))
    if flags:
        process.setns(task.pidfd, flags)
    process.setns(task.pidfd, process.CLONE_NEWPID)  # not for this process: for its children
    os.close(task.pidfd)
    os.fchdir(root)
    os.chroot(".")
    if flags & KINDS["user"]:
        _become_its_root()
    if own.get("terminal"):
        # 0, 1, 2 are the monitor's until now: they too must be replaced out here.
        report.at("making the terminal")
        os.close(terminal.take(terminal.open_master(root, "dev/pts/ptmx"), own, report))
    os.close(root)
    report.at("joining the pid namespace")
    return mount.filesystem("proc") if own.get("apparmorProfile") or own.get("selinuxLabel") else -1


def _other_namespaces(pid: int) -> int:
    """Flags of the namespaces that are not ours, the pid namespace left out. Those that are must not be joined: one's
    own user namespace cannot be, and the host's others not from inside a user namespace."""
    flags = 0
    for kind, flag in KINDS.items():
        name = FILES.get(kind, kind)
        if kind != "pid" and os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"):
            flags |= flag
    return flags


def _become_its_root() -> None:
    """We have all rights in the user namespace that was joined, but are nobody there yet."""
    with contextlib.suppress(PermissionError):  # a namespace of a single id has no groups
        os.setgroups([])
    try:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    except OSError as error:
        raise StartFailed("cannot run a command in the container", "its user namespace has no root", "") from error
    process.set_dumpable(False)


def _run(task: ExecTask, report: Report, proc: int) -> NoReturn:
    """In the second process, which is inside in every respect."""
    own = task.process
    os.setsid()
    if own.get("terminal"):
        report.at("taking the terminal")
        terminal.control()
    finish.label(own, lambda: proc, report)
    if proc >= 0:
        os.close(proc)
    report.at("looking up the user")
    user = finish.who(own, cast(Json, own.get("annotations") or {}))
    report.at("working directory")
    finish.enter_folder(str(own.get("cwd") or "/"), make=False)
    report.at("setting limits")
    finish.set_limits(own, task.soft_files)
    finish.own_stdio(user)
    attributes.set_scheduling(own)
    attributes.set_personality(task.linux)
    finish.become(own, user, task.seccomp, report, task.preserve)
