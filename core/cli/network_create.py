"""``wharf network create``."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag, many, pair
from core.cli.output import put
from core.errors import InvalidArgument
from core.model import NetworkSpec, Subnet

if TYPE_CHECKING:
    from core.engine import Engine


def _options(parser: Parser) -> None:
    parser.add_argument("-d", "--driver", default="bridge", metavar="DRIVER", help="bridge, macvlan or ipvlan")
    many(parser, "--subnet", metavar="CIDR", help="its addresses (default: a free range); again for more, or for IPv6")
    many(parser, "--gateway", metavar="IP", help="the address of the way out (default: the first of the subnet)")
    many(parser, "--ip-range", metavar="CIDR", help="give out addresses of this part only")
    many(parser, "--aux-address", metavar="NAME=IP", help="an address that some other host has")
    flag(parser, "--ipv4", help="give containers IPv4 addresses", default=True)
    flag(parser, "--ipv6", help="give containers IPv6 addresses")
    flag(parser, "--internal", help="no way out, and none in")
    many(parser, "-o", "--opt", metavar="KEY=VALUE", help="an option of the driver, see below")
    many(parser, "--label", metavar="KEY=VALUE", help="a label")
    flag(parser, "--attachable", help="accepted: every network here is")
    parser.add_argument("--scope", default="local", choices=("local",), help="the one that there is")
    parser.add_argument("--ipam-driver", default="default", choices=("default",), help="the one that there is")
    many(parser, "--ipam-opt", metavar="KEY=VALUE", help="not known to that one")
    parser.add_argument("name", metavar="NAME")


async def run(engine: Engine, args: Arguments) -> int:
    """Prints the id."""
    made = await engine.create_network(_spec(args))
    put(made.id)
    return 0


def read_network(words: Sequence[str]) -> NetworkSpec:
    """What the words of a `network create` ask for: also for a form with a line of options.

    :raises InvalidArgument: an unknown option, or a value that makes no sense
    """
    if "--help" in words:
        raise InvalidArgument("no help here", "the line takes options", "`wharf network create --help` lists them")
    return _spec(Parser("network create", COMMANDS["network create"], "").read(words))


def _spec(args: Arguments) -> NetworkSpec:
    if args.ipam_opt:
        raise InvalidArgument(f"invalid --ipam-opt {args.ipam_opt[0]!r}", "none is known", "Drop it")
    subnets = _subnets(args)
    return NetworkSpec(
        args.name,
        args.driver,
        subnets=subnets,
        ipv4=args.ipv4,
        ipv6=args.ipv6 or any(one.version == 6 for one in subnets),
        internal=args.internal,
        options=dict(pair(word, "--opt") for word in args.opt),
        labels={word.partition("=")[0]: word.partition("=")[2] for word in args.label},
    )


def _subnets(args: Arguments) -> tuple[Subnet, ...]:
    """Each further option goes to the subnet that it lies in.

    :raises InvalidArgument: it lies in none
    """
    found = [Subnet(text) for text in args.subnet]
    for text in args.gateway:
        at = _within(found, text, "--gateway")
        found[at] = replace(found[at], gateway=text)
    for text in args.ip_range:
        at = _within(found, text.partition("/")[0], "--ip-range")
        found[at] = replace(found[at], ip_range=text)
    for word in args.aux_address:
        name, text = pair(word, "--aux-address")
        at = _within(found, text, "--aux-address")
        found[at] = replace(found[at], reserved={**found[at].reserved, name: text})
    return tuple(found)


def _within(subnets: list[Subnet], text: str, option: str) -> int:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidArgument(f"invalid {option} {text!r}", "it is not an IP address", "Like 10.7.0.1") from None
    for index, one in enumerate(subnets):
        try:
            if address in ipaddress.ip_network(one.subnet, strict=False):
                return index
        except ValueError as error:
            raise InvalidArgument(f"invalid --subnet {one.subnet!r}", str(error), "Like 10.7.0.0/24") from None
    if not subnets:
        raise InvalidArgument(f"{option} {text} is in no --subnet", "none is named", "Name the subnet as well")
    names = ", ".join(one.subnet for one in subnets)
    raise InvalidArgument(f"{option} {text} is in no --subnet", f"it is not within {names}", "Use an address of it")


COMMANDS = {
    "network create": Command(
        "[OPTIONS] NAME",
        _options,
        run,
        about="Options of the drivers (-o KEY=VALUE), by docker's names:\n"
        "  bridge    com.docker.network.bridge.name                  the interface's name\n"
        "            com.docker.network.bridge.enable_icc=false      its containers do not reach each other\n"
        "            com.docker.network.bridge.enable_ip_masquerade=false  they keep their addresses outside\n"
        "            com.docker.network.bridge.host_binding_ipv4=IP  where their ports are published\n"
        "            com.docker.network.driver.mtu=1400\n"
        "  macvlan   parent=eth0  macvlan_mode=bridge|private|vepa|passthru  host_shim=IP (the host is there too)\n"
        "  ipvlan    parent=eth0  ipvlan_mode=l2|l3|l3s  ipvlan_flag=bridge|private|vepa",
        examples=(
            "wharf network create web",
            "wharf network create --subnet 10.7.0.0/24 --ip-range 10.7.0.128/25 --ipv6 web",
            "wharf network create --internal back",
            "wharf network create -d macvlan --subnet 192.168.1.0/24 --ip-range 192.168.1.192/27 -o parent=eth0 lan",
        ),
    )
}
