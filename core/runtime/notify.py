"""Putting a process under its compiled filter, and handing out the listener that answers for it.

A rule with SCMP_ACT_NOTIFY makes the kernel ask a *listener*, a descriptor that seccomp(2) returns to the process
which installs the filter (seccomp_unotify(2)). That process is inside the container by then, and the socket of whoever
shall answer is a path outside. So the descriptor travels twice: from here to the parent, over the line that all
reports take, and from there to the agent (:mod:`core.supervise.listener`).

Between the two calls seccomp(2) and sendmsg(2) there is nobody who answers. Everything is therefore made ready before
the first, and a profile cannot ask for notification of sendmsg (``core.runtime.seccomp_policy``).
"""

from __future__ import annotations

import array
import os
import socket
import struct

from core.errors import StartFailed
from core.kernel import bpf
from core.runtime.task import LISTENER, Filter, Report

_MAGIC = b"WSF1"


def pack(program: bytes, flags: int) -> bytes:
    """A compiled filter as it is kept in a file: a mark, SECCOMP_FILTER_FLAG_*, the program."""
    return _MAGIC + struct.pack("=I", flags) + program


def unpack(compiled: bytes) -> Filter:
    """:raises StartFailed: it is not what :func:`pack` makes"""
    if compiled[:4] != _MAGIC or len(compiled) < 16 or len(compiled) % 8:
        raise StartFailed("cannot read the compiled seccomp filter", "its file is damaged", step="seccomp")
    return Filter(compiled[8:], int(struct.unpack_from("=I", compiled, 4)[0]))


def install(seccomp: Filter, report: Report) -> None:
    """Put this process under the filter for good; send the listener, if there is one, over ``report``'s line.

    :raises OSError: the kernel refuses the filter
    :raises StartFailed: the filter itself forbids sending the listener
    """
    if not seccomp.flags & bpf.FILTER_NEW_LISTENER:
        bpf.install_filter(seccomp.program, seccomp.flags)
        return
    line = socket.socket(fileno=report.fd)
    rights = array.array("i", [-1])
    message = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
    listener = bpf.install_filter(seccomp.program, seccomp.flags)
    assert listener is not None
    rights[0] = listener
    try:
        line.sendmsg([LISTENER], message)
    except OSError as error:
        raise StartFailed(
            "cannot hand over the seccomp listener",
            f"sendmsg: {error.strerror}; the filter is in force already",
            "Let the profile allow sendmsg",
            step="seccomp",
        ) from error
    finally:
        line.detach()
    # A copy here would keep the kernel waiting for an agent that has died, instead of answering ENOSYS.
    os.close(listener)
