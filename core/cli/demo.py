"""``wharf demo``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser
from core.cli.output import put

if TYPE_CHECKING:
    from core.engine import Engine


def _options(parser: Parser) -> None:
    del parser  # nothing to choose


async def run(engine: Engine, args: Arguments) -> int:
    """Tell each step as it is done."""
    del args
    async for step in engine.demo():
        put(step, flush=True)
    return 0


COMMANDS = {
    "demo": Command(
        "",
        _options,
        run,
        about="Makes a small image from this host's own shell and tools, and starts containers that log, compute,\n"
        "press on their memory limit, serve HTTP, and fail a health check now and then. No network needed.",
        examples=("wharf demo && wharf ps", "wharf rm -f $(wharf ps -aq --filter label=io.wharfinger.demo)"),
    )
}
