"""``wharf network connect`` and ``disconnect``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag, many
from core.cli.network_options import add_place_options, with_options
from core.errors import InvalidArgument
from core.model import EndpointSpec
from core.units import parse_rate

if TYPE_CHECKING:
    from core.engine import Engine


def _options(parser: Parser) -> None:
    many(parser, "--alias", metavar="NAME", help="a further name on the network")
    add_place_options(parser)
    parser.add_argument("--gw-priority", type=int, default=0, metavar="N", help="the highest is the way out")
    parser.add_argument("--mac-address", default="", metavar="MAC", help="its MAC address there")
    many(parser, "--driver-opt", metavar="KEY=VALUE", help="com.docker.network.endpoint.ifname, ….sysctls")
    many(parser, "--link-local-ip", metavar="IP", help="not supported")
    parser.add_argument("network", metavar="NETWORK")
    parser.add_argument("container", metavar="CONTAINER")


async def run(engine: Engine, args: Arguments) -> int:
    """Says nothing, as docker."""
    await engine.connect(args.container, _place(args))
    return 0


def read_place(words: Sequence[str]) -> EndpointSpec:
    """What the words of a `network connect` ask for: also for a form with a line of options.

    :raises InvalidArgument: an unknown option, or a value that makes no sense
    """
    if "--help" in words:
        raise InvalidArgument("no help here", "the line takes options", "`wharf network connect --help` lists them")
    return _place(Parser("network connect", COMMANDS["network connect"], "").read(words))


def _place(args: Arguments) -> EndpointSpec:
    if args.link_local_ip:
        raise InvalidArgument("link-local addresses cannot be given", "the kernel chooses them", "Use --ip or --ip6")
    end = EndpointSpec(
        args.network,
        aliases=tuple(args.alias),
        ip=args.ip,
        ip6=args.ip6,
        mac=args.mac_address,
        priority=args.gw_priority,
        rate=parse_rate(args.rate) if args.rate else 0,
        links=tuple(args.link),
    )
    return with_options(end, args.driver_opt)


def _disconnect_options(parser: Parser) -> None:
    flag(parser, "-f", "--force", help="also where the network itself is gone")
    parser.add_argument("network", metavar="NETWORK")
    parser.add_argument("container", metavar="CONTAINER")


async def run_disconnect(engine: Engine, args: Arguments) -> int:
    """Says nothing, as docker."""
    await engine.disconnect(args.network, args.container, force=args.force)
    return 0


COMMANDS = {
    "network connect": Command(
        "[OPTIONS] NETWORK CONTAINER",
        _options,
        run,
        about="At once where the container runs, and for every later start.",
        examples=("wharf network connect web db", "wharf network connect --ip 10.7.0.9 --alias cache web redis"),
    ),
    "network disconnect": Command(
        "[OPTIONS] NETWORK CONTAINER",
        _disconnect_options,
        run_disconnect,
        examples=("wharf network disconnect web db",),
    ),
}
