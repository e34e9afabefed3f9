"""``wharf image check``: is there something newer?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag, form_option
from core.cli.output import complain, put, show_rows

if TYPE_CHECKING:
    from core.engine import Engine

_WORDS = {
    "current": "up to date",
    "newer": "newer available",
    "gone": "tag is gone",
    "local": "only here",
    "unknown": "unknown",
}


def _options(parser: Parser) -> None:
    flag(parser, "-q", "--quiet", help="only the names for which there is something newer")
    flag(parser, "--no-trunc", help="whole digests")
    form_option(parser)
    flag(parser, "--insecure", help="allow registries without TLS, or with a certificate of their own")
    parser.add_argument("references", nargs="*", metavar="REFERENCE", help="(default: every tag)")


async def run(engine: Engine, args: Arguments) -> int:
    """A table; what could not be found out is told, and makes the exit code 1."""
    found = await engine.check_images(args.references, insecure=args.insecure)
    rows = [
        {
            "Reference": one.reference,
            "Status": _WORDS[one.status],
            "Here": one.here if args.no_trunc else one.here.removeprefix("sha256:")[:12],
            "Registry": one.there if args.no_trunc else one.there.removeprefix("sha256:")[:12],
        }
        for one in found
    ]
    if args.quiet:
        for one in found:
            if one.status == "newer":
                put(one.reference)
    else:
        columns = [("REFERENCE", "Reference"), ("STATUS", "Status"), ("HERE", "Here"), ("REGISTRY", "Registry")]
        show_rows(rows, columns, args.format)
    failed = [one for one in found if one.status == "unknown"]
    for one in failed:
        complain(f"{one.reference}: {one.why}")
    return 1 if failed else 0


COMMANDS = {
    "image check": Command(
        "[OPTIONS] [REFERENCE...]",
        _options,
        run,
        about="Asks each image's registry what it means by the tag today. Nothing is pulled, and nothing is counted\n"
        "where pulls are.",
        examples=("wharf image check", "wharf image check debian:12", "wharf pull $(wharf image check -q)"),
    )
}
