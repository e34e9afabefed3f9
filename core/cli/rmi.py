"""``wharf rmi``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag, many, parse_filters
from core.cli.output import complain, put
from core.errors import InvalidArgument, NotFound, WharfError
from core.names import name_matches

if TYPE_CHECKING:
    from core.engine import Engine

_FILTERS = ("dangling", "label", "before", "since", "until", "reference")


def _options(parser: Parser) -> None:
    flag(parser, "-f", "--force", help="all its names by id; of one that containers use only the names, it stays")
    many(parser, "--filter", metavar="KEY=VALUE", help=f"all that fit: {', '.join(_FILTERS)}")
    parser.add_argument("images", nargs="*", metavar="IMAGE")


async def run(engine: Engine, args: Arguments) -> int:
    """One after the other: removing a tag may be what allows the next."""
    if not args.images and not args.filter:
        raise InvalidArgument("rmi: no image named", "", "See `wharf rmi --help`")
    code = 0
    for ref in [*args.images, *await _chosen(engine, args.filter)]:
        try:
            for done in await engine.remove_image(ref, force=args.force):
                if done.startswith("Kept: "):
                    complain(f"the image stays as long as it is needed: {done.removeprefix('Kept: ')}")
                else:
                    put(done)
        except WharfError as error:
            complain(str(error))
            if not (args.force and isinstance(error, NotFound)):
                code = 1
    return code


async def _chosen(engine: Engine, words: list[str]) -> list[str]:
    """The names of what the filters let through (with a pattern: those that fit), or the id where there is none."""
    if not words:
        return []
    filters = parse_filters(words, _FILTERS)
    patterns = filters.get("reference", [])
    found: list[str] = []
    for image in await engine.images(filters):
        names = [tag for tag in image.tags if not patterns or any(name_matches(tag, text) for text in patterns)]
        found += names or [image.id]
    return found


COMMANDS = {
    "rmi": Command(
        "[OPTIONS] [IMAGE...]",
        _options,
        run,
        about="Takes the tag away, and with the last tag the image and the layers that no other image has.",
        examples=("wharf rmi debian:12", "wharf rmi --filter 'reference=team/*' --filter until=720h"),
    )
}
