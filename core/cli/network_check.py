"""``wharf network check``."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, closing, flag
from core.cli.output import put, visible

if TYPE_CHECKING:
    from core.engine import Engine
    from core.model import NetStep

_COLORS = {"ok": "32", "warning": "33", "broken": "31", "skipped": "2"}
_STATUS, _NAME = 9, 21  # columns


def _options(parser: Parser) -> None:
    flag(parser, "-q", "--quiet", help="only what is broken, and warnings")
    flag(
        parser,
        "--repair",
        help="first put right what can be derived from the database: bridges and their addresses, wires, the firewall",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print")
    parser.add_argument("names", nargs="*", metavar="NETWORK|CONTAINER", help="default: networks with containers")


async def run(engine: Engine, args: Arguments) -> int:
    """Each step as it is done; 1 where one is broken."""
    if args.repair:
        await engine.recover()
    paper = _Paper(quiet=args.quiet, width=shutil.get_terminal_size((80, 24)).columns, color=_color())
    steps: list[NetStep] = []
    for ref in args.names or [one.name for one in await engine.networks() if one.containers]:
        checks = engine.check_network(ref)
        async with closing(checks):
            async for step in checks:
                steps.append(step)
                if args.format == "text":
                    for line in paper.step(step):
                        put(line, flush=True)
    if args.format == "json":
        from core.cli.template import to_json

        put(to_json([vars(step) for step in steps], indent=2))
    else:
        put("\n".join(paper.summary(steps)))
    return int(any(step.status == "broken" for step in steps))


def _color() -> bool:
    import os

    return sys.stdout is not None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")


class _Paper:
    """Steps as lines: the subject once, below it status, link and what was found."""

    def __init__(self, *, quiet: bool, width: int, color: bool) -> None:
        self._quiet, self._width, self._color = quiet, max(width, 60), color
        self._subject = ""

    def step(self, step: NetStep) -> list[str]:
        if self._quiet and step.status not in ("broken", "warning"):
            return []
        lines = [visible(step.subject)] if step.subject != self._subject else []
        self._subject = step.subject
        indent = " " * (2 + _STATUS + _NAME)
        name = f"{step.name:<{_NAME}}" if len(step.name) < _NAME else step.name + "\n" + indent
        found = self._wrap(step.found, indent, indent)
        lines.append(f"  {self._painted(step.status)}{name}{found[0].strip() if found else ''}".rstrip())
        lines += found[1:]
        if step.fix and step.status != "ok":
            lines += self._wrap(f"fix: {step.fix}", indent, indent + "     ")
        return lines

    def _painted(self, status: str) -> str:
        padded = f"{status:<{_STATUS}}"
        return f"\x1b[{_COLORS[status]}m{padded}\x1b[0m" if self._color else padded

    def _wrap(self, text: str, first: str, rest: str) -> list[str]:
        return textwrap.wrap(
            visible(text), self._width, initial_indent=first, subsequent_indent=rest,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip

    def summary(self, steps: list[NetStep]) -> list[str]:
        """The last word: the first broken link, with what to do."""
        broken = [step for step in steps if step.status == "broken"]
        warned = sum(step.status == "warning" for step in steps)
        if not broken:
            words = f"no link is broken; {warned} could be better" if warned else "no link is broken"
            return ["", words] if self._subject else [words]
        first = broken[0]
        lines = ["", *self._wrap(f"first broken: {first.subject}, {first.name}: {first.found}", "", "  ")]
        return lines + (self._wrap(f"fix: {first.fix}", "  ", "       ") if first.fix else [])


COMMANDS = {
    "network check": Command(
        "[OPTIONS] [NETWORK|CONTAINER...]",
        _options,
        run,
        about="Walks from the network's row to the published ports: bridge, addresses, MTU, routes, our firewall,\n"
        "others' forward policies, forwarding, the container's wire and interface, its gateway, the way out,\n"
        "its name servers, and for each published port the listener, the rule and a connection. It sends a few\n"
        "packets to those, and changes nothing (without --repair). Exit code 1 where a link is broken.",
        examples=("wharf network check web", "wharf network check --quiet db", "wharf network check --repair web"),
    ),
}
