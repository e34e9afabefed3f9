"""``wharf load``."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from core.cli.command import Arguments, Command, Parser, flag
from core.cli.output import put
from core.cli.progress import Progress, run_progress
from core.engine import Engine
from core.errors import InvalidArgument


def _options(parser: Parser) -> None:
    parser.add_argument("-i", "--input", metavar="FILE", help="the archive, or an OCI layout folder (default: stdin)")
    flag(parser, "-q", "--quiet", help="no progress")


async def run(engine: Engine, args: Arguments) -> int:
    """From a file, or from standard input by way of a temporary file: archives are not read in order."""
    shown = Progress(sys.stderr, quiet=args.quiet)
    if args.input:
        found = await run_progress(engine.load(Path(args.input)), shown)
    else:
        if sys.stdin is None or sys.stdin.isatty():
            raise InvalidArgument("nothing to load", "standard input is a terminal", "Name an archive with -i")
        with tempfile.NamedTemporaryFile(prefix="wharf-load-") as file:
            shutil.copyfileobj(sys.stdin.buffer, file, 1024 * 1024)
            file.flush()
            found = await run_progress(engine.load(Path(file.name)), shown)
    for image in {image.id: image for _, image in found}.values():
        for tag in image.tags or (image.id,):
            put(f"Loaded image{' ID' if tag == image.id else ''}: {tag}")
    return 0


COMMANDS = {
    "load": Command(
        "[OPTIONS]", _options, run, examples=("wharf load -i image.tar", "docker save debian:12 | wharf load")
    )
}
