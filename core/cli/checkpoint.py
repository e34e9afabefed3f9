"""``wharf checkpoint create|ls|rm`` and ``wharf restore``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag, form_option
from core.cli.output import put, show_rows
from core.cli.views import ago, local_time
from core.errors import InvalidArgument
from core.model import Checkpoint, CheckpointOptions
from core.units import human_size

if TYPE_CHECKING:
    from core.engine import Engine

_COLUMNS = (("CHECKPOINT NAME", "Name"), ("CREATED", "CreatedSince"), ("SIZE", "Size"))


def _create_options(parser: Parser) -> None:
    flag(parser, "-R", "--leave-running", help="let the container go on; without it, it is ended")
    parser.add_argument(
        "-e", "--export", type=Path, metavar="FILE", help="write an archive: .tar, .tar.gz or .tar.zst by its suffix"
    )
    flag(parser, "--tcp-established", help="take established TCP connections along")
    flag(parser, "--file-locks", help="take file locks along (no process outside may hold one on the same file)")
    flag(parser, "--ext-unix-sk", help="take unix sockets along whose other end is outside; they lose their peer")
    parser.add_argument("container", metavar="CONTAINER")
    parser.add_argument("checkpoint", nargs="?", default="", metavar="CHECKPOINT")


async def create(engine: Engine, args: Arguments) -> int:
    """Prints the checkpoint's name, or the archive's path."""
    made = await engine.checkpoint(
        args.container,
        args.checkpoint,
        leave_running=args.leave_running,
        export=args.export,
        options=CheckpointOptions(args.tcp_established, args.file_locks, args.ext_unix_sk),
    )
    put(made.name or str(args.export))
    return 0


def _ls_options(parser: Parser) -> None:
    flag(parser, "-q", "--quiet", help="only names")
    form_option(parser)
    parser.add_argument("container", metavar="CONTAINER")


async def ls(engine: Engine, args: Arguments) -> int:
    """A container's checkpoints, newest first."""
    found = await engine.checkpoints(args.container)
    if args.quiet:
        for one in found:
            put(one.name)
        return 0
    show_rows([_row(one) for one in found], _COLUMNS, args.format)
    return 0


def _row(one: Checkpoint) -> dict[str, str]:
    return {
        "Name": one.name,
        "Container": one.container,
        "CreatedAt": local_time(one.created),
        "CreatedSince": ago(one.created),
        "Size": human_size(one.size),
        "Criu": one.criu,
    }


def _rm_options(parser: Parser) -> None:
    parser.add_argument("container", metavar="CONTAINER")
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT")


async def rm(engine: Engine, args: Arguments) -> int:
    """Delete checkpoints."""
    for name in args.checkpoints:
        await engine.remove_checkpoint(args.container, name)
        put(name)
    return 0


def _restore_options(parser: Parser) -> None:
    parser.add_argument("-i", "--import", type=Path, dest="archive", metavar="FILE", help="from an exported archive")
    parser.add_argument("-n", "--name", default="", metavar="NAME", help="with --import: of the container")
    flag(
        parser,
        "--trust",
        help="with --import: take an archive that another engine has made; whoever made it can become root here",
    )
    parser.add_argument("container", nargs="?", default="", metavar="CONTAINER")
    parser.add_argument("checkpoint", nargs="?", default="", metavar="CHECKPOINT")


async def restore(engine: Engine, args: Arguments) -> int:
    """Prints what was named, or the id of the container that an archive became."""
    if args.archive is not None:
        if args.container:
            raise InvalidArgument(
                "restore: both an archive and a container are given", "an archive makes a new one", "Use --name for it"
            )
        put((await engine.restore_from(args.archive, name=args.name, trust=args.trust)).id)
        return 0
    if not args.container:
        raise InvalidArgument("restore: nothing to restore", "", "Name a container, or an archive with --import")
    if args.name or args.trust:
        raise InvalidArgument("restore: --name and --trust belong to --import", "", "Leave them out")
    await engine.restore(args.container, args.checkpoint)
    put(args.container)
    return 0


_ABOUT = (
    "CRIU saves the processes of a running container: memory, open files, what lies in its memory file\n"
    "systems. It goes on from there by `wharf start --checkpoint` or `wharf restore`, with the files that it\n"
    "has then; or elsewhere, from an archive that holds its files and its log too.\n\n"
    "criu is looked for by PATH; $WHARF_CRIU names another program. `wharf doctor` says whether it can work here."
)

COMMANDS = {
    "checkpoint create": Command(
        "[OPTIONS] CONTAINER [CHECKPOINT]",
        _create_options,
        create,
        about=f"{_ABOUT}\n\nWithout a name, an export is kept in the archive alone; else the time of day is the name.",
        examples=(
            "wharf checkpoint create web before-update",
            "wharf checkpoint create --leave-running --export web.tar.zst web",
        ),
    ),
    "checkpoint ls": Command("[OPTIONS] CONTAINER", _ls_options, ls, examples=("wharf checkpoint ls web",)),
    "checkpoint rm": Command(
        "CONTAINER CHECKPOINT [CHECKPOINT...]", _rm_options, rm, examples=("wharf checkpoint rm web before-update",)
    ),
    "restore": Command(
        "CONTAINER [CHECKPOINT] | [OPTIONS] --import FILE",
        _restore_options,
        restore,
        about="From the store: the named checkpoint, or the newest. From an archive: a new container, made of the\n"
        "same image (it must be in the store) with the options that it was created with.\n\n"
        "An archive is as powerful as root: only one that this engine has made, and nobody changed, is taken.",
        examples=("wharf restore web before-update", "wharf restore --import web.tar.zst --name web2"),
    ),
}
