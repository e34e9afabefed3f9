"""``wharf pull``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag
from core.cli.output import complain, put
from core.cli.progress import Progress, pull_image
from core.cli.views import familiar
from core.errors import InvalidArgument, Locked, NoPlatform, NotFound, Unsupported, WharfError

if TYPE_CHECKING:
    from core.engine import Engine


def platform_option(parser: Parser) -> None:
    """``--platform``; docker's variable has its default."""
    default = os.environ.get("DOCKER_DEFAULT_PLATFORM", "")
    text = "for another machine: linux/arm64, linux/arm/v7 …"
    parser.add_argument("--platform", default=default, metavar="OS/ARCH[/VARIANT]", help=text)


def _options(parser: Parser) -> None:
    flag(parser, "-a", "--all-tags", help="every tag of the repository")
    flag(parser, "-q", "--quiet", help="no progress, only the reference")
    platform_option(parser)
    flag(parser, "--insecure", help="allow a registry without TLS, or with a certificate of its own")
    flag(parser, "--disable-content-trust", default=True, help="accepted for docker's sake: digests are always checked")
    parser.add_argument("references", nargs="+", metavar="REFERENCE", help="[REGISTRY/]NAME[:TAG|@DIGEST]")


async def run(engine: Engine, args: Arguments) -> int:
    """Pull one after the other, also after one that failed; each fetches its layers side by side."""
    code = 0
    for reference in args.references:
        try:
            if args.all_tags:
                await _every_tag(engine, args, reference)
            else:
                put(await _one(engine, args, reference), flush=True)
        except Locked:  # the passphrase is asked for above
            raise
        except WharfError as error:
            if len(args.references) == 1:
                raise
            complain(str(error))
            code = 1
    return code


async def _one(engine: Engine, args: Arguments, reference: str) -> str:
    """Pull with docker's words around the progress; returns the full reference."""
    if not args.quiet and not _has_version(reference):
        put("Using default tag: latest", flush=True)
    shown = Progress(sys.stdout, quiet=args.quiet, head=True)
    last = await pull_image(engine, reference, shown, insecure=args.insecure, platform=args.platform)
    if args.quiet:
        return last.reference
    if last.digest:
        put(f"Digest: {last.digest}")
    said = "Downloaded newer image for" if last.changed else "Image is up to date for"
    put(f"Status: {said} {familiar(last.reference)}")
    return last.reference


def _has_version(reference: str) -> bool:
    return "@" in reference or ":" in reference.rpartition("/")[2]


async def _every_tag(engine: Engine, args: Arguments, repository: str) -> None:
    """What is no image (signatures are tags, too), or none for the platform, is passed by and named; what the registry
    has lost of an image is an error."""
    found = await engine.tags(repository, insecure=args.insecure)
    if not found:
        raise InvalidArgument(f"{repository} has no tags", "there is nothing to pull", "Check its name")
    full = ""
    for tag in found:
        try:
            full = await _one(engine, args, f"{repository}:{tag}")
        except (NoPlatform, Unsupported) as error:
            complain(f"{repository}:{tag} is left out: {error.what}{f', {error.why}' if error.why else ''}")
    if not full:
        why = f"each of its {len(found)} tags was left out" if len(found) > 1 else "its only tag was left out"
        raise NotFound(f"{repository} has no image that could be pulled", why, "Try another --platform")
    put(full.rpartition(":")[0], flush=True)


COMMANDS = {
    "pull": Command(
        "[OPTIONS] REFERENCE [REFERENCE...]",
        _options,
        run,
        about="Layers that are here are not fetched, downloads that broke off go on where they were. Mirrors,\n"
        "certificates and proxies of registries are in the settings (see the README).",
        examples=(
            "wharf pull debian:12",
            "wharf pull --platform linux/arm64 debian:12",
            "wharf pull -a registry.local:5000/team/app",
            "wharf pull registry.local:5000/team/app@sha256:…",
        ),
    )
}
