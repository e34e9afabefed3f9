"""The options about networks that ``run`` and ``create`` share with ``network connect``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace

from core.cli.command import Arguments, flag, many
from core.errors import InvalidArgument
from core.model import EndpointSpec
from core.units import parse_rate

_SYSCTLS = "com.docker.network.endpoint.sysctls"
_IFNAME = "com.docker.network.endpoint.ifname"


def add_network_options(group: argparse._ArgumentGroup) -> None:
    """What ``run`` says of networks."""
    many(group, "-p", "--publish", metavar="[IP:][HOST:]PORT[/udp]", help="reach a port from outside; ranges too")
    flag(group, "-P", "--publish-all", help="publish all ports the image exposes, on free ports")
    many(
        group,
        "--network",
        metavar="NAME",
        help="bridge (the default), host, none, container:ID, or one of yours; again for more; in words: "
        "name=web,alias=db,ip=10.7.0.9,rate=10mbit,gw-priority=1",
    )
    many(group, "--net", metavar="NAME", help="the same")
    add_place_options(group)
    group.add_argument("--mac-address", default="", metavar="MAC", help="its MAC address")
    many(group, "--network-alias", metavar="NAME", help="a further name on the network")
    many(group, "--net-alias", metavar="NAME", help="the same")
    group.add_argument("-h", "--hostname", default="", metavar="NAME", help="its host name (default: its short id)")
    group.add_argument("--domainname", default="", metavar="NAME", help="its NIS domain name")
    many(group, "--dns", metavar="IP", help="a name server")
    many(group, "--dns-search", metavar="DOMAIN", help="where to look names up that have no dot (.: nowhere)")
    many(group, "--dns-option", metavar="OPTION", help="a line of options for resolv.conf, such as ndots:2")
    many(group, "--dns-opt", metavar="OPTION", help="the same")
    many(group, "--add-host", metavar="NAME:IP", help="a line for /etc/hosts")


def add_place_options(group: argparse._ActionsContainer) -> None:
    """Those about its place on one network."""
    group.add_argument("--ip", default="", metavar="IP", help="its IPv4 address there")
    group.add_argument("--ip6", default="", metavar="IP", help="its IPv6 address there")
    many(group, "--link", metavar="CONTAINER[:ALIAS]", help="a name for another container, known to this one only")
    group.add_argument("--rate", default="", metavar="RATE", help="how much it may send, like 10mbit")


def networks(args: Arguments) -> tuple[str, tuple[EndpointSpec, ...]]:
    """The mode, and the places; none where the mode says it all.

    :raises InvalidArgument: a word that is not known, or options for a place where there is none
    """
    words = [*args.network, *args.net]
    ends = [parse_network(word) for word in words]
    mode = ends[0].network if ends else ""
    own = EndpointSpec(
        mode or "bridge",
        aliases=(*args.network_alias, *args.net_alias),
        ip=args.ip,
        ip6=args.ip6,
        mac=args.mac_address,
        rate=parse_rate(args.rate) if args.rate else 0,
    )
    if own != EndpointSpec(own.network):
        if len(ends) > 1:
            raise InvalidArgument(
                "--ip, --ip6, --mac-address, --network-alias and --rate say nothing about which network they are for",
                f"there are {len(ends)}",
                "Write them into --network: --network name=web,ip=10.7.0.9,alias=db",
            )
        ends = [_merged(ends[0], own) if ends else own]
        mode = ends[0].network
    if len(ends) == 1 and ends[0] == EndpointSpec(ends[0].network):
        return mode, ()
    return mode, tuple(ends)


def _merged(end: EndpointSpec, own: EndpointSpec) -> EndpointSpec:
    return replace(
        end,
        aliases=(*end.aliases, *own.aliases),
        ip=own.ip or end.ip,
        ip6=own.ip6 or end.ip6,
        mac=own.mac or end.mac,
        rate=own.rate or end.rate,
    )


def parse_network(text: str) -> EndpointSpec:
    """``web``, or ``name=web,alias=db,ip=…,ip6=…,mac-address=…,gw-priority=1,rate=10mbit,driver-opt=KEY=VALUE``.

    :raises InvalidArgument: an unknown key
    """
    if "=" not in text:
        return EndpointSpec(text)
    end, aliases, options = EndpointSpec(""), [], []
    for word in _split(text):
        key, equals, value = word.partition("=")
        if key == "name" or not (equals or end.network):
            value = value if equals else key
            end = replace(end, network=value)
        elif key == "alias":
            aliases.append(value)
        elif key in ("ip", "ip6"):
            end = replace(end, ip=value) if key == "ip" else replace(end, ip6=value)
        elif key == "mac-address":
            end = replace(end, mac=value)
        elif key == "gw-priority":
            end = replace(end, priority=_number(text, value))
        elif key == "rate":
            end = replace(end, rate=parse_rate(value))
        elif key == "driver-opt":
            options.append(value)
        else:
            raise InvalidArgument(
                f"invalid network {text!r}",
                f"{key!r} is not known",
                "Keys: name, alias, ip, ip6, mac-address, gw-priority, rate, driver-opt",
            )
    if not end.network:
        raise InvalidArgument(f"invalid network {text!r}", "it names none", "Write it like name=web,alias=db")
    return with_options(replace(end, aliases=tuple(aliases)), options)


def _split(text: str) -> list[str]:
    """Words between commas; quoted ones (docker's CSV) may have commas in them."""
    import csv

    return next(csv.reader([text]))


def _number(text: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise InvalidArgument(f"invalid network {text!r}", f"{value!r} is not a number") from None


def with_options(end: EndpointSpec, options: Iterable[str]) -> EndpointSpec:
    """``end`` with docker's ``--driver-opt`` words in it.

    :raises InvalidArgument: one that is not known
    """
    for word in options:
        key, _, value = word.partition("=")
        if key == _IFNAME:
            end = replace(end, interface=value)
        elif key == _SYSCTLS:
            parts = [part.partition("=") for part in value.split(",")]
            pairs = {name: setting for name, _, setting in parts}
            end = replace(end, sysctls={**end.sysctls, **pairs})
        else:
            raise InvalidArgument(
                f"invalid driver option {word!r}", f"{key!r} is not known", f"Known are {_IFNAME} and {_SYSCTLS}"
            )
    return end
