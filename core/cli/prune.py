"""``wharf image prune``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag, many, parse_filters, reading
from core.cli.output import agreed, put
from core.cli.views import familiar
from core.errors import InvalidArgument
from core.model import PruneRule
from core.units import human_size, parse_duration

if TYPE_CHECKING:
    from core.engine import Engine

_FILTERS = ("label", "label!", "until")


def _options(parser: Parser) -> None:
    flag(parser, "-a", "--all", help="every image that no container uses, not only those without a tag")
    flag(parser, "-f", "--force", help="do not ask")
    many(parser, "--filter", metavar="KEY=VALUE", help="until=TIME (made before), label=KEY, label!=KEY")
    parser.add_argument("--unused-for", metavar="TIME", help="only those without a container for so long, like 30d")
    parser.add_argument("--keep", type=int, default=0, metavar="N", help="of each repository the N newest images stay")
    flag(parser, "--dry-run", help="only show what would go")


async def run(engine: Engine, args: Arguments) -> int:
    """Docker's answer: what was removed, and how much that gave back."""
    if args.keep < 0:
        raise InvalidArgument(f"invalid --keep {args.keep}", "it is less than nothing", "Write it like --keep 3")
    with reading():
        age = None if args.unused_for is None else _age(args.unused_for)
    rule = PruneRule(
        all=args.all,
        only=await engine.image_filter(parse_filters(args.filter, _FILTERS)),
        unused_for=age,
        keep=args.keep,
        dry_run=args.dry_run,
    )
    if not (args.force or args.dry_run) and not agreed(_meant(args)):
        return 1
    done = await engine.prune_images(rule)
    if done.lines:
        put("Would delete:" if rule.dry_run else "Deleted Images:")
        for line in done.lines:
            word, _, what = line.partition(": ")
            put(f"{word.lower()}: {familiar(what)}")
        put("")
    put(f"Total {'reclaimable' if rule.dry_run else 'reclaimed'} space: {human_size(done.reclaimed)}")
    return 0


def _age(text: str) -> float:
    """Seconds. :raises InvalidArgument: also for less than nothing"""
    try:
        seconds = parse_duration(text)
    except InvalidArgument as error:
        raise InvalidArgument(f"invalid --unused-for {text!r}", error.why, "Write it like 7d, 12h or 30m") from error
    if seconds < 0:
        raise InvalidArgument(f"invalid --unused-for {text!r}", "it is less than nothing", "Write it like 7d or 12h")
    return seconds


def _meant(args: Arguments) -> str:
    what = "all images without at least one container associated to them" if args.all else "all dangling images"
    narrowed = args.filter or args.unused_for is not None or args.keep
    return f"{what}{', as far as your filters let them through' if narrowed else ''}"


COMMANDS = {
    "image prune": Command(
        "[OPTIONS]",
        _options,
        run,
        about="Images of containers always stay. Without a further condition half-made layers of what was killed go\n"
        "as well; with --all, too, downloads that were broken off and layers of pulls that were never finished.",
        examples=(
            "wharf image prune",
            "wharf image prune -a --filter until=720h --filter label!=keep",
            "wharf image prune -a --unused-for 30d --keep 3 --dry-run",
        ),
    )
}
