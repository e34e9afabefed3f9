"""In the foreground: the caller's terminal is the container's, its signals are passed on, its end is ours."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import termios
import tty
from collections.abc import Iterator
from typing import cast

from core.errors import InvalidArgument
from core.runtime.defaults import Json

_CHUNK = 65536
_OURS = (signal.SIGCHLD, signal.SIGWINCH, signal.SIGPIPE, signal.SIGURG)


def stay(pid: int, master: int | None) -> int:
    """Until the child ``pid`` has ended.

    :param master: its terminal, if it has one that is ours to show
    :returns: its exit code, 128 + signal where one ended it
    """
    if master is not None:
        with _raw():
            _pump(master, pid)
        os.close(master)
    while True:
        ended, status = os.waitpid(-1, 0)  # we may be a subreaper: whatever ends is reaped
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def refuse_no_terminal(config: Json, socket: str) -> None:
    """In the foreground the container's terminal is ours: there has to be one.

    :raises InvalidArgument:
    """
    if cast(Json, config.get("process") or {}).get("terminal") and not socket and not any(map(os.isatty, range(3))):
        raise InvalidArgument(
            "cannot show the container's terminal",
            "process.terminal is true, and standard input is no terminal",
            "Set it to false, or give --console-socket",
        )


@contextlib.contextmanager
def passing_signals(pid: int, master: int | None) -> Iterator[None]:
    """What is sent to us is meant for the command; from before it runs, so that none is lost."""

    def pass_on(signo: int, frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signo)

    def resize(signo: int, frame: object) -> None:
        if master is not None:
            _copy_size(master)

    before: dict[signal.Signals, object] = {}
    for signo in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, *_OURS}:
        with contextlib.suppress(OSError, ValueError):
            before[signal.Signals(signo)] = signal.signal(signo, pass_on)
    before[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, resize)
    if master is not None:
        _copy_size(master)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def _copy_size(master: int) -> None:
    with contextlib.suppress(OSError):  # our input may be no terminal
        fcntl.ioctl(master, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """Our own terminal, if it is one, passes every key on."""
    if not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _pump(master: int, pid: int) -> None:
    """Bytes both ways until nobody has the terminal open any more, or its process has ended and all is shown."""
    os.set_blocking(master, False)  # else input that the command does not read would hold up its output
    poll = select.poll()
    poll.register(master, select.POLLIN)
    poll.register(0, select.POLLIN)
    pidfd = os.pidfd_open(pid)
    poll.register(pidfd, select.POLLIN)
    rest = b""  # input that the terminal has no room for; until it has, no more is read
    try:
        while True:
            ready = dict(poll.poll())
            if ready.get(master, 0) & ~select.POLLOUT:
                if _show(master) is None:
                    return
            elif pidfd in ready:
                while _show(master):  # it was looked at before the process: since then there may have come a last word
                    pass
                return
            if 0 in ready:
                rest = os.read(0, _CHUNK)
                poll.unregister(0)
                if not rest:
                    continue
            elif master not in ready or not rest:
                continue
            rest = _give(master, rest)
            poll.modify(master, select.POLLIN | (select.POLLOUT if rest else 0))
            if not rest:
                poll.register(0, select.POLLIN)
    finally:
        os.close(pidfd)


def _show(master: int) -> int | None:
    """What the terminal holds goes to our output. :returns: its length; None where nobody has its other side open"""
    try:
        data = os.read(master, _CHUNK)
    except BlockingIOError:
        return 0
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(1, rest) :]
    return len(data)


def _give(master: int, data: bytes) -> bytes:
    """:returns: what there is no room for"""
    try:
        return data[os.write(master, data) :]
    except BlockingIOError:
        return data
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""
