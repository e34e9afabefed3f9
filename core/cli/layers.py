"""``wharf image layers``, ``image files`` and ``image find``: look into images without starting them."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag, form_option
from core.cli.output import complain, put, shorten, show_rows, visible
from core.cli.views import ago, familiar
from core.errors import InvalidArgument, NotFound
from core.units import human_size

if TYPE_CHECKING:
    from core.engine import Engine, ImageLayers
    from core.model import FoundFile, LayerFacts, TreeEntry

_TYPES = {
    "file": stat.S_IFREG,
    "link": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "folder": stat.S_IFDIR,
    "fifo": stat.S_IFIFO,
}
_LETTERS = {"added": "A", "changed": "C", "removed": "D"}


# -- layers ---------------------------------------------------------------------------------------------------------
def _layers_options(parser: Parser) -> None:
    flag(parser, "--no-trunc", help="whole commands and digests")
    form_option(parser)
    parser.add_argument("image", metavar="IMAGE")


async def layers(engine: Engine, args: Arguments) -> int:
    """Lowest first; with the default table a line on what is wasted."""
    found = await engine.image_layers(args.image)
    rows = [_layer_row(layer, truncate=not args.no_trunc) for layer in found.layers]
    names = ("Layer", "Size", "Files", "Added", "Changed", "Removed", "Wasted", "CreatedBy")
    columns = [("CREATED BY" if name == "CreatedBy" else name.upper(), name) for name in names]
    show_rows(rows, columns, args.format, headers=(("CREATED", "CreatedSince"), ("DIFF ID", "ID")))
    if args.format is None:
        put(f"\n{_waste(found)}")
    return 0


def _waste(found: ImageLayers) -> str:
    size = sum(layer.size for layer in found.layers)
    count = sum(layer.wasted_files for layer in found.layers)
    if not count:
        return f"nothing of {human_size(size)} is wasted"
    return f"{human_size(found.wasted)} of {human_size(size)} wasted: {count} files that later layers replace or remove"


def _layer_row(layer: LayerFacts, *, truncate: bool) -> dict[str, str]:
    command = " ".join(layer.created_by.removeprefix("/bin/sh -c ").removeprefix("#(nop)").split())
    return {
        "Layer": str(layer.position),
        "ID": layer.diffid.removeprefix("sha256:")[:12] if truncate else layer.diffid,
        "Size": human_size(layer.size),
        "Files": str(layer.files),
        "Added": str(layer.added),
        "Changed": str(layer.changed),
        "Removed": str(layer.removed),
        "Wasted": human_size(layer.wasted),
        "CreatedSince": ago(layer.created) or "-",
        "CreatedBy": (shorten(command, 50) if truncate else command) or "-",
    }


# -- files ----------------------------------------------------------------------------------------------------------
def _files_options(parser: Parser) -> None:
    flag(parser, "-l", "--long", help="with mode, owner, size, time and layer, as ls -l")
    flag(parser, "-R", "--recursive", help="all below, and not only what is in PATH itself")
    flag(parser, "-c", "--changes", help="what the layer (the last without --layer) adds (A), changes (C), removes (D)")
    parser.add_argument("--layer", type=int, metavar="N", help="with the layers up to N, 1 the lowest (default: all)")
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("path", nargs="?", default="", metavar="PATH")


async def files(engine: Engine, args: Arguments) -> int:
    """One path a line."""
    found = await engine.image_layers(args.image)
    position = args.layer if args.layer is not None else len(found.layers)
    if not 1 <= position <= max(1, len(found.layers)):
        raise InvalidArgument(
            f"{args.image} has no layer {position}", f"it has {len(found.layers)}", "See `wharf image layers`"
        )
    whose = "the image" if args.layer is None else f"layer {position}"
    for entry in _chosen(found, args.path, position, whose, deep=args.recursive or args.changes):
        if args.changes and not entry.change:
            continue
        if entry.change == "removed" and not args.changes:
            continue
        mark = f"{_LETTERS.get(entry.change, ' ')} " if args.changes else ""
        path = visible(f"/{entry.path}") if os.isatty(1) else f"/{entry.path}"
        put(f"{mark}{_long(entry) if args.long else ''}{path}{_target(entry) if args.long else ''}")
    return 0


def _chosen(found: ImageLayers, path: str, position: int, whose: str, *, deep: bool) -> Iterator[TreeEntry]:
    path = path.strip("/")
    if path:
        entry = found.entry(path, position)
        if entry is None:
            raise NotFound(f"no such file or folder: /{path}", f"{whose} does not have it", "See: wharf image find")
        if entry.kind != "folder":
            yield entry
            return
    yield from found.walk(position, path) if deep else found.children(path, position)


def _long(entry: TreeEntry) -> str:
    mode = stat.filemode(_TYPES[entry.kind] | entry.mode)
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(entry.mtime // 10**9))
    owner = f"{entry.uid}:{entry.gid}"
    return f"{mode} {owner:>11} {human_size(entry.size):>8} {when} {entry.position:>3} "


def _target(entry: TreeEntry) -> str:
    if not entry.target:
        return ""
    return f" -> {visible(entry.target)}" if entry.kind == "symlink" else f" = /{visible(entry.target)}"


# -- find -----------------------------------------------------------------------------------------------------------
def _find_options(parser: Parser) -> None:
    form_option(parser)
    parser.add_argument("pattern", metavar="PATTERN")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="only in these (default: all)")


async def find(engine: Engine, args: Arguments) -> int:
    """A line for each layer of each image that has the path; exit code 1 where none has."""
    found = await engine.search_layers(args.pattern, args.images)
    rows = [_found_row(each) for each in found]
    columns = [(name.upper(), name) for name in ("Image", "Layer", "Size", "Fate", "Path")]
    show_rows(rows, columns, args.format, headers=(("IMAGE ID", "ImageID"), ("DIFF ID", "ID"), ("KIND", "Kind")))
    if not found:
        complain(f"no layer has {args.pattern!r}")
    return 0 if found else 1


def _found_row(each: FoundFile) -> dict[str, str]:
    fates = {"kept": "kept", "whiteout": "deletes it"}
    return {
        "Image": familiar(each.name),
        "ImageID": each.image,
        "Layer": str(each.position),
        "ID": each.diffid,
        "Size": human_size(each.size) if each.kind == "file" else "-",
        "Kind": each.kind or "whiteout",
        "Fate": fates.get(each.fate, f"{each.fate} by {each.ended}"),
        "Path": f"/{each.path}",
    }


COMMANDS = {
    "image layers": Command(
        "[OPTIONS] IMAGE",
        _layers_options,
        layers,
        about="Per layer: its files, how many of them are added, changed (the whole file is stored again) and removed, "
        "and\nwhat is wasted: files that a later layer replaces or removes, pulled and stored for nothing.",
        examples=("wharf image layers nginx:1.27", "wharf image layers --format '{{.ID}} {{.Wasted}}' nginx:1.27"),
    ),
    "image files": Command(
        "[OPTIONS] IMAGE [PATH]",
        _files_options,
        files,
        about="Without -R what is directly in PATH (default: the root). Nothing is started or mounted.",
        examples=("wharf image files -l nginx:1.27 /etc/nginx", "wharf image files --changes --layer 3 nginx:1.27"),
    ),
    "image find": Command(
        "[OPTIONS] PATTERN [IMAGE...]",
        _find_options,
        find,
        about="Searches every layer, also for what a later layer hides. PATTERN is a path (/etc/passwd), a glob\n"
        "(*.pem, /usr/**/*.so: ** goes over slashes), or a part of a path.",
        examples=("wharf image find '*.pem'", "wharf image find /etc/passwd nginx:1.27"),
    ),
}
