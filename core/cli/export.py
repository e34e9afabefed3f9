"""``wharf export`` and ``wharf import``: a container's files as a tar, and an image from one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, many
from core.cli.output import put
from core.cli.progress import transfer
from core.errors import InvalidArgument, WharfError

if TYPE_CHECKING:
    from core.engine import Engine


def standard_output() -> int:
    """Its descriptor. :raises InvalidArgument: it is a terminal"""
    if sys.stdout is None or sys.stdout.isatty():
        raise InvalidArgument(
            "an archive cannot be shown on a terminal", "", "Name a file with -o, or send the output elsewhere"
        )
    sys.stdout.flush()
    return sys.stdout.fileno()


@contextlib.contextmanager
def piped() -> Iterator[None]:
    """For what is written to standard output by the engine itself: a reader that has gone is not its failure.

    :raises BrokenPipeError: nobody reads
    """
    try:
        yield
    except WharfError as error:
        if isinstance(error.__cause__, BrokenPipeError):
            raise error.__cause__ from None
        raise


def _export_options(parser: Parser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", help="where to (default: standard output)")
    parser.add_argument("container", metavar="CONTAINER")


async def run_export(engine: Engine, args: Arguments) -> int:
    """The file has its name once it is whole."""
    target = Path(args.output) if args.output else standard_output()
    with piped(), transfer("Exporting", wanted=bool(args.output)) as watch:
        await engine.export(args.container, target, watch=watch)
    return 0


def _import_options(parser: Parser) -> None:
    many(parser, "-c", "--change", metavar="INSTRUCTION", help="as in a Dockerfile: 'CMD [\"sh\"]'")
    parser.add_argument("-m", "--message", default="", metavar="TEXT", help="what it is, for its history")
    parser.add_argument("--platform", default="", metavar="OS/ARCH", help="what it runs on (default: this machine)")
    parser.add_argument("source", metavar="FILE|-", help="a tar, plain or compressed; - for standard input")
    parser.add_argument("name", nargs="?", default="", metavar="REPOSITORY[:TAG]")


async def run_import(engine: Engine, args: Arguments) -> int:
    """Prints the new image's id."""
    source: int | Path = Path(args.source)
    if args.source == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise InvalidArgument("nothing to import", "standard input is a terminal", "Name a file")
        source = sys.stdin.fileno()
    elif args.source.startswith(("http://", "https://")):
        raise InvalidArgument(
            f"cannot import {args.source}", "files only", f"Fetch it: curl -fsSL {args.source} | wharf import -"
        )
    message = args.message or f"Imported from {args.source}"
    with transfer("Importing") as watch:
        image = await engine.import_image(
            source, args.name, message=message, changes=args.change, platform=args.platform, watch=watch
        )
    put(image.id)
    return 0


COMMANDS = {
    "export": Command(
        "[OPTIONS] CONTAINER",
        _export_options,
        run_export,
        about="All that its image and itself have; what is mounted in it is left out.",
        examples=("wharf export -o web.tar web", "wharf export web | tar -t"),
    ),
    "import": Command(
        "[OPTIONS] FILE|- [REPOSITORY[:TAG]]",
        _import_options,
        run_import,
        examples=(
            "wharf import rootfs.tar.xz team/base:1",
            "tar -C rootfs -c . | wharf import -c 'CMD [\"sh\"]' - team/base:1",
        ),
    ),
}
