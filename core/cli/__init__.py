"""The command line: ``main`` finds the verb, reads its arguments, opens the engine, and turns errors into exit codes.

Each verb is a :class:`core.cli.command.Command` in a module of its own, imported when it is used: ``wharf ps`` must not
pay for ``wharf run``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import InvalidArgument, Locked, StartFailed, WharfError

if TYPE_CHECKING:
    from core.cli.command import Arguments, Command

BUG = 125  # exit code of an error that nobody foresaw: the engine failed, not the command in the container
INTERRUPTED = 130
PIPE_GONE = 141  # what a shell reports for a process that SIGPIPE ended


class _Globals:
    """The options before the verb."""

    def __init__(self) -> None:
        self.root: Path | None = None
        self.run: Path | None = None
        self.debug = False
        self.verb = ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line. Returns the exit code: the command's own for run and exec, else as ``docker`` has them."""
    from core.cli.output import complain, silence

    settings = _Globals()
    try:
        code = _dispatch(list(sys.argv[1:] if argv is None else argv), settings)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except WharfError as error:
        complain(str(error))
        for left in error.cleanup:
            complain(f"left behind: {left}")
        if settings.debug:
            import traceback

            traceback.print_exc()
        return exit_code(error, settings.verb)
    except BrokenPipeError:
        silence()
        return PIPE_GONE
    except OSError as error:
        if settings.debug:
            raise
        complain(f"input or output failed: {error}")
        silence()  # what is still buffered would fail again at the end of the process
        return BUG
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as error:  # argparse after --help
        return error.code if isinstance(error.code, int) else 0
    except Exception as error:
        if settings.debug:
            raise
        complain(f"unexpected error: {type(error).__name__}: {error}. This is a bug; --debug shows where it comes from")
        return BUG


class Misuse(InvalidArgument):
    """Words that are no command line of ours; ``exit_code`` is 1 where a word is missing or too much."""


def exit_code(error: WharfError, verb: str) -> int:
    """What an error costs, as the docker command (28) has it: 125 for an option that it cannot read, else 1.

    Where 1 may be the container's own code: 127 a command that is not there, 126 one that cannot be run, and
    for ``run`` 125 everything else. ``exec`` has no code for the engine's failures, ``start`` none for the command's.
    """
    if isinstance(error, Misuse):
        return error.exit_code
    if verb == "run":
        return error.exit_code if isinstance(error, StartFailed) else BUG
    if verb == "exec" and isinstance(error, StartFailed):
        return max(error.exit_code, 126)
    return 1


def _dispatch(words: list[str], settings: _Globals) -> int:
    from core.cli.output import put
    from core.cli.verbs import LONG_FORMS, VERBS, find_verb, group_overview, overview

    words = _read_globals(words, settings)
    if words and words[0] == "help":
        words = [*words[1:], "--help"] if len(words) > 1 else []
    if not words or words[0] in ("-h", "--help"):
        put(overview())
        return 0
    if words[0] in ("-v", "--version"):
        from core import __version__

        put(f"wharf version {__version__}")
        return 0
    if words[0] in LONG_FORMS and (len(words) == 1 or words[1] in ("--help", "-h")):
        put(group_overview(words[0]))
        return 0
    found = find_verb(words)
    if found is None:
        from core.cli.absent import no_verb

        raise no_verb(words)
    from importlib import import_module

    from core.cli.command import Parser

    name, rest = found
    verb = VERBS[name]
    settings.verb = name
    command: Command = import_module(f"core.cli.{verb.module}").COMMANDS[name]
    arguments = Parser(name, command, verb.summary, stop_early=verb.stop_early).read(rest)
    import asyncio

    return asyncio.run(_with_engine(command, arguments, settings))


async def _with_engine(command: Command, arguments: Arguments, settings: _Globals) -> int:
    from core.engine import open_engine

    try:
        engine = await open_engine(settings.root, settings.run)
    except WharfError as error:
        if command.without is None:
            raise
        return await command.without(error, settings.root, settings.run, arguments)
    try:
        try:
            return await command.run(engine, arguments)
        except Locked as error:
            # What needs credentials comes before what changes anything: the verb may begin again.
            from core.cli.unlock import unlock

            await unlock(engine, error)
            return await command.run(engine, arguments)
    finally:
        await engine.close()


def _read_globals(words: list[str], settings: _Globals) -> list[str]:
    """Take the options before the verb; returns the rest."""
    while words:
        name, equals, value = words[0].partition("=")
        if name in ("-D", "--debug"):
            settings.debug = True
        elif name in ("--host", "--context", "-c") or name.startswith("-H"):
            raise InvalidArgument(
                f"there is no server for {words[0]} to name",
                "the engine works in this process, on this host",
                "Drop it",
            )
        elif name in ("--root", "--run"):
            if not equals:
                if len(words) < 2:
                    raise InvalidArgument(f"{name} needs a folder", "", "See `wharf --help`")
                value = words.pop(1)
            setattr(settings, name[2:], Path(value))
        else:
            break
        words = words[1:]
    return words
