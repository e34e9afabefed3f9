"""A further process inside a running container (``exec``, health checks).

Two processes, as with runc. The first stays *outside* the container's pid namespace, where nobody inside can see it:
it lets go of every descriptor of the host, enters cgroup and namespaces, becomes the user with the command's
capabilities and filter, and then makes the second, which is born in the pid namespace. A container with CAP_SYS_PTRACE
may trace that one, dumpable or not: it finds 0, 1, 2 and the line to its own monitor there (CVE-2016-9962,
CVE-2024-21626), and no right that the command itself would not have.
"""

from __future__ import annotations

import contextlib
import os
from typing import NoReturn, cast

from core.errors import StartFailed
from core.kernel import mount, process, userns
from core.kernel.bpf import FILTER_NEW_LISTENER
from core.kernel.clone import fork_sibling
from core.runtime import attributes, finish, terminal
from core.runtime.defaults import Json
from core.runtime.namespaces import FILES, KINDS
from core.runtime.task import ExecTask, Report
from core.runtime.user import User


def join(task: ExecTask) -> NoReturn:
    """Run the command inside, in a sibling of this process. Never returns; a failure goes to the monitor."""
    report, own = Report(task.report), task.process
    try:
        finish.guard(report)
        has_groups = userns.setgroups_allowed(task.pid)
        _enter(task, report)
        user = _settle(task, report)
        command = finish.Command(own, user, task.preserve)
        late = _must_be_late(task)
        if not late:
            finish.drop(own, user, task.seccomp, report, has_groups=has_groups)
        report.at("joining the pid namespace")
        assert task.place is not None
        if fork_sibling(task.place):
            os._exit(0)
        os.setsid()
        if own.get("terminal"):
            report.at("taking the terminal")
            terminal.control()
        finish.limit_processes(own)
        if late:
            _drop_late(task, report, user, has_groups)
        command.execute(report)
    except BaseException as error:
        report.fail(error)


def _must_be_late(task: ExecTask) -> bool:
    """Must it be the second process that gives up its rights? One whose calls an agent answers cannot even fork before
    the agent has the listener, which is told the pid; and a fork undoes, or is refused, with some schedulers."""
    return bool(task.seccomp.flags & FILTER_NEW_LISTENER) or attributes.ends_with_fork(task.process)


def _drop_late(task: ExecTask, report: Report, user: User, has_groups: bool) -> None:
    finish.guard(report)  # again: a fork clears the death signal
    if attributes.ends_with_fork(task.process):
        attributes.set_scheduling(task.process)
    process.set_death_signal(0)  # from here on it outlives its monitor
    finish.drop(task.process, user, task.seccomp, report, has_groups=has_groups)


def _enter(task: ExecTask, report: Report) -> None:
    """All that needs something of the host."""
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
    # All in one call: after the first we may have no right to look at that process any more. The pid namespace is not
    # for us: for our children.
    process.setns(task.pidfd, flags | process.CLONE_NEWPID)
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


def _settle(task: ExecTask, report: Report) -> User:
    """Inside, and still with all rights."""
    own = task.process
    if own.get("apparmorProfile") or own.get("selinuxLabel"):
        proc = mount.filesystem("proc")  # one that nobody else has; it shows the host's processes, and goes again
        finish.label(own, lambda: proc, report)
        os.close(proc)
    report.at("looking up the user")
    user = finish.who(own, cast(Json, own.get("annotations") or {}))
    report.at("working directory")
    finish.enter_folder(str(own.get("cwd") or "/"), make=False)
    report.at("setting limits")
    finish.set_limits(own, task.soft_files, before_fork=True)
    finish.own_stdio(user)
    if not attributes.ends_with_fork(own):
        attributes.set_scheduling(own)
    attributes.set_personality(task.linux)
    return user
