"""A further process inside a running container (``exec``, health checks).

The monitor has forked it into the container's pid namespace already; it joins the rest here.
"""

from __future__ import annotations

import os
from typing import NoReturn, cast

from core.kernel import process
from core.runtime import finish, terminal
from core.runtime.defaults import Json
from core.runtime.task import ExecTask, Report
from core.runtime.user import USER_ANNOTATION

_JOIN = (
    process.CLONE_NEWNS | process.CLONE_NEWUTS | process.CLONE_NEWIPC | process.CLONE_NEWNET | process.CLONE_NEWCGROUP
)


def join(task: ExecTask) -> NoReturn:
    """Run the command inside. Never returns; a failure goes to the monitor."""
    report = Report(task.report)
    try:
        finish.guard(report)
        _join(task, report)
    except BaseException as error:
        report.fail(error)


def _join(task: ExecTask, report: Report) -> NoReturn:
    own = task.process
    os.setsid()
    # The cgroup first, by its path on the host, and before the device rules could be escaped.
    report.at("entering the cgroup")
    task.enter_cgroup()
    # Every descriptor of the host goes before the container can see this process at all (CVE-2016-9962).
    finish.keep_only(task.stdio, {task.report, task.pidfd})
    report.at("joining namespaces")
    process.setns(task.pidfd, _JOIN)
    os.close(task.pidfd)
    if task.stdio is None:
        report.at("making the terminal")
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.close(terminal.take(terminal.open_master(root, "dev/pts/ptmx"), own, report))
        os.close(root)
    finish.new_session_keyring(report)
    report.at("looking up the user")
    user = finish.who(own, str(cast(Json, own.get("annotations", {})).get(USER_ANNOTATION, "")))
    report.at("working directory")
    finish.enter_folder(str(own["cwd"]), make=False)
    report.at("setting limits")
    finish.set_limits(own)
    if task.stdio is None:
        os.fchown(0, user.uid, os.fstat(0).st_gid)
    finish.become(own, user, task.seccomp, report)
