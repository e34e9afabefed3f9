"""``wharf load``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag
from core.cli.output import put
from core.cli.progress import Progress, run_progress
from core.cli.views import familiar
from core.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from core.engine import Engine


def _options(parser: Parser) -> None:
    parser.add_argument("-i", "--input", metavar="FILE", help="the archive, or an OCI layout folder (default: stdin)")
    flag(parser, "-q", "--quiet", help="no progress")


async def run(engine: Engine, args: Arguments) -> int:
    """A line for each name that the archive gives, or the image's id where it gives none."""
    source: Path | int
    if args.input:
        source = Path(args.input)
        if not source.exists():  # before anything is told of reading it
            raise NotFound(f"no such file: {source}", "there is nothing to load", "Check the path")
    elif sys.stdin is None or sys.stdin.isatty():
        raise InvalidArgument("nothing to load", "standard input is a terminal", "Name an archive with -i")
    else:
        source = sys.stdin.fileno()
    found = await run_progress(engine.load(source), Progress(sys.stderr, quiet=args.quiet))
    for name, image in found:
        put(f"Loaded image{' ID' if name == image.id else ''}: {familiar(name)}")
    return 0


COMMANDS = {
    "load": Command(
        "[OPTIONS]", _options, run, examples=("wharf load -i image.tar", "docker save debian:12 | wharf load")
    )
}
