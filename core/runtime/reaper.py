"""``--init``: a small pid 1 of our own, which forwards signals and reaps."""

from __future__ import annotations

import os
import signal
from typing import NoReturn, cast

from core.kernel import caps, libc, process
from core.kernel.bpf import FILTER_NEW_LISTENER, FILTER_WAIT_KILLABLE_RECV, install_filter
from core.runtime.defaults import INIT_ANNOTATION, Json
from core.runtime.task import Filter, Report


def wanted(config: Json) -> bool:
    """Does the container ask for it?"""
    return cast(Json, config.get("annotations") or {}).get(INIT_ANNOTATION) == "true"


def stay(tty: bool, no_new_privs: bool, seccomp: Filter, report: Report) -> None:
    """The child returns from here and becomes the command; this process stays as pid 1.

    It forwards signals to the command, reaps every orphan, and ends with the command's status. It keeps only
    CAP_KILL, stays undumpable, holds no descriptor, and is under the command's filter: with CAP_SYS_PTRACE the command
    could have it do what itself may not.
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
    libc.close_range(0)
    if no_new_privs:
        process.set_no_new_privs()
    if seccomp.program:
        # Without a listener of its own: a call that an agent would have to answer is one that does not exist here.
        install_filter(seccomp.program, seccomp.flags & ~(FILTER_NEW_LISTENER | FILTER_WAIT_KILLABLE_RECV))
    caps.limit_bounding(0)
    caps.set_process(1 << caps.NUMBERS["CAP_KILL"], 1 << caps.NUMBERS["CAP_KILL"], 0)
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
