"""``wharf rmi``."""

from __future__ import annotations

from core.cli.command import Arguments, Command, Parser, flag
from core.cli.output import complain, put
from core.engine import Engine
from core.errors import NotFound, WharfError


def _options(parser: Parser) -> None:
    flag(parser, "-f", "--force", help="remove it although containers use it; no error where it does not exist")
    parser.add_argument("images", nargs="+", metavar="IMAGE")


async def run(engine: Engine, args: Arguments) -> int:
    """One after the other: removing a tag may be what allows the next."""
    code = 0
    for ref in args.images:
        try:
            for done in await engine.remove_image(ref, force=args.force):
                put(done)
        except WharfError as error:
            complain(str(error))
            if not (args.force and isinstance(error, NotFound)):
                code = error.exit_code
    return code


COMMANDS = {
    "rmi": Command(
        "[OPTIONS] IMAGE [IMAGE...]",
        _options,
        run,
        about="Takes the tag away, and with the last tag the image and the layers that no other image has.",
        examples=("wharf rmi debian:12",),
    )
}
