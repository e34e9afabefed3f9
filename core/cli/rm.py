"""``wharf rm``."""

from __future__ import annotations

from core.cli.command import Arguments, Command, Parser, flag
from core.cli.lifecycle import each
from core.cli.output import complain
from core.engine import Engine
from core.errors import NotFound


def _options(parser: Parser) -> None:
    flag(parser, "-f", "--force", help="kill it first where it runs; no error where it does not exist")
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


async def run(engine: Engine, args: Arguments) -> int:
    """Remove all; with --force a container that is not there is told, but no error (docker's way)."""

    async def remove(ref: str) -> None:
        try:
            await engine.remove(ref, force=args.force)
        except NotFound as error:
            if not args.force:
                raise
            complain(str(error))

    return await each(args.containers, remove)


COMMANDS = {
    "rm": Command(
        "[OPTIONS] CONTAINER [CONTAINER...]", _options, run, examples=("wharf rm job", "wharf rm -f $(wharf ps -aq)")
    )
}
