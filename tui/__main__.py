"""``wharf``: without arguments the workstation, else the command line.

The order is for the first paint: a frame is written before anything large is imported, the engine opens next and its
containers are written, and Textual (a third of the time until the workspace stands) comes last.
"""

from __future__ import annotations

import os
import sys

from tui import splash

TYPE_CHECKING = False  # `typing` itself takes as long to import as all else that stands before the first frame
if TYPE_CHECKING:
    from collections.abc import Sequence

    from tui.env import Terminal


def main(argv: Sequence[str] | None = None) -> int:
    """Console entry. Returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["runtime"]:
        from core.oci.entry import main as oci_runtime

        return oci_runtime(arguments[1:])
    if arguments:
        import gc

        gc.set_threshold(100_000)  # importing makes nothing but what stays
        from core.cli import main as command_line

        code = command_line(arguments)
        gc.freeze()  # the process ends: to search all that it has for garbage would take a tenth of a `ps`
        return code
    if not (os.isatty(0) and os.isatty(1)):
        return _fail("the workstation needs a terminal. `wharf --help` lists commands for scripts", 125, False)
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)  # where a shell exports them they would hide every later change of the size
    splashed = os.environ.get("TERM", "dumb") not in ("", "dumb")
    if splashed:
        splash.opening()  # before any further import: those of `env` alone take as long as the frame may
    import gc

    from tui import env

    gc.disable()  # importing makes nothing but what stays; the workspace turns it on again after its first lists
    terminal = env.detect()
    refused = env.refusal(terminal)
    if refused is not None:
        return _fail(str(refused), refused.exit_code, splashed)
    env.prepare(terminal)
    return _workstation(terminal)


def _fail(words: str, code: int, splashed: bool = True) -> int:
    """Give the terminal back as it was, and say in one line why nothing opens."""
    if splashed:
        splash.withdraw()
    print("wharf:", " ".join(words.split()), file=sys.stderr)
    return code


def _workstation(terminal: Terminal) -> int:
    import asyncio

    from core.errors import WharfError

    try:
        return asyncio.run(_run(terminal))
    except WharfError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except Exception as error:
        from tui.settings import keep_traceback

        path = keep_traceback("opening")
        return _fail(f"this is a bug: {type(error).__name__}: {error}. Details are in {path}", 1)


async def _run(terminal: Terminal) -> int:
    from core.engine import open_engine

    engine = await open_engine()
    try:
        splash.listed(await engine.containers(), unicode=terminal.unicode)
        from tui.app import WharfApp

        app = WharfApp(engine, terminal)
        await app.run_async()
        up = sum(container.state.live for container in await engine.containers())
        code = app.return_code or 0
    finally:
        await engine.close()
    if up:
        print("1 container runs on." if up == 1 else f"{up} containers run on.", "Open the workstation again: wharf")
    return code


if __name__ == "__main__":
    sys.exit(main())
