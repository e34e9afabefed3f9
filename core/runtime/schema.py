"""A small language for the shape of JSON, and its reader: what ``config.json`` may hold is written in it.

======== =========================================================================================
node     accepts
======== =========================================================================================
Flag     ``true`` and ``false``
Whole    a whole number between two bounds (Python's and JSON's integers; ``1.0`` is none)
Text     a string: one of ``choices``, or matching ``pattern``; no zero byte, as the kernel would end there
List     an array of one kind of thing
Map      an object whose names are the user's own
Fields   an object whose names are the specification's; unknown ones are kept and not looked at
======== =========================================================================================

:func:`read` returns a copy, so that whoever completes it changes nothing of the caller's. In it, an optional field
that is ``null`` or ``""`` is absent: tools written in Go write both where they mean nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

_SHOWN = 80  # characters of a value in a message


class Problem(NamedTuple):
    """One field that breaks a rule. ``shown`` is its value in JSON, or "" where it is missing."""

    path: str
    shown: str
    rule: str
    fix: str


@dataclass
class Findings:
    """What was found wrong, in the order of reading, and what is only doubtful."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def bad(self, path: str, value: object, rule: str, fix: str) -> None:
        self.problems.append(Problem(path, show(value), rule, fix))

    def missing(self, path: str, rule: str, fix: str) -> None:
        self.problems.append(Problem(path, "", rule, fix))

    def doubt(self, path: str, value: object, words: str) -> None:
        self.warnings.append(f"{path} is {show(value)}: {words}")


@dataclass(frozen=True)
class Flag:
    pass


@dataclass(frozen=True)
class Whole:
    low: int
    high: int


@dataclass(frozen=True)
class Text:
    pattern: str = ""  # matched whole
    rule: str = ""  # the pattern in words, after "it"
    choices: tuple[str, ...] = ()
    most: int = 0  # bytes; 0: any length
    check: Callable[[str], str] | None = None  # returns the rule that is broken, or ""
    free: bool = False  # kept for others to read: any characters


@dataclass(frozen=True)
class List:
    item: Node
    least: int = 0


@dataclass(frozen=True)
class Map:
    value: Node
    key: Text = Text()  # of the names, none of which is empty


@dataclass(frozen=True)
class Fields:
    required: Mapping[str, Node]
    optional: Mapping[str, Node]


Node = Flag | Whole | Text | List | Map | Fields


def show(value: object) -> str:
    """A value for a message: JSON where it is short, what kind of thing it is otherwise."""
    if isinstance(value, dict):
        return f"an object with {len(value)} field{'' if len(value) == 1 else 's'}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 200:  # Python refuses to print very long numbers
        return f"a number of {value.bit_length()} bits"
    text = json.dumps(value) if value is None or isinstance(value, str | int | float) else repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def below(path: str, name: str) -> str:
    """The path of a field: ``process.cwd``, or ``annotations["a.b"]`` where a dot would mislead."""
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        return f"{path}[{show(name)}]"
    return f"{path}.{name}" if path else name


def read(node: Node, value: object, path: str, found: Findings) -> object:
    """A copy of ``value``, which is at ``path``; what is wrong goes to ``found``, and stays in the copy as it is."""
    match node:
        case Flag():
            if not isinstance(value, bool):
                found.bad(path, value, "it is neither true nor false", "Write true or false, without quotes")
        case Whole():
            _read_whole(node, value, path, found)
        case Text():
            _read_text(node, value, path, found)
        case List():
            return _read_list(node, value, path, found)
        case Map():
            return _read_map(node, value, path, found)
        case Fields():
            return _read_fields(node, value, path, found)
    return value


def _read_whole(node: Whole, value: object, path: str, found: Findings) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        found.bad(path, value, "it is not a whole number", f"Give a number between {node.low} and {node.high}")
    elif not node.low <= value <= node.high:
        rule = f"it is not between {node.low} and {node.high}"
        found.bad(path, value, rule, f"Give a number between {node.low} and {node.high}")


def _read_text(node: Text, value: object, path: str, found: Findings) -> None:
    if not isinstance(value, str):
        found.bad(path, value, "it is not a string", "Write it in quotes")
        return
    rule = fault_of(node, value)
    if rule:
        found.bad(path, value, rule, "Choose one of these" if node.choices else "Write another")


def fault_of(node: Text, value: str) -> str:
    """The rule that ``value`` breaks; empty where it breaks none."""
    if node.free:
        return ""
    if "\0" in value:
        return "it holds a zero byte"
    try:
        length = len(os.fsencode(value))
    except UnicodeEncodeError:
        return "it holds half of a surrogate pair"
    if node.choices and value not in node.choices:
        return f"it is none of {', '.join(node.choices)}"
    if node.most and length > node.most:
        return f"it is longer than {node.most} bytes"
    if node.pattern and not re.fullmatch(node.pattern, value, re.DOTALL):
        return f"it {node.rule}"
    return node.check(value) if node.check else ""


def _read_list(node: List, value: object, path: str, found: Findings) -> object:
    if not isinstance(value, list):
        found.bad(path, value, "it is not a list", "Write it in square brackets")
        return value
    if len(value) < node.least:
        found.bad(path, value, f"it holds fewer than {node.least}", "Add one, or leave the field out")
    return [read(node.item, item, f"{path}[{index}]", found) for index, item in enumerate(value)]


def _read_map(node: Map, value: object, path: str, found: Findings) -> object:
    if not isinstance(value, dict):
        found.bad(path, value, "it is not an object", "Write it in curly brackets")
        return value
    copy: dict[str, object] = {}
    for key, item in value.items():
        where = below(path, key)
        fault = fault_of(node.key, key) if key else "it is empty"
        if fault:
            found.bad(where, item, f"its name{fault.removeprefix('it')}", "Give it another name")
        copy[key] = read(node.value, item, where, found)
    return copy


def _read_fields(node: Fields, value: object, path: str, found: Findings) -> object:
    if not isinstance(value, dict):
        found.bad(path, value, "it is not an object", "Write it in curly brackets")
        return value
    copy = {name: item for name, item in value.items() if name not in node.required and name not in node.optional}
    for name, kind in (*node.required.items(), *node.optional.items()):
        item = value.get(name)
        if item is None or (item == "" and isinstance(kind, Text)):
            if name in node.required:
                found.missing(below(path, name), "it is required", "Add it")
            continue
        copy[name] = read(kind, item, below(path, name), found)
    return copy
