"""``wharf login`` and ``wharf logout``."""

from __future__ import annotations

import asyncio
import getpass
import sys
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag
from core.cli.output import complain, put
from core.cli.unlock import unlock
from core.errors import InvalidArgument, Locked, Unauthorized

if TYPE_CHECKING:
    from core.engine import Engine

HUB = "docker.io"


def _login_options(parser: Parser) -> None:
    parser.add_argument("-u", "--username", default="", metavar="NAME", help="the user's name (default: asked for)")
    parser.add_argument("-p", "--password", default="", metavar="WORD", help="others can see it: better not")
    flag(parser, "--password-stdin", help="read the password from standard input")
    flag(parser, "--encrypt", help="keep the engine's own store encrypted from now on")
    parser.add_argument("--store", default="", metavar="PLACE", help="file, encrypted, or a credential helper's name")
    flag(parser, "--insecure", help="allow a registry without TLS, or with a certificate of its own")
    parser.add_argument("server", nargs="?", default="", metavar="SERVER", help="HOST[:PORT] (default: Docker Hub)")


async def login(engine: Engine, args: Arguments) -> int:
    """Ask for what is missing, try it at the registry, keep it."""
    user, password = args.username, _given_password(args)
    store = args.store or ("encrypted" if args.encrypt else "")
    name = args.server or HUB
    if not user and not password:
        try:
            known = await engine.login(args.server, insecure=args.insecure)
        except Locked:
            raise
        except Unauthorized as error:
            if not _terminal():
                raise InvalidArgument(
                    f"cannot log in to {name}",
                    f"there is nobody to ask for a name and a password ({error.why})",
                    "Give -u NAME and --password-stdin",
                ) from error
        else:
            print(f"Authenticating with existing credentials... [{known.user or 'token'}]", file=sys.stderr)
            put("Login Succeeded")
            return 0
    if not user or not password:
        if not _terminal():
            missing = "--password-stdin" if user else "-u NAME"
            raise InvalidArgument(f"cannot log in to {name}", "standard input is no terminal", f"Give {missing}")
        user = user or await asyncio.to_thread(input, f"Username for {name}: ")
        password = password or getpass.getpass("Password: ")
    if not user or not password:
        raise InvalidArgument(f"cannot log in to {name}", "a name and a password are needed", "Try again")
    try:
        done = await engine.login(args.server, user, password, insecure=args.insecure, store=store)
    except Locked as error:
        await unlock(engine, error)  # here, and not by beginning again: name and password have been typed
        done = await engine.login(args.server, user, password, insecure=args.insecure, store=store)
    if not done.asked:
        complain(f"{done.registry} lets everybody in: the password was not tried")
    print(f"Kept in {done.where}", file=sys.stderr)
    put("Login Succeeded")
    return 0


def _terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _given_password(args: Arguments) -> str:
    """:raises InvalidArgument: contradictions"""
    if args.encrypt and args.store not in ("", "encrypted"):
        raise InvalidArgument("--encrypt and --store contradict each other", "", "Give one of them")
    if not args.password_stdin:
        if args.password:
            complain("a password given by --password shows in the list of processes: use --password-stdin")
        return str(args.password)
    if args.password:
        raise InvalidArgument("--password and --password-stdin contradict each other", "", "Give one of them")
    if not args.username:
        raise InvalidArgument("--password-stdin needs a user name", "", "Give -u NAME")
    if sys.stdin is None or sys.stdin.isatty():
        raise InvalidArgument("no password on standard input", "it is a terminal", "Pipe it in")
    return sys.stdin.read().rstrip("\r\n")


def _logout_options(parser: Parser) -> None:
    parser.add_argument("server", nargs="?", default="", metavar="SERVER", help="HOST[:PORT] (default: Docker Hub)")


async def logout(engine: Engine, args: Arguments) -> int:
    """Forget; what docker itself has stored in clear is docker's to remove."""
    done = await engine.logout(args.server)
    if done.removed:
        put(f"Removing login credentials for {done.registry}")
    elif not done.left:
        put(f"Not logged in to {done.registry}")
    if done.left:
        complain(
            f"{done.left} still has credentials for {done.registry}, stored by docker: `docker logout` removes them"
        )
        return 0 if done.removed else 1
    return 0


COMMANDS = {
    "login": Command(
        "[OPTIONS] [SERVER]",
        _login_options,
        login,
        about="Passwords are tried first, and exchanged for a token where the registry gives one. They go to the\n"
        "credential helper in ~/.docker/config.json, else to ~/.config/wharf/credentials.json (mode 0600; with\n"
        "--encrypt never in clear). What is encrypted opens by a passphrase that is asked for; without a terminal by\n"
        "WHARF_CREDENTIALS_PASSPHRASE, by the file `key` of [credentials] in the settings, or by a systemd credential\n"
        "called wharf.passphrase. With `remember = '15m'` of [credentials] the kernel keeps a typed one for so long.\n"
        "What docker and its helpers have stored is read as well.",
        examples=(
            "wharf login registry.lan:5000",
            "wharf login -u ann --password-stdin registry.lan:5000",
            "wharf login --encrypt -u ann registry.lan:5000",
        ),
    ),
    "logout": Command("[SERVER]", _logout_options, logout, examples=("wharf logout registry.lan:5000",)),
}
