"""``wharf start``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.cli.attach import stay
from core.cli.command import Arguments, Command, Parser, flag
from core.cli.lifecycle import each
from core.cli.output import put
from core.cli.terminal import DETACH, check_input, parse_keys
from core.errors import InvalidArgument

if TYPE_CHECKING:
    from core.engine import Engine


def _options(parser: Parser) -> None:
    flag(parser, "-a", "--attach", help="show its output, wait for its end, and return its exit code")
    flag(parser, "-i", "--interactive", help="connect standard input as well (for containers made with -i)")
    flag(parser, "--sig-proxy", default=True, help="--sig-proxy=false: do not give signals on to the container")
    parser.add_argument("--detach-keys", default=DETACH, metavar="KEYS", help=f"leave without ending it ({DETACH})")
    parser.add_argument("--checkpoint", default="", metavar="NAME", help="go on from that checkpoint (needs criu)")
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


async def run(engine: Engine, args: Arguments) -> int:
    """Start all, or one attached."""
    if args.checkpoint:
        if args.attach or args.interactive or len(args.containers) > 1:
            raise InvalidArgument("start: --checkpoint is for one container, without -a and -i", "", "Attach later")
        await engine.restore(args.containers[0], args.checkpoint)
        put(args.containers[0])
        return 0
    if not (args.attach or args.interactive):
        return await each(args.containers, engine.start)
    if len(args.containers) > 1:
        raise InvalidArgument("several containers cannot be attached at once", "", "Name one, or leave out -a and -i")
    keys = parse_keys(args.detach_keys)
    box = await engine.container(args.containers[0])
    stdin = args.interactive and box.spec.stdin_open
    check_input(stdin=stdin, terminal=box.spec.tty)
    session = await engine.start_attached(box.id, stdin=stdin)
    return await stay(engine, box, session, stdin=stdin, proxy=args.sig_proxy, keys=keys)


COMMANDS = {
    "start": Command(
        "[OPTIONS] CONTAINER [CONTAINER...]",
        _options,
        run,
        examples=("wharf start web db", "wharf start -ai shell", "wharf start --checkpoint noon web"),
    )
}
