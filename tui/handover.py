"""Hand the whole terminal to a container's session, and take it back.

The workstation is suspended meanwhile: the terminal is in raw mode, so ctrl+c, ctrl+z and the like reach the process
inside. A session without a terminal of its own (attach to plain streams) goes line by line, edited and echoed by the
terminal as in any program that reads lines; ctrl+c leaves it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import tty
from collections.abc import Iterable, Sequence

from textual import events
from textual.message import Message

from core.engine import Engine, Session
from core.errors import CommandNotExecutable, CommandNotFound, NotFound, WharfError
from core.model import ExecSpec

DETACH = b"\x10\x11"  # ctrl+p ctrl+q, Docker's own
SHELLS = ("bash", "ash", "sh")


async def open_shell(engine: Engine, cid: str, name: str, shells: Sequence[str] = SHELLS) -> Session:
    """A shell with a terminal: the first of ``shells`` that the image has.

    :raises NotFound: it has none
    """
    term = os.environ.get("TERM", "xterm")
    for shell in shells:
        spec = ExecSpec((shell,), tty=True, stdin=True, env=(f"TERM={term}",))
        try:
            return await engine.exec(cid, spec)
        except (CommandNotFound, CommandNotExecutable):
            continue
    raise NotFound(
        f"{name} has no shell",
        f"none of {', '.join(shells)} is in its image",
        "Such images hold the program only: look at the log (l) and the details (i)",
    )


_SEQUENCES = {
    "up": b"\x1b[A",
    "down": b"\x1b[B",
    "right": b"\x1b[C",
    "left": b"\x1b[D",
    "home": b"\x1b[H",
    "end": b"\x1b[F",
    "delete": b"\x1b[3~",
    "pageup": b"\x1b[5~",
    "pagedown": b"\x1b[6~",
}  # as xterm sends them (ctlseqs, "PC-Style Function Keys")


def as_typed(read: Iterable[Message]) -> bytes:
    """The bytes of keys that the workstation had read already when the terminal went to somebody else."""
    typed = b""
    for event in read:
        if isinstance(event, events.Paste):
            typed += event.text.encode()
        elif isinstance(event, events.Key):
            typed += event.character.encode() if event.character else _SEQUENCES.get(event.key, b"")
    return typed


class _Detach:
    """Finds the detach keys in what is typed; gives on all that does not belong to them."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """What to send on, and whether the keys were pressed."""
        typed = self._held + typed
        at = typed.find(self._keys)
        if at >= 0:
            return typed[:at], True
        # The first keys of the sequence are held back until it is known whether the rest follows.
        self._held = b""
        for length in range(len(self._keys) - 1, 0, -1):
            if typed.endswith(self._keys[:length]):
                self._held = typed[-length:]
                return typed[:-length], False
        return typed, False


class Bridge:
    """Copies between this process's terminal and a session until either ends."""

    def __init__(self, session: Session, *, detach: bytes = DETACH, typed: bytes = b"") -> None:
        """``typed``: what was typed ahead, for the session."""
        self._session = session
        self._detach = _Detach(detach)
        self._typed: asyncio.Queue[bytes | None] = asyncio.Queue()  # None: ctrl+c
        self._ahead = typed
        self._sizes: set[asyncio.Task[None]] = set()

    async def run(self) -> WharfError | None:
        """Copy until the end. Returns an error and does not raise it: the caller must take the terminal back first."""
        loop = asyncio.get_running_loop()
        saved, interrupt = termios.tcgetattr(0), signal.getsignal(signal.SIGINT)
        if self._session.tty:
            tty.setraw(0)
        else:
            _set_lines()
            loop.add_signal_handler(signal.SIGINT, self._typed.put_nowait, None)
        self._type_ahead()
        loop.add_reader(0, self._readable)
        loop.add_signal_handler(signal.SIGWINCH, self._resized)
        try:
            self._resized()
            await self._copy()
        except WharfError as error:
            return error
        except OSError as error:
            return WharfError("the terminal went away", str(error))
        finally:
            # Textual puts its own handler for SIGWINCH back when it resumes.
            loop.remove_signal_handler(signal.SIGWINCH)
            loop.remove_reader(0)
            if not self._session.tty:
                loop.remove_signal_handler(signal.SIGINT)
                signal.signal(signal.SIGINT, interrupt)
            termios.tcsetattr(0, termios.TCSADRAIN, saved)
            with contextlib.suppress(WharfError, OSError):
                await self._session.close()
        return None

    async def _copy(self) -> None:
        output = asyncio.create_task(self._output(), name="handover output")
        typed = asyncio.create_task(self._input(), name="handover input")
        try:
            done, _ = await asyncio.wait({output, typed}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (output, typed):
                task.cancel()
            await asyncio.gather(output, typed, return_exceptions=True)

    def _type_ahead(self) -> None:
        if not self._ahead:
            return
        if self._session.tty:
            self._typed.put_nowait(self._ahead)
            return
        # Nobody has echoed and edited it: it is given as it is, up to what would have ended it.
        line, interrupt, _ = self._ahead.replace(b"\r", b"\n").partition(b"\x03")
        _write_all(line)
        self._typed.put_nowait(line)
        if interrupt:
            self._typed.put_nowait(None)

    def _readable(self) -> None:
        typed = os.read(0, 65536)
        if not typed and self._session.tty:
            asyncio.get_running_loop().remove_reader(0)  # the terminal went away
        self._typed.put_nowait(typed)

    async def _input(self) -> None:
        while (typed := await self._typed.get()) is not None:
            if not typed:
                if self._session.tty:
                    return
                await self._session.close_stdin()  # ctrl+d on an empty line; what it still writes is shown
                continue
            wanted, leave = self._detach.feed(typed)
            if wanted:
                await self._session.write(wanted)
            if leave:
                return

    async def _output(self) -> None:
        while (chunk := await self._session.read()) is not None:
            # Off the event loop: a slow link must not keep the keys (ctrl+c) from being read.
            await asyncio.to_thread(_write_all, chunk[1])

    def _resized(self) -> None:
        if not self._session.tty:
            return
        size = os.get_terminal_size(0)
        task = asyncio.create_task(self._session.resize(size.lines, size.columns))
        self._sizes.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._sizes.discard(task)
        if not task.cancelled():
            task.exception()  # seen: a session that has just ended cannot be resized, and need not be


def _set_lines() -> None:
    """The terminal reads lines. ctrl+z and ctrl+\\ do nothing: both would end or stop the workstation."""
    mode = termios.tcgetattr(0)
    mode[0] |= termios.ICRNL
    mode[1] |= termios.OPOST | termios.ONLCR
    mode[3] |= termios.ICANON | termios.ECHO | termios.ECHOE | termios.ISIG | termios.IEXTEN
    for key in (termios.VSUSP, termios.VQUIT):
        mode[6][key] = b"\x00"  # _POSIX_VDISABLE of Linux, termios(3)
    termios.tcsetattr(0, termios.TCSADRAIN, mode)


def _write_all(data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(1, left) :]


def announce(title: str, way_back: str) -> None:
    """One quiet line at the top: where the user is, and how to come back.

    What stood on the terminal is scrolled away and not erased: it can still be scrolled back to.
    """
    sys.stdout.write("\n" * (os.get_terminal_size(0).lines - 1) + "\x1b[H")
    sys.stdout.write(f"\x1b[2m── {title} · {way_back} ──\x1b[0m\r\n")
    sys.stdout.flush()
