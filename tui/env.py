"""What kind of terminal this is, decided before Textual is imported (it reads its settings at import).

Nothing here imports Textual, so the first frame need not wait for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from io import TextIOWrapper
from typing import Literal

from core.errors import Unsupported, WharfError

Colors = Literal["truecolor", "256", "16", "none"]

_TRUECOLOR_TERMS = ("-direct", "kitty", "alacritty", "wezterm", "ghostty", "foot", "iterm2", "contour", "rio")
_SIXTEEN_TERMS = frozenset({"linux", "xterm", "xterm-color", "screen", "rxvt", "cygwin", "ansi", "vt220", "vt340"})
_NO_GLYPH_TERMS = frozenset({"linux", "ansi", "vt100", "vt102", "vt220", "cons25"})


@dataclass(frozen=True)
class Terminal:
    """What is known of the terminal without asking it."""

    term: str
    colors: Colors
    unicode: bool  # can show box drawing, braille and arrows
    ssh: bool
    tmux: bool
    no_color: bool
    interactive: bool  # input and output are both a terminal


def detect(
    environ: Mapping[str, str] | None = None,
    *,
    stdin_tty: bool | None = None,
    stdout_tty: bool | None = None,
    encoding: str | None = None,
) -> Terminal:
    """Read the environment and the standard streams (each can be given, for another terminal than ours)."""
    environ = os.environ if environ is None else environ
    stdin_tty = _is_tty(0) if stdin_tty is None else stdin_tty
    stdout_tty = _is_tty(1) if stdout_tty is None else stdout_tty
    term = environ.get("TERM", "")
    # https://no-color.org: present and not empty
    no_color = bool(environ.get("NO_COLOR"))
    return Terminal(
        term=term,
        colors="none" if no_color else _colors(term, environ),
        unicode=term not in _NO_GLYPH_TERMS and _speaks_utf8(environ, encoding),
        ssh=any(environ.get(name) for name in ("SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY")),
        tmux=bool(environ.get("TMUX") or environ.get("STY")) or term.startswith(("tmux", "screen")),
        no_color=no_color,
        interactive=stdin_tty and stdout_tty,
    )


def _is_tty(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def _colors(term: str, environ: Mapping[str, str]) -> Colors:
    if environ.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        return "truecolor"
    if any(name in term for name in _TRUECOLOR_TERMS):
        return "truecolor"
    if "256" in term:
        return "256"
    return "16" if term in _SIXTEEN_TERMS or term.startswith(("vt", "screen.", "rxvt")) else "256"


def _speaks_utf8(environ: Mapping[str, str], encoding: str | None) -> bool:
    """True where the terminal can be expected to read UTF-8.

    The locale's own word counts where there is one. Without any (``LANG=C``, common over SSH and in minimal
    containers) terminals of today read UTF-8 all the same, unless the stream was explicitly given another encoding.
    """
    locale = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG") or ""
    if "." in locale:
        return locale.partition(".")[2].lower().replace("-", "").startswith("utf8")
    if encoding is not None:
        return encoding.lower().replace("-", "").startswith("utf8")
    return True


def refusal(terminal: Terminal) -> WharfError | None:
    """Why the workstation cannot run here; ``None`` where it can."""
    if not terminal.interactive:
        return Unsupported(
            "the workstation needs a terminal",
            "standard input or output is a pipe or a file",
            "Run it in a terminal, or use a command: wharf ps, wharf --help",
        )
    if terminal.term in ("", "dumb", "unknown"):
        shown = terminal.term or "not set"
        return Unsupported(
            f"the workstation cannot draw on this terminal (TERM is {shown})",
            "it has no cursor movement",
            "Set TERM to what the terminal really is (often xterm-256color), or use a command: wharf ps, wharf --help",
        )
    return None


def prepare(terminal: Terminal, environ: MutableMapping[str, str] | None = None) -> None:
    """Set what Textual reads at its import, and make the output UTF-8. What the user has set stays."""
    environ = os.environ if environ is None else environ
    wanted = {"TEXTUAL_COLOR_SYSTEM": {"16": "standard", "none": "standard"}.get(terminal.colors, terminal.colors)}
    # Animations repaint many times for one change; over a slow line each is a stall.
    wanted["TEXTUAL_ANIMATIONS"] = "none"
    if terminal.ssh:
        # An escape sequence may arrive in pieces: wait longer before a lone ESC counts as the key.
        wanted["ESCDELAY"] = "200"
        # Pixel-wise mouse reports are many times the traffic.
        wanted["TEXTUAL_SMOOTH_SCROLL"] = "0"
    for name, value in wanted.items():
        environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")
