"""``wharf search``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.cli.command import BOOLEAN, Arguments, Command, Parser, flag, form_option, many, parse_filters
from core.cli.output import shorten, show_rows
from core.errors import InvalidArgument
from core.model.network import is_on

if TYPE_CHECKING:
    from core.engine import Engine
    from core.model import FoundRepository

_FILTERS = ("is-official", "is-automated", "stars")
_MOST = 100


def _options(parser: Parser) -> None:
    many(parser, "-f", "--filter", metavar="KEY=VALUE", help="is-official=true, is-automated=false, stars=3")
    parser.add_argument("--limit", type=int, default=25, metavar="N", help="at most so many (25)")
    flag(parser, "--no-trunc", help="whole descriptions")
    form_option(parser)
    flag(parser, "--insecure", help="allow a registry without TLS, or with a certificate of its own")
    parser.add_argument("term", metavar="[REGISTRY/]TERM", help="a word of a name or description")


async def run(engine: Engine, args: Arguments) -> int:
    """A table, in the registry's order."""
    filters = parse_filters(args.filter, _FILTERS, {"is-official": BOOLEAN, "is-automated": BOOLEAN})
    for value in filters.get("stars", []):
        if not value.isdecimal():
            raise InvalidArgument(f"invalid filter 'stars={value}'", "it is not a number", "Write stars=3")
    if not 1 <= args.limit <= _MOST:
        raise InvalidArgument(f"invalid limit {args.limit}", f"it is not between 1 and {_MOST}", "Write it like 25")
    found = await engine.search_registry(args.term, limit=args.limit, insecure=args.insecure)
    rows = [
        {
            "Name": one.name,
            "Description": one.description if args.no_trunc else shorten(one.description, 45),
            "StarCount": str(one.stars),
            "IsOfficial": "[OK]" if one.official else "",
            "IsAutomated": "[OK]" if one.automated else "",
        }
        for one in found
        if _passes(one, filters)
    ]
    columns = [("NAME", "Name"), ("DESCRIPTION", "Description"), ("STARS", "StarCount"), ("OFFICIAL", "IsOfficial")]
    show_rows(rows, columns, args.format, headers=(("AUTOMATED", "IsAutomated"),))
    return 0


def _passes(one: FoundRepository, filters: dict[str, list[str]]) -> bool:
    for key, has in (("is-official", one.official), ("is-automated", one.automated)):
        for value in filters.get(key, []):
            if has != is_on(value):
                return False
    return all(one.stars >= int(value) for value in filters.get("stars", []))


COMMANDS = {
    "search": Command(
        "[OPTIONS] [REGISTRY/]TERM",
        _options,
        run,
        about="Docker Hub by default. A registry that cannot be searched is asked for its list of repositories.",
        examples=("wharf search nginx", "wharf search --filter stars=100 nginx", "wharf search registry.lan:5000/team"),
    )
}
