"""``wharf network ls``."""

from __future__ import annotations

from core.cli.command import Arguments, Command, Parser, flag, form_option, many, parse_filters
from core.cli.output import put, show_rows
from core.cli.ps import has_label
from core.cli.views import network_row
from core.engine import Engine

_COLUMNS = (("NETWORK ID", "ID"), ("NAME", "Name"), ("DRIVER", "Driver"), ("SCOPE", "Scope"))
_FILTERS = ("name", "driver", "id", "label")


def _options(parser: Parser) -> None:
    flag(parser, "-q", "--quiet", help="only ids")
    flag(parser, "--no-trunc", help="whole ids")
    many(parser, "-f", "--filter", metavar="KEY=VALUE", help=", ".join(_FILTERS))
    form_option(parser)


async def run(engine: Engine, args: Arguments) -> int:
    """All networks of the instance."""
    networks = await engine.networks()
    for key, values in parse_filters(args.filter, _FILTERS).items():
        if key == "name":
            networks = [one for one in networks if any(value in one.name for value in values)]
        elif key == "driver":
            networks = [one for one in networks if one.driver in values]
        elif key == "id":
            networks = [one for one in networks if any(one.id.startswith(value) for value in values)]
        else:
            networks = [one for one in networks if all(has_label(one.labels, value) for value in values)]
    if args.quiet:
        for one in networks:
            put(one.id if args.no_trunc else one.short_id)
        return 0
    show_rows([network_row(one, truncate=not args.no_trunc) for one in networks], _COLUMNS, args.format)
    return 0


COMMANDS = {"network ls": Command("[OPTIONS]", _options, run, examples=("wharf network ls", "wharf inspect bridge"))}
