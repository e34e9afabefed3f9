"""What a verb is made of, and the argument parser that they share."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from core.cli import Misuse
from core.errors import InvalidArgument

if TYPE_CHECKING:
    from core.engine import Engine
    from core.errors import WharfError

Arguments = argparse.Namespace
_NO_NUMBER = re.compile(r"argument (.+): invalid (int|float) value: (.*)", re.DOTALL)
_GO_TRUE, _GO_FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")
_KINDS = {"int": "whole number", "float": "number"}


@dataclass(frozen=True)
class Command:
    """One verb: its arguments and what it does. ``run`` returns the exit code and raises ``WharfError``."""

    usage: str  # what follows `wharf VERB`
    options: Callable[[Parser], object]
    run: Callable[[Engine, Arguments], Awaitable[int]]
    about: str = ""  # a paragraph for --help
    examples: tuple[str, ...] = ()
    # What to do where the engine cannot be opened; None: only to say so.
    without: Callable[[WharfError, Path | None, Path | None, Arguments], Awaitable[int]] | None = None


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
        short = () if "-h" in self._option_string_actions else ("-h",)
        self.add_argument(*short, "--help", action="help", help="show this help")

    def read(self, argv: Sequence[str]) -> Arguments:
        """:raises InvalidArgument: unknown, missing or malformed arguments"""
        self._off: set[str] = set()
        arguments = self.parse_args(self._plain(list(argv)))
        for name in self._off:
            setattr(arguments, name, False)
        return arguments

    def error(self, message: str) -> NoReturn:
        if match := _NO_NUMBER.fullmatch(message):
            message = f"invalid value {match[3]} for {match[1]}: it is not a {_KINDS[match[2]]}"
        error = Misuse(f"{self.prog.partition(' ')[2]}: {message}", "", f"See `{self.prog} --help`")
        if message.startswith(("the following arguments are required", "unrecognized arguments: ")):
            option = message.partition(": ")[2].startswith("-")
            error.exit_code = 125 if option and message.startswith("unrecognized") else 1
        raise error

    def _plain(self, argv: list[str]) -> list[str]:
        """``--flag=true`` becomes ``--flag``; ``--flag=false`` is noted, until the flag comes once more. Up to the
        first word that is no option."""
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
            if action is not None and equals and self._is_switch(name):
                self._switch(name, value, done)
                continue
            if len(word) < 2 or not word.startswith("-"):
                done.append(word)
                continue
            done += self._parted(word)
            if self._wants_more(word, action) and at < len(argv):
                done.append(argv[at])
                at += 1
        return done + argv[at:]

    def _is_switch(self, name: str) -> bool:
        """Only options that are there or not: ``--tty``, or ``-ti``, whose last one has a value that follows."""
        each = [name] if name.startswith("--") else [f"-{letter}" for letter in name[1:]]
        known = [self._option_string_actions.get(one) for one in each]
        return all(action is not None and action.nargs == 0 for action in known)

    def _switch(self, name: str, value: str, done: list[str]) -> None:
        """Take up ``NAME=VALUE`` of what :meth:`_is_switch`, by the rule of Go's flags: ``-ti=false`` means ``-t``."""
        if value not in _GO_TRUE + _GO_FALSE:
            self.error(f"invalid value {value!r} for {name}: it takes true or false")
        if value in _GO_TRUE:
            done += self._parted(name)
            return
        if not name.startswith("--"):
            name, before = f"-{name[-1]}", name[:-1]
            done += self._parted(before) if len(before) > 1 else []
        self._off.add(self._option_string_actions[name].dest)

    def _parted(self, word: str) -> list[str]:
        """An option, or several in one word, whose flags are on from here on; ``-te=A=B`` in two, which argparse reads
        as Go's flags do."""
        if word.startswith("--"):
            self._on(word)
            return [word]
        flags = 1
        while flags < len(word) and self._on(f"-{word[flags]}"):
            flags += 1
        return [word[:flags], f"-{word[flags:]}"] if flags > 1 and word[flags + 1 :].startswith("=") else [word]

    def _on(self, name: str) -> bool:
        """Forget that this flag was switched off. :returns: it is one"""
        action = self._option_string_actions.get(name)
        if action is None or action.nargs != 0:
            return False
        self._off.discard(action.dest)
        return True

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


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Around what reads the values of options: one that makes no sense costs as much as an option that is none."""
    try:
        yield
    except InvalidArgument as error:
        raise Misuse(error.what, error.why, error.fix) from error


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


def pair(word: str, option: str) -> tuple[str, str]:
    """Both sides of ``NAME=VALUE``, the value of ``option``. :raises InvalidArgument: it is not that"""
    key, equals, value = word.partition("=")
    if not key or not equals:
        raise InvalidArgument(f"invalid {option} {word!r}", "it must be NAME=VALUE")
    return key, value


BOOLEAN = ("true", "false", "1", "0", "t", "f")


def parse_filters(
    words: Sequence[str], known: Sequence[str], fixed: Mapping[str, Sequence[str]] | None = None
) -> dict[str, list[str]]:
    """``key=value`` words by key.

    :param fixed: the values that a key takes, where there is a fixed set of them
    :raises InvalidArgument: an unknown key, no ``=``, or a value that is not of the set
    """
    found: dict[str, list[str]] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in known:
            why = f"there is no key {key!r}" if key not in known else "it must be KEY=VALUE"
            keys = ", ".join(f"{one}=" for one in known)
            raise InvalidArgument(f"invalid filter {word!r}", why, f"Known are: {keys}")
        values = (fixed or {}).get(key, ())
        if values and value not in values and not (values is BOOLEAN and value.lower() in values):
            raise InvalidArgument(f"invalid filter {word!r}", f"{key} is one of {', '.join(values)}")
        found.setdefault(key, []).append(value)
    return found
