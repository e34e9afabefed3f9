"""``wharf network map``."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag
from core.cli.network_reach import WHO
from core.cli.output import put, shorten, visible
from core.model.netlook import port_numbers, port_ranges

if TYPE_CHECKING:
    from core.engine import Engine
    from core.model import MapPlace, MapPort, Network, NetworkMap

_NARROW = 80


def _options(parser: Parser) -> None:
    flag(parser, "-r", "--running", help="without containers that do not run")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print")
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="default: all")


async def run(engine: Engine, args: Arguments) -> int:
    """A tree. :raises NotFound: no such network"""
    found = await engine.network_map()
    if args.networks:
        from core.errors import NotFound

        for word in args.networks:
            if all(word not in (one.network.name, one.network.id) for one in found):
                raise NotFound(f"no such network: {word}", "", "`wharf network ls` lists them")
        found = [one for one in found if {one.network.name, one.network.id} & set(args.networks)]
    if args.format == "json":
        from core.cli.template import to_json

        put(to_json([asdict(one) for one in found], indent=2))
        return 0
    width = shutil.get_terminal_size((_NARROW, 24)).columns
    for line in tree(found, stopped=not args.running):
        put(shorten(line, max(width, 40)))
    return 0


def tree(networks: list[NetworkMap], *, stopped: bool = True) -> list[str]:
    """The lines of the tree."""
    lines = []
    for one in networks:
        places = [place for place in one.places if stopped or place.state.live]
        lines.append(_title(one.network))
        # Names, then addresses, in columns of their own.
        name_width = max((len(_name(place)) for place in places), default=0)
        ip_width = max((len(place.endpoint.ip) for place in places if place.endpoint), default=0)
        for number, place in enumerate(places, 1):
            last = number == len(places)
            lines.append(f"{'└─' if last else '├─'} {_place(place, name_width, ip_width)}".rstrip())
            bar = "   " if last else "│  "
            groups = port_ranges(place.ports, lambda one: one.port, lambda one: one.reach and one.reach.scope)
            for count, group in enumerate(groups, 1):
                branch = "└─" if count == len(groups) else "├─"
                lines.append(f"{bar}{branch} {_ports(group)}")
    return lines


def _title(network: Network) -> str:
    words = [network.driver if network.driver != "null" else "nothing but lo"] if network.name != "host" else []
    words += [one.subnet for one in network.subnets]
    words += [f"on {network.bridge}"] if network.driver in ("macvlan", "ipvlan") else []
    flags = {
        "internal": network.internal,
        "containers kept apart": bool(network.subnets) and not network.icc,
        "no masquerade": bool(network.subnets) and not network.masquerade,
    }
    words += [word for word, is_so in flags.items() if is_so]
    words += ["this host's own interfaces"] if network.name == "host" else []
    return visible(f"{network.name}  {', '.join(words)}")


def _name(place: MapPlace) -> str:
    return place.name if place.state.live else f"{place.name} ({place.state.value})"


def _place(place: MapPlace, name_width: int, ip_width: int) -> str:
    if place.shares:
        return f"{_name(place):<{name_width}}  shares the network of {place.shares}"
    if place.endpoint is None:
        return _name(place)
    end = place.endpoint
    words = [f"{_name(place):<{name_width}}", f"{end.ip:<{ip_width}}", end.ip6, end.name, ", ".join(end.aliases)]
    return visible("  ".join(word for word in words if word))


def _ports(group: list[MapPort]) -> str:
    """``*:8080-8089 → 80-89/tcp  the LAN``."""
    first, ports = group[0], [one.port for one in group]
    at, (host, inner) = first.port.host_ip, port_numbers(ports)
    text = f"{f'[{at}]' if ':' in at else at or '*'}:{host} → {inner}/{first.port.protocol}"
    return f"{text}  {WHO[first.reach.scope]}" if first.reach else text


COMMANDS = {
    "network map": Command(
        "[OPTIONS] [NETWORK...]",
        _options,
        run,
        about="Below each network its containers, with their addresses, interfaces and aliases; below each of them\n"
        "the ports of this host that lead there, with who can reach them (see network reach).",
        examples=("wharf network map", "wharf network map --running web"),
    ),
}
