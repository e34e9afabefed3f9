"""``wharf save``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser
from core.cli.export import piped, standard_output
from core.cli.progress import transfer

if TYPE_CHECKING:
    from core.engine import Engine

_FORMS = ("docker-archive", "oci-archive", "oci-dir")


def _options(parser: Parser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", help="where to (default: standard output)")
    parser.add_argument(
        "--format",
        choices=_FORMS,
        default=_FORMS[0],
        help="docker-archive (which OCI tools read too), oci-archive, or oci-dir: a layout folder",
    )
    parser.add_argument(
        "--compression", choices=("none", "gzip", "zstd"), default="none", help="of the layers (default: none)"
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a repository without a tag means all its tags")


async def run(engine: Engine, args: Arguments) -> int:
    """All images into one archive; layers that they share are in it once."""
    target = Path(args.output) if args.output else standard_output()
    with piped(), transfer("Saving", wanted=bool(args.output)) as watch:
        await engine.save(args.images, target, form=args.format, compression=args.compression, watch=watch)
    return 0


COMMANDS = {
    "save": Command(
        "[OPTIONS] IMAGE [IMAGE...]",
        _options,
        run,
        examples=(
            "wharf save -o debian.tar debian:12",
            "wharf save team/app team/db:5 | ssh host wharf load",
            "wharf save --format oci-dir --compression zstd -o layout debian:12",
        ),
    )
}
