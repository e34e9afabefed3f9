"""A further process inside a running container (``exec``, health checks).

Two processes, as with runc. The first stays *outside* the container's pid namespace, where nobody inside can see it:
it lets go of every descriptor of the host, enters cgroup and namespaces, and then makes the second, which is born in
the pid namespace. A container with CAP_SYS_PTRACE may trace that one, dumpable or not, and finds 0, 1, 2 and the line
to its own monitor there, nothing else (CVE-2016-9962, CVE-2024-21626).
"""

from __future__ import annotations

import os
from typing import NoReturn, cast

from core.kernel import process
from core.kernel.clone import fork_sibling
from core.runtime import finish, terminal
from core.runtime.defaults import Json
from core.runtime.task import NAMESPACES, ExecTask, Report
from core.runtime.user import USER_ANNOTATION


def join(task: ExecTask) -> NoReturn:
    """Run the command inside, in a sibling of this process. Never returns; a failure goes to the monitor."""
    report = Report(task.report)
    try:
        finish.guard(report)
        _enter(task, report)
        if fork_sibling(task.place):
            os._exit(0)
        finish.guard(report)  # again: a fork clears the death signal
        _run(task, report)
    except BaseException as error:
        report.fail(error)


def _enter(task: ExecTask, report: Report) -> None:
    """In the first process: all that needs something of the host, and what must be done before we can be seen."""
    # The cgroup first, by its path on the host, and before the device rules could be escaped.
    report.at("entering the cgroup")
    task.enter_cgroup()
    finish.keep_only(task.stdio, {task.report, task.pidfd})
    report.at("joining namespaces")
    process.setns(task.pidfd, sum(NAMESPACES.values()))
    process.setns(task.pidfd, process.CLONE_NEWPID)  # not for this process: for its children
    os.close(task.pidfd)
    if task.stdio is None:
        # 0, 1, 2 are the monitor's until now: they too must be replaced out here.
        report.at("making the terminal")
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.close(terminal.take(terminal.open_master(root, "dev/pts/ptmx"), task.process, report))
        os.close(root)
    report.at("joining the pid namespace")


def _run(task: ExecTask, report: Report) -> NoReturn:
    """In the second process, which is inside in every respect."""
    own = task.process
    os.setsid()
    if task.stdio is None:
        report.at("taking the terminal")
        terminal.control()
    finish.new_session_keyring(report)
    report.at("looking up the user")
    user = finish.who(own, str(cast(Json, own.get("annotations", {})).get(USER_ANNOTATION, "")))
    report.at("working directory")
    finish.enter_folder(str(own["cwd"]), make=False)
    report.at("setting limits")
    finish.set_limits(own)
    finish.own_stdio(user)
    finish.become(own, user, task.seccomp, report)
