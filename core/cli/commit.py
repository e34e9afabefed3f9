"""``wharf commit``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag, many
from core.cli.output import put
from core.cli.progress import transfer

if TYPE_CHECKING:
    from core.engine import Engine


def _options(parser: Parser) -> None:
    parser.add_argument("-a", "--author", default="", metavar="TEXT", help="who made it: 'Jane Doe <jane@example.org>'")
    parser.add_argument("-m", "--message", default="", metavar="TEXT", help="what for")
    many(parser, "-c", "--change", metavar="INSTRUCTION", help="as in a Dockerfile: 'CMD [\"app\"]', 'ENV KEY=VALUE'")
    flag(parser, "-p", "--pause", default=True, help="freeze the container meanwhile (on; --pause=false: off)")
    parser.add_argument("container", metavar="CONTAINER")
    parser.add_argument("name", nargs="?", default="", metavar="REPOSITORY[:TAG]")


async def run(engine: Engine, args: Arguments) -> int:
    """Prints the new image's id."""
    with transfer("Committing") as watch:
        image = await engine.commit(
            args.container,
            args.name,
            author=args.author,
            message=args.message,
            changes=args.change,
            pause=args.pause,
            watch=watch,
        )
    put(image.id)
    return 0


COMMANDS = {
    "commit": Command(
        "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
        _options,
        run,
        about="What the container has changed becomes a layer on those of its image. Volumes and bind mounts are not "
        "in it.",
        examples=(
            "wharf commit web team/web:fixed",
            "wharf commit -m 'with curl' -c 'ENV STAGE=test' -c 'CMD [\"app\", \"-v\"]' web team/web:test",
        ),
    )
}
