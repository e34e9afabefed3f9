"""What a verb is made of, and the argument parser that they share."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from core.engine import Engine
from core.errors import InvalidArgument
from core.units import parse_duration

Arguments = argparse.Namespace


@dataclass(frozen=True)
class Command:
    """One verb: its arguments and what it does. ``run`` returns the exit code and raises ``WharfError``."""

    usage: str  # what follows `wharf VERB`
    options: Callable[[Parser], object]
    run: Callable[[Engine, Arguments], Awaitable[int]]
    about: str = ""  # a paragraph for --help
    examples: tuple[str, ...] = ()


class Parser(argparse.ArgumentParser):
    """argparse with the manners of docker's flags: no abbreviations, ``--flag=false``, errors as ``WharfError``.

    With ``stop_early`` everything behind the first word that is no option belongs to the container's command.
    """

    def __init__(self, verb: str, command: Command, summary: str, *, stop_early: bool = False) -> None:
        examples = "\n".join(f"  {line}" for line in command.examples)
        super().__init__(
            prog=f"wharf {verb}",
            usage=f"wharf {verb} {command.usage}",
            description=f"{summary}.\n\n{command.about}".strip(),
            epilog=f"examples:\n{examples}" if examples else None,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=100),
            allow_abbrev=False,
            add_help=False,
        )
        self._stop_early = stop_early
        command.options(self)
        self.add_argument("--help", action="help", help="show this help")

    def read(self, argv: Sequence[str]) -> Arguments:
        """:raises InvalidArgument: unknown, missing or malformed arguments"""
        self._off: list[str] = []
        arguments = self.parse_args(self._plain(list(argv)))
        for name in self._off:
            setattr(arguments, name, False)
        return arguments

    def error(self, message: str) -> NoReturn:
        raise InvalidArgument(f"{self.prog.partition(' ')[2]}: {message}", "", f"See `{self.prog} --help`")

    def _plain(self, argv: list[str]) -> list[str]:
        """``--flag=true`` becomes ``--flag``; ``--flag=false`` is noted. Up to the first word that is no option."""
        done: list[str] = []
        at = 0
        while at < len(argv):
            word = argv[at]
            at += 1
            if word == "--" or (self._stop_early and (word == "-" or not word.startswith("-"))):
                done.append(word)
                break
            name, equals, value = word.partition("=")
            action = self._option_string_actions.get(name if name.startswith("--") else word[:2])
            if action is not None and action.nargs == 0 and equals and name.startswith("--"):
                if value.lower() not in ("true", "false", "1", "0"):
                    self.error(f"invalid value {value!r} for {name}: it takes true or false")
                if value.lower() in ("true", "1"):
                    done.append(name)
                else:
                    self._off.append(action.dest)
                continue
            done.append(word)
            if self._wants_more(word, action) and at < len(argv):
                done.append(argv[at])
                at += 1
        return done + argv[at:]

    def _wants_more(self, word: str, action: argparse.Action | None) -> bool:
        """Whether the value of this option is the next word."""
        if word.startswith("--"):
            return action is not None and action.nargs != 0 and "=" not in word
        for index, letter in enumerate(word[1:], 1):
            one = self._option_string_actions.get(f"-{letter}")
            if one is None:
                return False
            if one.nargs != 0:
                return index == len(word) - 1
        return False


@contextlib.asynccontextmanager
async def closing(steps: AsyncIterator[object]) -> AsyncIterator[None]:
    """Close what the engine yields when the block ends: left to the garbage collector it would outlive the engine."""
    try:
        yield
    finally:
        close = getattr(steps, "aclose", None)
        if close is not None:
            await close()


def flag(parser: argparse._ActionsContainer, *names: str, help: str, default: bool = False) -> None:
    """An option that is there or not; one that is on by ``default`` is switched off by ``--flag=false``."""
    parser.add_argument(*names, action="store_true", default=default, help=help)


def many(parser: argparse._ActionsContainer, *names: str, metavar: str, help: str) -> None:
    """An option that may be given several times."""
    parser.add_argument(*names, action="append", default=[], metavar=metavar, help=help)


def form_option(parser: Parser, *, short: bool = False) -> None:
    """``--format``, the same for every list."""
    names = ("-f", "--format") if short else ("--format",)
    text = "table, json, 'table TEMPLATE' or a Go template such as '{{.ID}}: {{.Names}}'"
    parser.add_argument(*names, metavar="FORMAT", dest="format", help=text)


def parse_filters(words: Sequence[str], known: Sequence[str]) -> dict[str, list[str]]:
    """``key=value`` words by key. :raises InvalidArgument: an unknown key, or no ``=``"""
    found: dict[str, list[str]] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in known:
            raise InvalidArgument(
                f"invalid filter {word!r}", "it must be KEY=VALUE", f"Keys are: {', '.join(known)}"
            )
        found.setdefault(key, []).append(value)
    return found


def parse_when(text: str, now: float | None = None) -> float:
    """Seconds since the epoch from a time stamp (RFC 3339, or a part of it), such seconds, or an age like ``10m``.

    :raises InvalidArgument: none of these
    """
    from datetime import datetime

    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(_six_digits(text)).timestamp()
    except ValueError:
        pass
    try:
        return (time.time() if now is None else now) - parse_duration(text)
    except InvalidArgument:
        raise InvalidArgument(
            f"invalid time {text!r}",
            "it is neither a time stamp nor an age",
            "Write it like 2024-05-01T12:00:00, 1714564800 or 10m",
        ) from None


def _six_digits(text: str) -> str:
    """A time stamp with its nanoseconds cut to the microseconds that Python reads."""
    head, dot, rest = text.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    return f"{head}.{rest[:digits][:6].ljust(6, '0')}{rest[digits:]}" if dot else text
