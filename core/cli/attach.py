"""``wharf attach``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag
from core.cli.output import complain
from core.cli.terminal import DETACH, Bridge, check_input, flush_stdio, parse_keys
from core.errors import Unavailable

if TYPE_CHECKING:
    from core.engine import Engine, Session
    from core.model import Container

UNKNOWN = 125  # the exit code where nobody can know the container's


def _options(parser: Parser) -> None:
    flag(parser, "--no-stdin", help="do not connect standard input")
    flag(parser, "--sig-proxy", default=True, help="--sig-proxy=false: do not give signals on to the container")
    parser.add_argument("--detach-keys", default=DETACH, metavar="KEYS", help=f"leave without ending it ({DETACH})")
    parser.add_argument("container", metavar="CONTAINER")


async def run(engine: Engine, args: Arguments) -> int:
    """The exit code is the container's, where it ends meanwhile."""
    keys = parse_keys(args.detach_keys)
    box = await engine.container(args.container)
    stdin = box.spec.stdin_open and not args.no_stdin
    check_input(stdin=stdin, terminal=box.spec.tty)
    session = await engine.attach(box.id, stdin=stdin)
    return await stay(engine, box, session, stdin=stdin, proxy=args.sig_proxy, keys=keys)


async def stay(
    engine: Engine,
    box: Container,
    session: Session,
    *,
    stdin: bool,
    proxy: bool,
    keys: bytes,
    streams: tuple[str, ...] = ("stdout", "stderr"),
) -> int:
    """Stay connected until the container ends, or the user detaches (then 0). Returns the exit code."""

    async def forward(signal: str) -> None:
        await engine.kill(box.id, signal)

    flush_stdio()
    bridge = Bridge(session, stdin=stdin, streams=streams, keys=keys, forward=forward if proxy else None)
    try:
        code = await bridge.run()
    except Unavailable:
        # Its monitor was lost, and another has taken over: the container itself is what we were asked to wait for.
        code = await engine.wait(box.id)
    if code is not None and code < 0:
        complain(f"nobody can know the exit code of {box.name}: its supervising process was killed with it")
        return UNKNOWN
    return code or 0


COMMANDS = {
    "attach": Command(
        "[OPTIONS] CONTAINER",
        _options,
        run,
        about="Signals that reach wharf go to the container: ctrl+c ends most.\n"
        "Type ctrl+p ctrl+q to leave a terminal session that goes on.",
        examples=("wharf attach web", "wharf attach --sig-proxy=false web"),
    )
}
