"""``wharf fsck``."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, closing, flag
from core.cli.output import put, visible
from core.errors import InvalidArgument, WharfError
from core.units import human_size

if TYPE_CHECKING:
    from core.engine import Engine
    from core.model import Checked, Damage, Remains


def _options(parser: Parser) -> None:
    flag(parser, "--repair", help="mend what is damaged: make it again, or fetch it again from where it came")
    flag(parser, "--remove", help="with --repair: take away what cannot be mended, with the images that need it")
    flag(parser, "-q", "--quiet", help="only what is damaged")


async def run(engine: Engine, args: Arguments) -> int:
    """0 where all is well or has been mended, 1 where damage stays."""
    if args.remove and not args.repair:
        raise InvalidArgument("--remove without --repair", "what can be mended is not removed", "Give both")
    live = not args.quiet and sys.stderr is not None and sys.stderr.isatty()
    last: Checked | None = None
    steps = engine.check_store(repair=args.repair, remove=args.remove)
    async with closing(steps):
        async for last in steps:
            if live:
                text = f"{last.done}/{last.total} verified, {human_size(last.size)}  {visible(last.what)}"
                print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)
    if live:
        print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
    assert last is not None
    for damage in last.damages:
        _show(damage)
    left = sum(not damage.mended for damage in last.damages)
    if not args.quiet:
        found = f"{len(last.damages)} damaged" if last.damages else "all is well"
        done = "mended or removed" if args.remove else "mended"
        mended = f", {len(last.damages) - left} {done}" if args.repair and last.damages else ""
        put(f"{last.total} layers and documents verified ({human_size(last.size)}): {found}{mended}")
        if left and not args.repair:
            put("Mend them with: wharf fsck --repair")
        with suppress(WharfError):  # it is beside the question, and must not spoil its answer
            _show_remains(await engine.remains())
    return int(left > 0)


def _show_remains(found: Remains) -> None:
    """What was broken off is no damage, but occupies the disk."""
    for count, size, what, way in (
        (found.half, found.half_size, "half-made layer", "wharf image prune"),
        (found.whole, found.whole_size, "layer", "wharf image prune --all"),
    ):
        if count:
            words = f"{count} {what}{'s' * (count > 1)} without an image ({human_size(size)})"
            put(f"{words}, of something that was broken off: {way} takes {'them' if count > 1 else 'it'} away")


def _show(damage: Damage) -> None:
    name = damage.id.removeprefix("sha256:")[:12]
    images = f" (of {', '.join(map(visible, damage.images))})" if damage.images else ""
    put(f"{damage.kind} {name}{images}: {visible(damage.why)}")
    if damage.done:
        put(f"    {visible(damage.done)}")


COMMANDS = {
    "fsck": Command(
        "[OPTIONS]",
        _options,
        run,
        about="Each layer's archive is rebuilt and compared with its digest, its files with the archive: content,\n"
        "owners, modes, times, attributes, links, and what does not belong there. --repair makes a layer again from\n"
        "its own archive, or fetches it again by digest from where it came; what it cannot mend (the registry is\n"
        "away, or the image was made here) it keeps and names. Only --repair --remove takes that away with its\n"
        "images, and never what a container needs.",
        examples=("wharf fsck", "wharf fsck --repair", "wharf fsck --repair --remove"),
    )
}
