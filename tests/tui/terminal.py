"""The workstation as a user has it: the program in a process of its own, on a pseudo-terminal with an emulator."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pyte

from tests.patience import patience

HOUSE = Path(__file__).resolve().parents[2]


class Terminal:
    """``wharf`` on a terminal of ``columns`` and ``lines``; answers what a terminal is asked."""

    def __init__(self, env: dict[str, str], columns: int = 120, lines: int = 30) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = bytearray()
        self.closed = False
        self.fd, inner = os.openpty()
        self._size(columns, lines)
        settings = {"TERM": "xterm-256color", "LANG": "C.UTF-8", "COLORTERM": "truecolor"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tui"],
            cwd=HOUSE,
            env={key: value for key, value in env.items() if key != "NO_COLOR"} | settings,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            preexec_fn=_own_terminal,
        )
        os.close(inner)
        asyncio.get_running_loop().add_reader(self.fd, self._read)

    def _size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _read(self) -> None:
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # EIO: the program has ended
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self.fd)
            os.close(self.fd)
            self.closed = True
            return
        self.raw += data
        for question, answer in ((b"\x1b[6n", b"\x1b[1;1R"), (b"\x1b[?2026$p", b"\x1b[?2026;2$y")):
            for _ in range(data.count(question)):
                os.write(self.fd, answer)
        # The emulator knows no alternate screen: with each change from one to the other it begins empty.
        for part in re.split(rb"(?<=\x1b\[\?1049[hl])", data):
            self._stream.feed(part)
            if part.endswith((b"\x1b[?1049h", b"\x1b[?1049l")):
                self.screen.reset()

    def resize(self, columns: int, lines: int) -> None:
        """As a user who pulls the window's edge."""
        self.screen.resize(lines, columns)
        self._size(columns, lines)

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    @property
    def shown(self) -> str:
        """The text on the screen."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    async def until(self, true: str | Callable[[], bool], seconds: float = 30.0) -> None:
        """Wait for words on the screen, or until something holds."""
        holds = (lambda: true in self.shown) if isinstance(true, str) else true
        end = asyncio.get_running_loop().time() + patience(seconds)
        while not holds():
            assert asyncio.get_running_loop().time() < end, f"waited for {true!r}\n{self.shown}"
            await asyncio.sleep(0.02)

    async def end(self) -> int:
        """Quit, and wait; the exit code. Once it has ended: the same code again."""
        if self.closed:
            return self.process.wait()
        limit = asyncio.get_running_loop().time() + patience(20)
        if self.process.poll() is None:
            self.type("\x11")
        while self.process.poll() is None and asyncio.get_running_loop().time() < limit:
            await asyncio.sleep(0.02)
        if self.process.poll() is None:
            self.process.kill()
        code = self.process.wait()
        while not self.closed:
            self._read()
        return code


def _own_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
