"""``wharf update``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, reading
from core.cli.lifecycle import each
from core.cli.limit_options import add_limits, limits
from core.cli.output import complain
from core.cli.spec_options import parse_restart
from core.model import Change, Resources

if TYPE_CHECKING:
    from core.engine import Engine


def _options(parser: Parser) -> None:
    add_limits(parser)
    parser.add_argument("--restart", default="", metavar="POLICY", help="no, always, unless-stopped, on-failure[:N]")
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


async def _update(engine: Engine, args: Arguments) -> int:
    if args.kernel_memory:
        complain("--kernel-memory is ignored: kernels no longer have that limit")
    with reading():
        restart = parse_restart(args.restart) if args.restart else None
        change = Change(Resources(**limits(args)), restart)  # type: ignore[arg-type]
    return await each(args.containers, lambda ref: engine.update(ref, change))


COMMANDS = {
    "update": Command(
        "[OPTIONS] CONTAINER [CONTAINER...]",
        _options,
        _update,
        about="What is not named stays as it is. A container that runs is changed at once, and starts with it later.",
        examples=("wharf update --memory 128m --cpus 2 web", "wharf update --restart unless-stopped web db"),
    ),
}
