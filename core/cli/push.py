"""``wharf push``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, closing, flag
from core.cli.output import put
from core.cli.progress import PushLines
from core.cli.views import familiar
from core.errors import InvalidArgument, NotFound
from core.model import PushProgress

if TYPE_CHECKING:
    from core.engine import Engine


def _options(parser: Parser) -> None:
    flag(parser, "-a", "--all-tags", help="every tag of the repository that is here")
    flag(parser, "-q", "--quiet", help="no progress, only the reference")
    parser.add_argument(
        "--compression-format",
        dest="compression",
        choices=("gzip", "zstd", "none"),
        default="",
        help="of the layers (default: as the registry has them, else gzip)",
    )
    flag(parser, "--insecure", help="allow a registry without TLS, or with a certificate of its own")
    flag(parser, "--disable-content-trust", default=True, help="accepted for docker's sake")
    parser.add_argument("reference", metavar="NAME[:TAG]", help="[REGISTRY/]NAME[:TAG]")


async def run(engine: Engine, args: Arguments) -> int:
    """One tag, or all."""
    has_tag = ":" in args.reference.rpartition("/")[2] or "@" in args.reference
    if args.all_tags:
        if has_tag:
            raise InvalidArgument("a tag and --all-tags contradict each other", "", "Leave the tag out")
        for tag in await _tags(engine, args.reference):
            await _one(engine, args, tag)
        return 0
    if not has_tag and not args.quiet:
        put("Using default tag: latest", flush=True)
    await _one(engine, args, args.reference)
    return 0


async def _tags(engine: Engine, repository: str) -> list[str]:
    """Our tags of a repository. :raises NotFound: none"""
    names = [tag for image in await engine.images() for tag in image.tags]
    found = sorted(tag for tag in names if repository in (tag.rpartition(":")[0], familiar(tag).rpartition(":")[0]))
    if not found:
        raise NotFound(f"no image has a tag of {repository}", "only what is here can be pushed", "See `wharf images`")
    return found


async def _one(engine: Engine, args: Arguments, reference: str) -> PushProgress:
    shown = PushLines(sys.stdout, quiet=args.quiet)
    last = PushProgress(reference)
    steps = engine.push(reference, insecure=args.insecure, compression=args.compression)
    async with closing(steps):
        async for last in steps:
            shown.show(last)
    if args.quiet:
        put(last.reference, flush=True)
    else:
        put(f"{last.reference.rpartition(':')[2]}: digest: {last.digest} size: {last.size}", flush=True)
    return last


COMMANDS = {
    "push": Command(
        "[OPTIONS] NAME[:TAG]",
        _options,
        run,
        about="Layers that the registry has are not sent; those of another repository there are taken over.",
        examples=("wharf push registry.lan:5000/team/app:1", "wharf push -a registry.lan:5000/team/app"),
    )
}
