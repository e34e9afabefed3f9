"""``wharf port``, ``port add``, ``port rm``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser
from core.cli.output import complain, put
from core.cli.views import ports as shown
from core.model import PortMapping, State
from core.options import parse_ports

if TYPE_CHECKING:
    from core.engine import Engine


def _list_options(parser: Parser) -> None:
    parser.add_argument("container", metavar="CONTAINER")
    parser.add_argument("port", nargs="?", default="", metavar="PORT[/PROTOCOL]", help="only where this one is")


def _change_options(parser: Parser) -> None:
    parser.add_argument("container", metavar="CONTAINER")
    parser.add_argument("ports", nargs="+", metavar="PORT")


async def _list(engine: Engine, args: Arguments) -> int:
    box = await engine.container(args.container)
    found = sorted(box.ports, key=lambda p: (p.container_port, p.protocol, p.host_port, ":" in p.host_ip, p.host_ip))
    if not args.port:
        for port in found:
            host = shown([port]).partition("->")[0]
            put(f"{port.container_port}/{port.protocol} -> {host}")
        return 0
    wanted = parse_ports(args.port)[0]
    key = (wanted.container_port, wanted.protocol)
    hosts = [shown([port]).partition("->")[0] for port in found if (port.container_port, port.protocol) == key]
    for host in hosts:
        put(host)
    if not hosts:
        complain(f"{box.name} does not publish its port {args.port}")
    return 0 if hosts else 1


async def _add(engine: Engine, args: Arguments) -> int:
    wanted = [port for word in args.ports for port in parse_ports(word)]
    before = (await engine.container(args.container)).ports
    box = await engine.publish_ports(args.container, wanted)
    for port in box.ports:
        if port not in before:
            put(shown([port]))
    if not (box.state.live or box.state is State.RESTARTING):
        complain(f"{box.name} does not run: {', '.join(args.ports)} will be published at its next start")
    return 0


async def _remove(engine: Engine, args: Arguments) -> int:
    wanted = [port for word in args.ports for port in _on_host(word)]
    await engine.unpublish_ports(args.container, wanted)
    return 0


def _on_host(word: str) -> list[PortMapping]:
    """``8080`` is a port of the host, whatever it leads to; ``8080:80`` is that one, ``:80`` all of the container's."""
    if word.startswith(":"):
        return parse_ports(word[1:])
    number, slash, protocol = word.partition("/")
    if not number.replace("-", "", 1).isdecimal():
        return parse_ports(word)
    return [
        PortMapping(0, port.host_port, port.protocol) for port in parse_ports(f"{number}:{number}{slash}{protocol}")
    ]


_LATER = "What runs is changed at once and goes on; later starts are as it is left."
COMMANDS = {
    "port": Command(
        "CONTAINER [PORT[/PROTOCOL]]",
        _list_options,
        _list,
        about="PORT is the container's. To change what is published: wharf port add, wharf port rm.",
        examples=("wharf port web", "wharf port web 80/tcp"),
    ),
    "port add": Command(
        "CONTAINER [IP:][HOST:]PORT[/PROTOCOL] ...",
        _change_options,
        _add,
        about=_LATER,
        examples=("wharf port add web 8443:443", "wharf port add dns 127.0.0.1:53:53/udp 9000-9010:80"),
    ),
    "port rm": Command(
        "CONTAINER HOST[:PORT][/PROTOCOL] ...",
        _change_options,
        _remove,
        about=f"{_LATER}\nHOST is a port of this machine, or a range; :PORT closes all ways to one of the container's.",
        examples=("wharf port rm web 8443", "wharf port rm dns 53/udp 9000-9010", "wharf port rm web :80"),
    ),
}
