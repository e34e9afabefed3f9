"""``wharf pull``."""

from __future__ import annotations

import sys

from core.cli.command import Arguments, Command, Parser, flag
from core.cli.output import put
from core.cli.progress import Progress, pull_image
from core.engine import Engine


def _options(parser: Parser) -> None:
    flag(parser, "-q", "--quiet", help="no progress, only the reference")
    flag(parser, "--insecure", help="allow a registry without TLS, or with a certificate of its own")
    parser.add_argument("references", nargs="+", metavar="REFERENCE", help="[REGISTRY/]NAME[:TAG|@DIGEST]")


async def run(engine: Engine, args: Arguments) -> int:
    """Pull one after the other; each fetches its layers side by side."""
    for reference in args.references:
        shown = Progress(sys.stdout, quiet=args.quiet)
        image = await pull_image(engine, reference, shown, insecure=args.insecure)
        if not args.quiet:
            put(f"Image: {image.id}")
        put(reference, flush=True)
    return 0


COMMANDS = {
    "pull": Command(
        "[OPTIONS] REFERENCE [REFERENCE...]",
        _options,
        run,
        examples=("wharf pull debian:12", "wharf pull registry.local:5000/team/app@sha256:…"),
    )
}
