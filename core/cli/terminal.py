"""Between our own standard streams and a :class:`Session`: raw mode, resizing, signals, detach keys.

Whatever happens, the terminal is put back as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import threading
import tty
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

from core.errors import InvalidArgument, WharfError

if TYPE_CHECKING:
    from core.engine import Session

DETACH = "ctrl-p,ctrl-q"
_CHUNK = 4096  # PIPE_BUF: a pipe that poll calls writable takes so much without blocking

# Not given on to the container: those that are about this process, and those that cannot be caught.
_OURS = {"SIGCHLD", "SIGCLD", "SIGPIPE", "SIGWINCH", "SIGURG", "SIGKILL", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU"}
_OURS |= {"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGIOT", "SIGTRAP", "SIGSYS", "SIGPROF", "SIGVTALRM"}

Forward = Callable[[str], Awaitable[None]]  # sends a signal, by name, to where it belongs


def check_input(*, stdin: bool, terminal: bool) -> None:
    """:raises InvalidArgument: a terminal is asked for, but standard input is none"""
    if stdin and terminal and not os.isatty(0):
        raise InvalidArgument(
            "standard input is not a terminal", "-t with -i needs one", "Leave out -t, or run it from a terminal"
        )


def parse_keys(text: str) -> bytes:
    """``ctrl-p,ctrl-q`` or ``a,b`` as the bytes a terminal sends; empty text: no keys.

    :raises InvalidArgument: a key that is not a letter or ctrl- and one of ``a``-``z @ [ \\ ] ^ _``
    """
    keys = bytearray()
    for word in filter(None, text.split(",")):
        control = word.lower().removeprefix("ctrl-")
        if word.lower().startswith("ctrl-") and len(control) == 1 and 64 <= ord(control.upper()) <= 95:
            keys.append(ord(control.upper()) - 64)
        elif len(word) == 1 and word.isascii():
            keys.append(ord(word))
        else:
            raise InvalidArgument(f"invalid detach key {word!r}", "it is not a letter or ctrl-LETTER", "Say ctrl-x")
    return bytes(keys)


class DetachFinder:
    """Finds the detach keys in what is typed; gives on all that does not belong to them."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""  # a beginning of the keys: held back until it is known whether the rest follows

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """What to send on, and whether the keys are complete."""
        if not self._keys:
            return typed, False
        typed = self._held + typed
        at = typed.find(self._keys)
        if at >= 0:
            return typed[:at], True
        held = next((n for n in range(len(self._keys) - 1, 0, -1) if typed.endswith(self._keys[:n])), 0)
        self._held = typed[len(typed) - held :]
        return typed[: len(typed) - held], False


@contextlib.contextmanager
def raw_terminal(wanted: bool) -> Iterator[bool]:
    """Standard input in raw mode for the block, where it is a terminal; yields whether it is."""
    if not wanted or not os.isatty(0):
        yield False
        return
    saved = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)  # not FLUSH: what was typed ahead is meant for the container
    try:
        yield True
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)


