"""``wharf runtime`` and ``wharf-runtime``: the way in."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

_ENTERING = {"create", "run", "exec", "restore"}  # those whose process, or a fork of it, goes into a container


def main(argv: Sequence[str] | None = None) -> int:
    """Console entry. Returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if _ENTERING.intersection(words):
        _execute_again(words)
    from core.oci.main import main as command_line

    return command_line(words)


def _execute_again(words: Sequence[str]) -> None:
    """In an interpreter that nobody can write, and without site-packages. Does not return.

    :raises OSError:
    """
    from core.kernel import view

    home = str(Path(__file__).resolve().parents[2])
    program = f"import sys; sys.path.insert(0, {home!r}); from core.oci.main import enter; enter(sys.argv[1:])"
    python = sys.executable or "/usr/bin/python3"
    sys.stdout.flush()
    fd = view.unwritable(python)
    os.execve(f"/proc/self/fd/{fd}", [python, "-I", "-S", "-c", program, *words], os.environ)
