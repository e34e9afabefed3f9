"""``wharf registry ls``, ``registry tags``, ``registry referrers``: what a registry has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag, form_option
from core.cli.output import put, shorten, show_rows
from core.names import natural
from core.units import human_size

if TYPE_CHECKING:
    from core.engine import Engine


def _insecure(parser: Parser) -> None:
    flag(parser, "--insecure", help="allow a registry without TLS, or with a certificate of its own")


def _ls_options(parser: Parser) -> None:
    _insecure(parser)
    parser.add_argument("registry", metavar="REGISTRY", help="HOST[:PORT]")


async def ls(engine: Engine, args: Arguments) -> int:
    """One repository a line, as one would pull it."""
    for name in await engine.catalogue(args.registry, insecure=args.insecure):
        put(f"{args.registry}/{name}")
    return 0


def _tags_options(parser: Parser) -> None:
    _insecure(parser)
    parser.add_argument("repository", metavar="REPOSITORY", help="[REGISTRY/]NAME")


async def tags(engine: Engine, args: Arguments) -> int:
    """One tag a line, versions in their order: registries list them in whichever they like."""
    for tag in sorted(await engine.tags(args.repository, insecure=args.insecure), key=natural):
        put(tag)
    return 0


def _referrers_options(parser: Parser) -> None:
    _insecure(parser)
    parser.add_argument("--artifact-type", default="", metavar="TYPE", help="only these")
    flag(parser, "--no-trunc", help="whole annotations")
    form_option(parser)
    parser.add_argument("reference", metavar="REFERENCE", help="[REGISTRY/]NAME[:TAG|@DIGEST]")


async def referrers(engine: Engine, args: Arguments) -> int:
    """A table."""
    found = await engine.referrers(args.reference, kind=args.artifact_type, insecure=args.insecure)
    rows = []
    for one in found:
        notes = ",".join(f"{key}={value}" for key, value in sorted(one.annotations.items()))
        rows.append(
            {
                "Digest": one.digest,
                "ArtifactType": one.kind,
                "Size": human_size(one.size),
                "Annotations": notes if args.no_trunc else shorten(notes, 60),
            }
        )
    columns = [(key.upper(), key) for key in ("Digest", "Size", "Annotations")]
    show_rows(rows, [columns[0], ("ARTIFACT TYPE", "ArtifactType"), *columns[1:]], args.format)
    return 0


COMMANDS = {
    "registry ls": Command(
        "[OPTIONS] REGISTRY",
        _ls_options,
        ls,
        about="Private registries list their repositories, most public ones do not.",
        examples=("wharf registry ls registry.lan:5000",),
    ),
    "registry tags": Command("[OPTIONS] REPOSITORY", _tags_options, tags, examples=("wharf registry tags debian",)),
    "registry referrers": Command(
        "[OPTIONS] REFERENCE",
        _referrers_options,
        referrers,
        about="Signatures, bills of materials, attestations: whatever names the image as its subject.",
        examples=("wharf registry referrers registry.lan:5000/team/app:1",),
    ),
}
