"""``wharf rm``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag
from core.cli.lifecycle import SILENT, each
from core.cli.output import complain
from core.errors import NotFound

if TYPE_CHECKING:
    from core.engine import Engine


def _options(parser: Parser) -> None:
    flag(parser, "-f", "--force", help="kill it first where it runs; no error where it does not exist")
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


async def run(engine: Engine, args: Arguments) -> int:
    """Remove all; with --force a container that is not there is told, but no error (docker's way)."""

    async def remove(ref: str) -> object:
        try:
            await engine.remove(ref, force=args.force)
        except NotFound as error:
            if not args.force:
                raise
            complain(str(error))
            return SILENT
        return None

    return await each(args.containers, remove)


COMMANDS = {
    "rm": Command(
        "[OPTIONS] CONTAINER [CONTAINER...]", _options, run, examples=("wharf rm job", "wharf rm -f $(wharf ps -aq)")
    )
}
