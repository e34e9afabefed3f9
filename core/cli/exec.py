"""``wharf exec``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag, many
from core.cli.environment import environment
from core.cli.terminal import DETACH, Bridge, check_input, flush_stdio, parse_keys
from core.model import ExecSpec

if TYPE_CHECKING:
    from core.engine import Engine


def _options(parser: Parser) -> None:
    flag(parser, "-d", "--detach", help="do not wait for it")
    flag(parser, "-i", "--interactive", help="keep standard input open")
    flag(parser, "-t", "--tty", help="give it a terminal")
    many(parser, "-e", "--env", metavar="KEY[=VALUE]", help="an environment variable")
    many(parser, "--env-file", metavar="FILE", help="environment variables, one a line")
    parser.add_argument("-u", "--user", default="", metavar="USER[:GROUP]", help="run as this user")
    parser.add_argument("-w", "--workdir", default="", metavar="DIR", help="working folder")
    flag(parser, "--privileged", help="all capabilities")
    parser.add_argument("--detach-keys", default=DETACH, metavar="KEYS", help=f"leave without ending it ({DETACH})")
    parser.add_argument("container", metavar="CONTAINER")
    parser.add_argument("command", metavar="COMMAND")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARG").required = False


async def run(engine: Engine, args: Arguments) -> int:
    """The exit code is the command's."""
    stdin = args.interactive and not args.detach
    check_input(stdin=stdin, terminal=args.tty)
    keys = parse_keys(args.detach_keys)
    spec = ExecSpec(
        argv=(args.command, *args.arguments),
        tty=args.tty,
        stdin=stdin,
        env=environment(args.env, args.env_file),
        user=args.user,
        working_dir=args.workdir,
        privileged=args.privileged,
        detach=args.detach,
    )
    session = await engine.exec(args.container, spec)
    if args.detach:
        await session.close()
        return 0
    flush_stdio()
    code = await Bridge(session, stdin=stdin, keys=keys).run()
    return 0 if code is None else code


COMMANDS = {
    "exec": Command(
        "[OPTIONS] CONTAINER COMMAND [ARG...]",
        _options,
        run,
        about="The exit code is the command's; 126: it cannot be run, 127: there is no such command.",
        examples=("wharf exec -it web sh", "wharf exec -u postgres db psql -c 'select 1'"),
    )
}
