"""``wharf doctor``."""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser
from core.cli.output import put, visible
from core.cli.template import to_json
from core.engine import Engine, examine_host

if TYPE_CHECKING:
    from core.errors import WharfError
    from core.model import Check

_COLORS = {"ok": "32", "warn": "33", "fail": "31"}


def _options(parser: Parser) -> None:
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print")


async def run(engine: Engine, args: Arguments) -> int:
    """1 where a check fails: containers cannot run."""
    return _show(await engine.doctor(), args)


async def _without_engine(error: WharfError, root: Path | None, run: Path | None, args: Arguments) -> int:
    """When it is needed most."""
    return _show(await examine_host(error, root, run), args)


def _show(checks: list[Check], args: Arguments) -> int:
    if args.format == "json":
        put(to_json([vars(check) for check in checks], indent=2))
    else:
        put("\n".join(report(checks, width=shutil.get_terminal_size((100, 24)).columns, color=_color())))
    return int(any(check.status == "fail" for check in checks))


def _color() -> bool:
    import os

    return sys.stdout is not None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def report(checks: list[Check], *, width: int, color: bool) -> list[str]:
    """Aligned: status, name, what was found; below it what follows and how to mend it."""
    column = max((len(check.name) for check in checks), default=0)
    indent = " " * (column + 8)
    lines: list[str] = []
    for check in checks:
        status = f"{check.status:<4}"
        if color:
            status = f"\x1b[{_COLORS.get(check.status, '0')}m{status}\x1b[0m"
        found = textwrap.wrap(visible(check.found), max(20, width - column - 8)) or [""]
        lines.append(f"{status}  {check.name:<{column}}  {found[0]}".rstrip())
        lines += [indent + more for more in found[1:]]
        for label, text in (("so: ", check.consequence), ("fix: ", check.fix)):
            if text:
                lines += textwrap.wrap(
                    label + visible(text), max(40, width), initial_indent=indent, subsequent_indent=indent + "     "
                )
    count = {status: sum(check.status == status for check in checks) for status in _COLORS}
    lines += ["", f"{count['ok']} ok, {count['warn']} with something lost, {count['fail']} failed"]
    return lines


COMMANDS = {
    "doctor": Command(
        "[OPTIONS]",
        _options,
        run,
        about="ok: all is there; warn: something is lost; fail: containers cannot run (exit code 1).",
        examples=("wharf doctor", "wharf doctor --format json"),
        without=_without_engine,
    )
}
