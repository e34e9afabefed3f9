"""``wharf network ls``, ``rm`` and ``prune``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from core.cli.command import BOOLEAN, Arguments, Command, Parser, flag, form_option, many, parse_filters
from core.cli.output import agreed, complain, put, show_rows
from core.cli.views import network_row
from core.errors import InvalidArgument, NotFound, WharfError
from core.model.network import is_on
from core.names import has_label
from core.units import parse_when

if TYPE_CHECKING:
    from core.engine import Engine
    from core.model import Network

_COLUMNS = (("NETWORK ID", "ID"), ("NAME", "Name"), ("DRIVER", "Driver"), ("SCOPE", "Scope"))
_FILTERS = ("name", "driver", "id", "label", "dangling", "scope", "type")
_FIXED = {
    "dangling": BOOLEAN,
    "scope": ("local", "swarm", "global"),
    "type": ("custom", "builtin"),
}
_PRUNE_FILTERS = ("label", "label!", "until")
_PREDEFINED = ("bridge", "host", "none")


def _options(parser: Parser) -> None:
    flag(parser, "-q", "--quiet", help="only ids")
    flag(parser, "--no-trunc", help="whole ids")
    many(parser, "-f", "--filter", metavar="KEY=VALUE", help=", ".join(_FILTERS))
    form_option(parser)


async def run(engine: Engine, args: Arguments) -> int:
    """All networks of the instance."""
    filters = parse_filters(args.filter, _FILTERS, _FIXED)
    networks = [one for one in await engine.networks() if all(_fits(one, *pair) for pair in filters.items())]
    if args.quiet:
        for one in networks:
            put(one.id if args.no_trunc else one.short_id)
        return 0
    show_rows([network_row(one, truncate=not args.no_trunc) for one in networks], _COLUMNS, args.format)
    return 0


def _fits(network: Network, key: str, values: list[str]) -> bool:
    own = network.name not in _PREDEFINED
    if key == "label":
        return all(has_label(network.labels, value) for value in values)
    if key == "dangling":
        return any((own and not network.containers) == is_on(value) for value in values)
    fits = {"name": network.name, "driver": network.driver, "scope": "local", "type": "custom" if own else "builtin"}
    if key == "id":
        return any(network.id.startswith(value) for value in values)
    return any(value in fits[key] if key == "name" else value == fits[key] for value in values)


def _rm_options(parser: Parser) -> None:
    flag(parser, "-f", "--force", help="one that is not there is no error")
    parser.add_argument("networks", nargs="+", metavar="NETWORK")


async def run_rm(engine: Engine, args: Arguments) -> int:
    """One after the other; what goes wrong with one does not keep the others."""
    code = 0
    for ref in args.networks:
        try:
            await engine.remove_network(ref)
            put(ref)
        except NotFound as error:
            if not args.force:
                complain(str(error))
                code = 1
        except WharfError as error:
            complain(str(error))
            code = 1
    return code


def _prune_options(parser: Parser) -> None:
    flag(parser, "-f", "--force", help="do not ask")
    many(parser, "--filter", metavar="KEY=VALUE", help="until=TIME (made before), label=KEY, label!=KEY")


async def run_prune(engine: Engine, args: Arguments) -> int:
    """Docker's answer: what was removed."""
    filters = parse_filters(args.filter, _PRUNE_FILTERS)
    labels = (*filters.get("label", ()), *(f"!{word}" for word in filters.get("label!", ())))
    until = filters.get("until", [])
    if len(until) > 1:
        raise InvalidArgument("until is given twice", "one moment is enough", "Drop one")
    if not args.force and not agreed("all custom networks that no container is to be on"):
        return 1
    moment = parse_when(until[0], time.time()) if until else None
    gone = await engine.prune_networks(labels, moment)
    if gone:
        put("Deleted Networks:")
        for network in gone:
            put(network.name)
    return 0


COMMANDS = {
    "network ls": Command("[OPTIONS]", _options, run, examples=("wharf network ls", "wharf network inspect bridge")),
    "network rm": Command("[OPTIONS] NETWORK [NETWORK...]", _rm_options, run_rm, examples=("wharf network rm web",)),
    "network prune": Command(
        "[OPTIONS]",
        _prune_options,
        run_prune,
        about="Networks of stopped containers stay: they would not start any more.",
        examples=("wharf network prune", "wharf network prune -f --filter until=24h"),
    ),
}
