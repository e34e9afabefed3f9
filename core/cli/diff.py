"""``wharf diff``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser
from core.cli.output import put

if TYPE_CHECKING:
    from core.engine import Engine


def _options(parser: Parser) -> None:
    parser.add_argument("container", metavar="CONTAINER")


async def run(engine: Engine, args: Arguments) -> int:
    """One line per path."""
    found = await engine.changes(args.container)
    if found:
        put("\n".join(f"{change.kind} {change.path}" for change in found))
    return 0


COMMANDS = {
    "diff": Command(
        "CONTAINER",
        _options,
        run,
        about="A: added, C: changed, D: deleted since the container was created.",
        examples=("wharf diff web",),
    )
}
