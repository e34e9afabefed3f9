"""What is known of a terminal before asking it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from core.errors import Unsupported
from tests.patience import patience
from tui.env import detect, prepare, refusal


def seen(**environ: str):
    return detect(environ, stdin_tty=True, stdout_tty=True, encoding="utf-8")


@pytest.mark.parametrize(
    ("environ", "colors"),
    [
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, "truecolor"),
        ({"TERM": "xterm-256color"}, "256"),
        ({"TERM": "xterm-kitty"}, "truecolor"),
        ({"TERM": "linux"}, "16"),
        ({"TERM": "xterm"}, "16"),
        ({"TERM": "vt220"}, "16"),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, "none"),
        ({"TERM": "xterm-256color", "NO_COLOR": ""}, "256"),
    ],
)
def test_colors(environ: dict[str, str], colors: str) -> None:
    assert seen(**environ).colors == colors


def test_glyphs() -> None:
    assert seen(TERM="xterm-256color", LANG="en_US.UTF-8").unicode
    assert seen(TERM="xterm-256color", LANG="C").unicode
    assert not seen(TERM="xterm-256color", LANG="de_DE.ISO-8859-1").unicode
    assert not seen(TERM="linux", LANG="C.UTF-8").unicode
    assert not detect({"TERM": "xterm", "LANG": "C"}, stdin_tty=True, stdout_tty=True, encoding="ascii").unicode


def test_ssh_and_tmux() -> None:
    there = seen(TERM="tmux-256color", SSH_CONNECTION="10.0.0.1 1 10.0.0.2 22", TMUX="/tmp/x")
    assert there.ssh
    assert there.tmux
    assert not seen(TERM="xterm").ssh


def test_refusals() -> None:
    assert refusal(seen(TERM="xterm")) is None
    for term in ("dumb", "", "unknown"):
        error = refusal(seen(TERM=term))
        assert isinstance(error, Unsupported)
        assert "TERM" in str(error)
        assert error.fix
    piped = refusal(detect({"TERM": "xterm"}, stdin_tty=True, stdout_tty=False))
    assert piped is not None
    assert "terminal" in piped.what


def test_prepare_keeps_what_the_user_set() -> None:
    environ = {"ESCDELAY": "50"}
    prepare(seen(TERM="xterm-256color", SSH_TTY="/dev/pts/0"), environ)
    assert environ["ESCDELAY"] == "50"
    assert environ["TEXTUAL_SMOOTH_SCROLL"] == "0"
    assert environ["TEXTUAL_COLOR_SYSTEM"] == "256"
    local: dict[str, str] = {}
    prepare(seen(TERM="linux"), local)
    assert "ESCDELAY" not in local
    assert local["TEXTUAL_COLOR_SYSTEM"] == "standard"


def test_detecting_does_not_import_textual() -> None:
    code = "import sys, tui.env; sys.exit(any(name.split('.')[0] in ('textual', 'rich') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=patience(60)).returncode == 0
