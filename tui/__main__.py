"""``wharf``: without arguments the workstation, else the command line.

The order is for the first paint: a frame is written before anything large is imported, the engine opens next, and
Textual (160 ms) comes last.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Console entry. Returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments:
        from core.cli import main as command_line

        return command_line(arguments)
    from tui import env

    terminal = env.detect()
    if not terminal.interactive:
        return _without_terminal()
    refused = env.refusal(terminal)
    if refused is not None:
        print(f"wharf: {refused}", file=sys.stderr)
        return refused.exit_code
    env.prepare(terminal)
    _splash(terminal.unicode)
    return _workstation(terminal)


def _without_terminal() -> int:
    """A pipe or a CI job: run the demo and say what runs."""
    from core.cli import main as command_line

    return command_line(["demo"]) or command_line(["ps"])


def _write(words: str) -> None:
    os.write(1, words.encode())


def _splash(unicode: bool) -> None:
    """The first frame, on the alternate screen that Textual will take over."""
    dots = "…" if unicode else "..."
    _write(f"\x1b[?1049h\x1b[?25l\x1b[2J\x1b[H\x1b[1m wharf\x1b[0m  {os.uname().nodename}   opening{dots}")


def _unsplash() -> None:
    _write("\x1b[2J\x1b[?1049l\x1b[?25h")


def _workstation(terminal: object) -> int:
    import asyncio

    from core.errors import WharfError

    try:
        return asyncio.run(_run(terminal))
    except WharfError as error:
        _unsplash()
        print(f"wharf: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        _unsplash()
        return 130


async def _run(terminal: object) -> int:
    from core.engine import open_engine

    engine = await open_engine()
    try:
        from tui.app import WharfApp
        from tui.env import Terminal

        app = WharfApp(engine, terminal if isinstance(terminal, Terminal) else None)
        await app.run_async()
        up = sum(container.state.live for container in app.desk.snapshot.containers)
        code = app.return_code or 0
    finally:
        await engine.close()
    if up:
        print("1 container runs on." if up == 1 else f"{up} containers run on.", "Open the workstation again: wharf")
    return code


if __name__ == "__main__":
    sys.exit(main())
