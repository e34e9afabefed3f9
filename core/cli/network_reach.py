"""``wharf network reach``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag, form_option
from core.cli.output import complain, put, show_rows
from core.cli.views import ports

if TYPE_CHECKING:
    from core.cli.output import Row
    from core.engine import Engine
    from core.model import Container, Reach

_COLUMNS = (("CONTAINER", "Container"), ("PORT", "Port"), ("REACHED BY", "Who"), ("CALLED AT", "Addresses"))
WHO = {"host": "this host", "lan": "the LAN", "everyone": "everyone", "nobody": "nobody"}


def _options(parser: Parser) -> None:
    flag(parser, "--why", help="and the rule that says so")
    form_option(parser)
    parser.add_argument("containers", nargs="*", metavar="CONTAINER", help="default: all that run")


async def run(engine: Engine, args: Arguments) -> int:
    """A line for each published port; what an admin may not expect below it."""
    found = await engine.reach(args.containers or None)
    show_rows([_row(one) for one in found], _COLUMNS, args.format)
    if args.why and not args.format:
        put("")
        for one in found:
            put(f"{one.container} {ports([one.port])}: {one.rule}")
    if not args.format:
        for text, who in _by_warning(found).items():
            complain(f"{', '.join(who)}: {text}")
    return 0


def _row(one: Reach) -> Row:
    return {
        "Container": one.container,
        "Port": ports([one.port]),
        "Who": WHO[one.scope],
        "Scope": one.scope,
        "Addresses": ", ".join(one.addresses),
        "Rule": one.rule,
        "Warnings": "; ".join(one.warnings),
    }


def _by_warning(found: list[Reach]) -> dict[str, list[str]]:
    told: dict[str, list[str]] = {}
    for one in found:
        for text in one.warnings:
            told.setdefault(text, []).append(f"{one.container} {ports([one.port])}")
    return told


async def warn(engine: Engine, box: Container) -> None:
    """After a start on a terminal: ports that the host's firewall would have kept closed are open now."""
    if not box.spec.ports or sys.stderr is None or not sys.stderr.isatty():
        return
    for text, who in _by_warning(await engine.reach([box.id])).items():
        complain(f"WARNING: {', '.join(who)}: {text}")


COMMANDS = {
    "network reach": Command(
        "[OPTIONS] [CONTAINER...]",
        _options,
        run,
        about="This host: its own programs and its containers. The LAN: the networks that the host is on, and whom a\n"
        "router leads here. Everyone: one of its addresses is public. Read from the kernel: addresses, forwarding,\n"
        "and what the policies of all firewall tables let through.",
        examples=("wharf network reach", "wharf network reach --why web"),
    )
}