class Bridge:
    """Copies between our standard streams and a session until the session ends, or the detach keys are typed.

    :param stdin: read standard input
    :param streams: which of ``stdout`` and ``stderr`` to show
    :param forward: where signals go that reach us; None: they end us as usual
    """

    def __init__(
        self,
        session: Session,
        *,
        stdin: bool,
        streams: tuple[str, ...] = ("stdout", "stderr"),
        keys: bytes = b"",
        forward: Forward | None = None,
    ) -> None:
        self._session = session
        self._stdin = stdin
        self._streams = streams
        self._finder = DetachFinder(keys if session.tty else b"")
        self._forward = forward
        self._loop = asyncio.get_running_loop()
        self._detached: asyncio.Future[None] = self._loop.create_future()
        self._sent: set[asyncio.Task[None]] = set()

    async def run(self) -> int | None:
        """The exit code where the session ended, None where the user detached. The session is closed then.

        :raises Unavailable: the session broke off; the process in it may still run
        """
        with contextlib.ExitStack() as stack:
            raw = stack.enter_context(raw_terminal(self._session.tty and self._stdin))
            # With a raw terminal ctrl+c is a byte for the container; a signal then is for us: leave, tidily.
            self._catch_signals(stack, self._leave_by if raw else self._pass_on)
            if self._session.tty and os.isatty(1):
                stack.callback(self._loop.remove_signal_handler, signal.SIGWINCH)
                self._loop.add_signal_handler(signal.SIGWINCH, self._resize)
                self._resize()
            if self._stdin:
                # A daemon thread: a read from a file or terminal cannot be broken off, and must not hold up the end.
                threading.Thread(target=self._read_stdin, name="stdin", daemon=True).start()
            output = asyncio.create_task(self._copy_output())
            try:
                await asyncio.wait({output, self._detached}, return_when=asyncio.FIRST_COMPLETED)
                if self._detached.done():
                    self._detached.result()
                    return None
                output.result()
                return await self._session.wait()
            finally:
                output.cancel()
                await asyncio.gather(output, return_exceptions=True)
                await self._session.close()

    # -- output ---------------------------------------------------------------------------------------------------
    async def _copy_output(self) -> None:
        numbers = {"stdout": 1, "stderr": 2}
        while (chunk := await self._session.read()) is not None:
            stream, data = chunk
            if stream in self._streams:
                await write_all(1 if self._session.tty else numbers[stream], data)

    # -- input ----------------------------------------------------------------------------------------------------
    def _read_stdin(self) -> None:
        with contextlib.suppress(OSError, RuntimeError, WharfError):  # the loop or the session has ended meanwhile
            while typed := os.read(0, 65536):
                wanted, leave = self._finder.feed(typed)
                if wanted:
                    # Waited for: what the container does not read must not pile up here.
                    asyncio.run_coroutine_threadsafe(self._session.write(wanted), self._loop).result()
                if leave:
                    self._loop.call_soon_threadsafe(self._leave)
                    return
            if not self._session.tty:
                asyncio.run_coroutine_threadsafe(self._session.close_stdin(), self._loop).result()

    def _leave(self, error: BaseException | None = None) -> None:
        if self._detached.done():
            return
        if error:
            self._detached.set_exception(error)
        else:
            self._detached.set_result(None)

    # -- signals --------------------------------------------------------------------------------------------------
    def _catch_signals(self, stack: contextlib.ExitStack, handler: Callable[[signal.Signals], object]) -> None:
        if self._forward is None:
            return
        for one in signal.Signals:
            if one.name not in _OURS:
                with contextlib.suppress(ValueError, RuntimeError, OSError):
                    self._loop.add_signal_handler(one, handler, one)
                    stack.callback(self._loop.remove_signal_handler, one)

    def _pass_on(self, one: signal.Signals) -> None:
        self._spawn(self._send(one.name))

    async def _send(self, name: str) -> None:
        assert self._forward is not None
        with contextlib.suppress(WharfError):  # it has just ended
            await self._forward(name.removeprefix("SIG"))

    def _leave_by(self, one: signal.Signals) -> None:
        self._leave(SystemExit(128 + one))

    def _resize(self) -> None:
        size = shutil.get_terminal_size()
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(1)
        self._spawn(self._tell_size(size.lines, size.columns))

    async def _tell_size(self, rows: int, columns: int) -> None:
        with contextlib.suppress(WharfError, OSError):
            await self._session.resize(rows, columns)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._sent.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._sent.discard)


async def write_all(fd: int, data: bytes) -> None:
    """Write to one of our streams without ever blocking the event loop (a reader like ``less`` may stop for hours).

    :raises BrokenPipeError: the reader has gone
    """
    view = memoryview(data)
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    while view:
        if poller.poll(0):
            view = view[os.write(fd, view[:_CHUNK]) :]
        else:
            await _writable(fd)


async def _writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(fd)


def flush_stdio() -> None:
    """Before raw writes to the descriptors: what was printed so far comes first."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
