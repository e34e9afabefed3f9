"""``wharf images``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag, form_option, many, parse_filters
from core.cli.output import put, show_rows
from core.cli.views import image_rows
from core.names import familiar, name_matches
from core.units import human_size

if TYPE_CHECKING:
    from core.engine import Engine
    from core.model import Image

_FILTERS = ("dangling", "label", "before", "since", "until", "reference")


def _options(parser: Parser) -> None:
    flag(parser, "-q", "--quiet", help="only ids")
    flag(parser, "-a", "--all", help="accepted for docker's sake: there are no hidden images")
    flag(parser, "--no-trunc", help="whole ids")
    flag(parser, "--digests", help="with the digests of their manifests")
    flag(parser, "--tree", help="which images stand on the same layers, and what each layer occupies")
    many(parser, "-f", "--filter", metavar="KEY=VALUE", help=", ".join(_FILTERS))
    form_option(parser)
    parser.add_argument("repository", nargs="?", metavar="REPOSITORY[:TAG]", help="only these")


async def run(engine: Engine, args: Arguments) -> int:
    """Newest first; one line per tag."""
    filters = parse_filters(args.filter, _FILTERS)
    images = await engine.images(filters)
    if args.tree:
        return await _tree(engine, images)
    rows = [
        row
        for image in images
        for row in image_rows(image, truncate=not args.no_trunc)
        if _named(str(row["Repository"]), str(row["Tag"]), args.repository, filters.get("reference", []))
    ]
    if args.quiet:
        for short in dict.fromkeys(str(row["ID"]) for row in rows):
            put(short)
        return 0
    columns = [("REPOSITORY", "Repository"), ("TAG", "Tag")]
    columns += [("DIGEST", "Digest")] if args.digests else []
    columns += [("IMAGE ID", "ID"), ("CREATED", "CreatedSince"), ("SIZE", "Size")]
    show_rows(rows, columns, args.format, headers=(("CREATED AT", "CreatedAt"), ("DIGEST", "Digest")))
    return 0


def _named(repository: str, tag: str, wanted: str | None, patterns: list[str]) -> bool:
    """Whether a line goes by the name asked for and by one of the patterns; both may have wildcards."""
    name = repository if tag == "<none>" else f"{repository}:{tag}"
    return (not wanted or name_matches(name, wanted)) and (
        not patterns or any(name_matches(name, pattern) for pattern in patterns)
    )


async def _tree(engine: Engine, images: Sequence[Image]) -> int:
    """A line for each layer below the one that it stands on, with the images that end there."""
    usage = {use.image.id: use for use in (await engine.disk_usage()).images}
    ends: defaultdict[tuple[str, ...], list[Image]] = defaultdict(list)
    below: defaultdict[tuple[str, ...], dict[tuple[str, ...], int]] = defaultdict(dict)
    for image in images:
        ends[image.layers].append(image)
        sizes = usage[image.id].layers if image.id in usage else ()
        for count, size in enumerate(sizes):
            below[image.layers[:count]][image.layers[: count + 1]] = size
    for line in _branches(ends, below):
        put(line)
    return 0


def _branches(
    ends: Mapping[tuple[str, ...], Sequence[Image]],
    below: Mapping[tuple[str, ...], Mapping[tuple[str, ...], int]],
) -> Iterator[str]:
    todo: list[tuple[tuple[str, ...], str, str]] = [((), "", "")]
    while todo:
        at, mark, indent = todo.pop()
        if at:
            names = [_title(image) for image in ends.get(at, ())]
            text = f"{mark} {at[-1].removeprefix('sha256:')[:12]}  {human_size(below[at[:-1]][at])}"
            yield text + ("  " + ", ".join(names) if names else "")
        children = list(below.get(at, ()))
        # An only child is drawn straight below: most images are one long branch.
        if len(children) == 1:
            todo.append((children[0], f"{indent}└─", indent))
            continue
        marks = [("├─", "│  ")] * (len(children) - 1) + [("└─", "   ")]
        rows = zip(children, marks[-len(children) :] if children else [], strict=True)
        todo += reversed([(child, indent + mark, indent + more) for child, (mark, more) in rows])


def _title(image: Image) -> str:
    return " ".join(map(familiar, image.tags)) or f"<none> {image.short_id}"


COMMANDS = {
    "images": Command(
        "[OPTIONS] [REPOSITORY[:TAG]]",
        _options,
        run,
        examples=(
            "wharf images",
            "wharf images --filter 'reference=team/*' --filter until=720h",
            "wharf images --tree",
            "wharf images --format '{{.Repository}}:{{.Tag}} {{.Size}}'",
        ),
    )
}
