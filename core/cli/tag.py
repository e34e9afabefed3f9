"""``wharf tag`` and ``wharf untag``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser
from core.cli.output import put
from core.cli.views import familiar
from core.errors import InvalidArgument

if TYPE_CHECKING:
    from core.engine import Engine


def _tag_options(parser: Parser) -> None:
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("name", metavar="REPOSITORY[:TAG]")


async def run_tag(engine: Engine, args: Arguments) -> int:
    """Says nothing, as docker."""
    await engine.tag(args.image, args.name)
    return 0


def _untag_options(parser: Parser) -> None:
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument(
        "names", nargs="*", metavar="REPOSITORY[:TAG]", help="which (default: IMAGE, if that is a name)"
    )
    parser.add_argument("-a", "--all", action="store_true", help="all names of the image")


async def run_untag(engine: Engine, args: Arguments) -> int:
    """A line for each name that is gone."""
    if args.all and args.names:
        raise InvalidArgument("--all, or names?", "--all takes all of them", "Leave one of the two out")
    for name in await engine.untag(args.image, args.names, every=args.all):
        put(f"Untagged: {familiar(name)}")
    return 0


COMMANDS = {
    "tag": Command(
        "IMAGE REPOSITORY[:TAG]",
        _tag_options,
        run_tag,
        about="If another image has that name, it loses it.",
        examples=("wharf tag debian:12 registry.local:5000/team/debian:12",),
    ),
    "untag": Command(
        "[OPTIONS] IMAGE [REPOSITORY[:TAG]...]",
        _untag_options,
        run_untag,
        about="A name goes alone; of an id, or with --all, all names go. The image stays, also without any.",
        examples=("wharf untag debian:12", "wharf untag 5f2a9c1b team/debian:old", "wharf untag --all debian:12"),
    ),
}
