"""``wharf images``."""

from __future__ import annotations

from core.cli.command import Arguments, Command, Parser, flag, form_option, many, parse_filters
from core.cli.output import put, show_rows
from core.cli.ps import has_label
from core.cli.views import familiar, image_rows
from core.engine import Engine
from core.model import Image

_FILTERS = ("reference", "label", "dangling")


def _options(parser: Parser) -> None:
    flag(parser, "-q", "--quiet", help="only ids")
    flag(parser, "-a", "--all", help="accepted for docker's sake: there are no hidden images")
    flag(parser, "--no-trunc", help="whole ids")
    flag(parser, "--digests", help="with the digests of their manifests")
    many(parser, "-f", "--filter", metavar="KEY=VALUE", help=", ".join(_FILTERS))
    form_option(parser)
    parser.add_argument("repository", nargs="?", metavar="REPOSITORY[:TAG]", help="only these")


async def run(engine: Engine, args: Arguments) -> int:
    """Newest first; one line per tag."""
    filters = parse_filters(args.filter, _FILTERS)
    images = [image for image in await engine.images() if _passes(image, filters)]
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


def _passes(image: Image, filters: dict[str, list[str]]) -> bool:
    if not all(has_label(image.config.labels, value) for value in filters.get("label", [])):
        return False
    return all(bool(image.tags) is (value.lower() in ("false", "0")) for value in filters.get("dangling", []))


def _named(repository: str, tag: str, wanted: str | None, patterns: list[str]) -> bool:
    """Whether a line goes by one of the names asked for; these may have wildcards."""
    from fnmatch import fnmatchcase

    asked = [*([wanted] if wanted else []), *patterns]
    return not asked or any(
        fnmatchcase(repository, familiar(name)) or fnmatchcase(f"{repository}:{tag}", familiar(name)) for name in asked
    )


COMMANDS = {
    "images": Command(
        "[OPTIONS] [REPOSITORY[:TAG]]",
        _options,
        run,
        examples=("wharf images", "wharf images --format '{{.Repository}}:{{.Tag}} {{.Size}}'"),
    )
}
