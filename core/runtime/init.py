"""The container's first process, from the fork to the exec. Every step's place in the order has its reason.

It is forked by the monitor into a new pid namespace, so it is pid 1 there. Nothing is imported here after the fork:
an import would cost time, and once inside it would load files of the image.
"""

from __future__ import annotations

import os
import signal
from typing import NoReturn, cast

from core.kernel import caps, libc, mount, process, resolve
from core.runtime import finish, rootfs, terminal
from core.runtime.defaults import Json
from core.runtime.spec import INIT_ANNOTATION
from core.runtime.task import NAMESPACES, InitTask, Report
from core.runtime.user import USER_ANNOTATION


def run(task: InitTask) -> NoReturn:
    """Become the container. Never returns; a failure goes to the monitor."""
    report = Report(task.report)
    try:
        finish.guard(report)
        _start(task, report)
    except BaseException as error:
        report.fail(error)


def _start(task: InitTask, report: Report) -> NoReturn:
    config = task.config
    own = cast(Json, config["process"])
    os.setsid()
    os.umask(0o022)  # the launcher's would make folders that the user cannot enter
    # First the cgroup: whatever is allocated from now on is charged to it, and the cgroup namespace that is
    # unshared next has it as its root.
    report.at("entering the cgroup")
    task.enter_cgroup()
    _namespaces(task, report)
    # Before anything of the image is touched: no descriptor of the host is left but the two we need.
    finish.keep_only(task.stdio, {task.report})
    tree = rootfs.Tree(task, report)
    rootfs.with_umask(0, tree.build)
    report.at("setting the host name")
    process.set_hostname(str(config.get("hostname", "")))
    if config.get("domainname"):
        process.set_domainname(str(config["domainname"]))
    if task.stdio is None:
        _terminal(tree, own, report)
    report.at("entering the root")
    _leave_host(tree)
    finish.new_session_keyring(report)
    report.at("looking up the user")
    user = finish.who(own, str(cast(Json, config.get("annotations", {})).get(USER_ANNOTATION, "")))
    # As root, and before the root becomes read-only: the folder may have to be made.
    report.at("working directory")
    finish.enter_folder(str(own["cwd"]), make=True)
    if cast(Json, config["root"]).get("readonly"):
        tree.make_readonly_root()
    libc.close_all_but({0, 1, 2, task.report})
    finish.own_stdio(user)
    report.at("setting limits")
    finish.set_limits(own)
    if cast(Json, config.get("annotations", {})).get(INIT_ANNOTATION) == "true":
        _stay_as_reaper(task.stdio is None, report)
    finish.become(own, user, task.seccomp, report)


def _namespaces(task: InitTask, report: Report) -> None:
    flags = 0
    report.at("joining namespaces")
    linux = cast(Json, task.config["linux"])
    for entry in cast("list[Json]", linux["namespaces"]):
        kind, path = str(entry["type"]), entry.get("path")
        if kind == "network" and task.netns is not None:
            process.setns(task.netns, process.CLONE_NEWNET)
        elif kind in NAMESPACES and path:
            fd = os.open(str(path), os.O_RDONLY | os.O_CLOEXEC)
            process.setns(fd, NAMESPACES[kind])
            os.close(fd)
        elif kind in NAMESPACES:
            flags |= NAMESPACES[kind]
    report.at("making namespaces")
    process.unshare(flags)


def _terminal(tree: rootfs.Tree, own: Json, report: Report) -> None:
    """Make the terminal in the container's devpts, and /dev/console from it."""
    report.at("making the terminal")
    master = terminal.open_master(tree.special["/dev/pts"], "ptmx")
    slave = terminal.take(master, own, report)
    terminal.control()
    dev = tree.special["/dev"]
    os.close(os.open("console", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o620, dir_fd=dev))
    place = resolve.open_in_root(dev, "console", os.O_PATH | os.O_NOFOLLOW, resolve=resolve.BENEATH)
    console = mount.clone_tree(slave)
    mount.attach(console, place)
    for fd in (console, place, slave):
        os.close(fd)


def _leave_host(tree: rootfs.Tree) -> None:
    mount.pivot_root(tree.root)
    # The root was a slave of the host's mounts while it was built; inside, nothing comes in any more.
    mount.set_root_propagation(mount.MS_PRIVATE)


def _stay_as_reaper(tty: bool, report: Report) -> None:
    """``--init``: the child returns from here and becomes the command; this process stays as pid 1.

    It forwards signals to the command, reaps every orphan, and ends with the command's status. It keeps only
    CAP_KILL, stays undumpable, and holds no descriptor.
    """
    report.at("starting the reaper")
    every = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    signal.pthread_sigmask(signal.SIG_BLOCK, every)
    child = os.fork()
    if child == 0:
        process.set_death_signal(signal.SIGKILL)
        if tty:
            # Its own foreground group, so that the terminal's signals reach the command only.
            os.setpgid(0, 0)
            os.tcsetpgrp(0, os.getpid())  # SIGTTOU is still blocked
        signal.pthread_sigmask(signal.SIG_UNBLOCK, every)
        return
    process.set_death_signal(0)
    process.set_title("wharf-init")  # the launcher's command line names folders of the host
    caps.limit_bounding(0)
    caps.set_process(1 << caps.NUMBERS["CAP_KILL"], 1 << caps.NUMBERS["CAP_KILL"], 0)
    libc.close_range(0)
    _reap(child, every)


def _reap(child: int, every: set[signal.Signals]) -> NoReturn:
    ignored = (signal.SIGTTIN, signal.SIGTTOU, signal.SIGTSTP)
    while True:
        signo = signal.sigwait(every)
        if signo != signal.SIGCHLD:
            if signo not in ignored:
                os.kill(child, signo)
            continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else 128 - code)
