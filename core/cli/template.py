"""A subset of Go's text/template, as ``--format`` of docker's commands is used: see :data:`SUPPORTED`.

Values are plain data: dict, list, str, int, float, bool, None; a callable in a dict is a method (``{{.Label "x"}}``).
A field that does not exist is an error that names those that do; a condition takes it for false, and a key that
begins with a small letter (labels, names of networks) gives ``<no value>``, as Go's maps do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.errors import InvalidArgument

SUPPORTED = (
    "{{.Field}} {{.A.B}} {{$}} {{json .X}} {{range .L}}…{{else}}…{{end}} {{range $k, $v := .M}} {{if}} {{with}} "
    '{{index .M "key"}} {{join .L ","}} {{split}} {{upper}} {{lower}} {{title}} {{len}} {{slice}} {{truncate}} '
    "{{print}} {{printf}} {{println}} eq ne lt le gt ge and or not, pipelines and parentheses"
)
_ACTION = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:\\.|[^"\\])*"|`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)|(?P<path>\$?\w*(?:\.\w+)+|\$\w*|\.)"""
    r"""|(?P<word>\w+)|(?P<mark>:=|[|(),]))"""
)
_BLOCKS = ("if", "range", "with")


class _Missing:
    """What a field that does not exist gives, until it is printed or looked into."""

    def __bool__(self) -> bool:
        return False


_MISSING = _Missing()


@dataclass
class _Node:
    """Text, an action, or a block with its two bodies."""

    kind: str  # text, action, if, range, with
    text: str = ""
    tokens: list[tuple[str, str]] = field(default_factory=list)
    body: list[_Node] = field(default_factory=list)
    other: list[_Node] = field(default_factory=list)


def _bad(source: str, why: str, fix: str = f"Supported is: {SUPPORTED}") -> InvalidArgument:
    return InvalidArgument(f"invalid format {source!r}", why, fix)


class Template:
    """One parsed template. :raises InvalidArgument: it cannot be read, or asks for what is not supported"""

    def __init__(self, source: str) -> None:
        self._source = source
        pieces = _split(source)
        self._nodes, rest = self._block(pieces, 0, top=True)
        if rest != len(pieces):
            raise _bad(source, "{{end}} or {{else}} without a block before it")

    def render(self, data: Any) -> str:
        """:raises InvalidArgument: a field that does not exist, or a function used wrongly"""
        return _Run(self._source, data).body(self._nodes, data)

    # -- parsing --------------------------------------------------------------------------------------------------
    def _block(self, pieces: list[tuple[bool, str]], at: int, *, top: bool = False) -> tuple[list[_Node], int]:
        nodes: list[_Node] = []
        while at < len(pieces):
            is_action, text = pieces[at]
            word = text.split(None, 1)[0] if is_action and text.strip() else ""
            if word in ("end", "else"):
                return nodes, at
            at += 1
            if not is_action:
                nodes.append(_Node("text", text))
            elif text.startswith("/*"):
                continue
            elif word in _BLOCKS:
                node, at = self._compound(word, text[len(word) :], pieces, at)
                nodes.append(node)
            elif word in ("define", "template", "block", "break", "continue"):
                raise _bad(self._source, f"{{{{{word}}}}} is not supported")
            else:
                nodes.append(_Node("action", tokens=self._tokens(text)))
        if not top:
            raise _bad(self._source, "a block has no {{end}}")
        return nodes, at

    def _compound(self, word: str, head: str, pieces: list[tuple[bool, str]], at: int) -> tuple[_Node, int]:
        node = _Node(word, tokens=self._tokens(head))
        node.body, at = self._block(pieces, at)
        closing = pieces[at][1].split(None, 2)
        if closing[0] == "else":
            if len(closing) > 1 and closing[1] in ("if", "with"):
                nested, at = self._compound(closing[1], " ".join(closing[2:]), pieces, at + 1)
                node.other = [nested]
                return node, at
            node.other, at = self._block(pieces, at + 1)
            if pieces[at][1].split(None, 1)[0] != "end":
                raise _bad(self._source, "two {{else}} in one block")
        return node, at + 1

    def _tokens(self, text: str) -> list[tuple[str, str]]:
        tokens: list[tuple[str, str]] = []
        at = 0
        text = text.strip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if not match or not match.lastgroup:
                raise _bad(self._source, f"cannot read {text[at:]!r}")
            tokens.append((match.lastgroup, match[match.lastgroup]))
            at = match.end()
        if not tokens:
            raise _bad(self._source, "an action is empty")
        return tokens


def _split(source: str) -> list[tuple[bool, str]]:
    """Text and actions in turn, as (is action, text); ``{{-`` and ``-}}`` have eaten the space beside them."""
    pieces: list[tuple[bool, str]] = []
    at, trim = 0, False
    for match in _ACTION.finditer(source):
        text = source[at : match.start()]
        text = text.lstrip() if trim else text
        pieces.append((False, text.rstrip() if match[1] else text))
        pieces.append((True, match[2].strip()))
        at, trim = match.end(), bool(match[3])
    rest = source[at:]
    if "{{" in rest:
        raise _bad(source, "{{ without }}")
    pieces.append((False, rest.lstrip() if trim else rest))
    return [piece for piece in pieces if piece[0] or piece[1]]


class _Run:
    """One evaluation: the root, the variables, and where in an expression we are."""

    def __init__(self, source: str, root: Any) -> None:
        self._source = source
        self._variables: dict[str, Any] = {"$": root}

    def body(self, nodes: list[_Node], dot: Any) -> str:
        return "".join(self._node(node, dot) for node in nodes)

    def _node(self, node: _Node, dot: Any) -> str:
        if node.kind == "text":
            return node.text
        names, tokens = self._declared(node.tokens)
        if node.kind == "action":
            value = self._value(tokens, dot)
            if names:
                self._variables[names[0]] = value
                return ""
            return show(value)
        value = self._value(tokens, dot, lenient=True)
        if node.kind == "range":
            return self._range(node, names, value, dot)
        if names:
            self._variables[names[0]] = value
        if not value:
            return self.body(node.other, dot)
        return self.body(node.body, value if node.kind == "with" else dot)

    def _range(self, node: _Node, names: list[str], value: Any, dot: Any) -> str:
        if isinstance(value, dict):
            pairs: Sequence[tuple[Any, Any]] = sorted(value.items())
        elif isinstance(value, list | tuple):
            pairs = list(enumerate(value))
        elif not value:
            pairs = []
        else:
            raise _bad(self._source, f"range cannot go over {show(value)!r}")
        written = []
        for key, item in pairs:
            for name, what in zip(names, (item,) if len(names) == 1 else (key, item), strict=False):
                self._variables[name] = what
            written.append(self.body(node.body, item))
        return "".join(written) if pairs else self.body(node.other, dot)

    def _declared(self, tokens: list[tuple[str, str]]) -> tuple[list[str], list[tuple[str, str]]]:
        """The variables of ``$k, $v := …``, and what stands behind."""
        if ("mark", ":=") not in tokens:
            return [], tokens
        at = tokens.index(("mark", ":="))
        return [text for kind, text in tokens[:at] if kind == "path"], tokens[at + 1 :]

    # -- expressions ----------------------------------------------------------------------------------------------
    def _value(self, tokens: list[tuple[str, str]], dot: Any, *, lenient: bool = False) -> Any:
        """A pipeline: each command's value is the last argument of the next."""
        value, at = self._pipeline(tokens, 0, dot, lenient)
        if at != len(tokens):
            raise _bad(self._source, f"unexpected {tokens[at][1]!r}")
        return value

    def _pipeline(self, tokens: list[tuple[str, str]], at: int, dot: Any, lenient: bool) -> tuple[Any, int]:
        carried: list[Any] = []
        while True:
            value, at = self._command(tokens, at, dot, carried, lenient)
            if at < len(tokens) and tokens[at] == ("mark", "|"):
                carried, at = [value], at + 1
                continue
            return value, at

    def _command(
        self, tokens: list[tuple[str, str]], at: int, dot: Any, carried: list[Any], lenient: bool
    ) -> tuple[Any, int]:
        if at >= len(tokens):
            raise _bad(self._source, "an expression is missing")
        kind, text = tokens[at]
        if kind == "word" and text not in ("true", "false", "nil"):
            lenient = lenient or text in ("and", "or", "not", "index")
            arguments, at = self._arguments(tokens, at + 1, dot, lenient)
            return self._call(text, arguments + carried), at
        value, at = self._operand(tokens, at, dot, lenient)
        if callable(value):
            arguments, at = self._arguments(tokens, at, dot, lenient)
            return value(*arguments, *carried), at
        if carried:
            raise _bad(self._source, f"{text!r} is not a function: nothing can be piped into it")
        return value, at

    def _arguments(self, tokens: list[tuple[str, str]], at: int, dot: Any, lenient: bool) -> tuple[list[Any], int]:
        arguments = []
        while at < len(tokens) and tokens[at] not in (("mark", "|"), ("mark", ")")):
            value, at = self._operand(tokens, at, dot, lenient)
            arguments.append(value)
        return arguments, at

    def _operand(self, tokens: list[tuple[str, str]], at: int, dot: Any, lenient: bool) -> tuple[Any, int]:
        kind, text = tokens[at]
        if kind == "string":
            return text[1:-1] if text[0] == "`" else json.loads(text), at + 1
        if kind == "number":
            return float(text) if "." in text else int(text), at + 1
        if kind == "path":
            return self._path(text, dot, lenient), at + 1
        if (kind, text) == ("mark", "("):
            value, at = self._pipeline(tokens, at + 1, dot, lenient)
            if at >= len(tokens) or tokens[at] != ("mark", ")"):
                raise _bad(self._source, "a parenthesis is not closed")
            at += 1
            if at < len(tokens) and tokens[at][0] == "path" and tokens[at][1][0] == "." and len(tokens[at][1]) > 1:
                return self._path(tokens[at][1], value, lenient), at + 1
            return value, at
        if kind == "word" and text in ("true", "false", "nil"):
            return {"true": True, "false": False, "nil": None}[text], at + 1
        if kind == "word":
            return self._call(text, []), at + 1
        raise _bad(self._source, f"unexpected {text!r}")

    def _path(self, text: str, dot: Any, lenient: bool) -> Any:
        first, *names = text.split(".")
        if first and first not in self._variables:
            raise _bad(self._source, f"no such variable {first}")
        value = self._variables[first] if first else dot
        for name in filter(None, names):
            value = self._field(value, name, lenient)
        return value

    def _field(self, value: Any, name: str, lenient: bool) -> Any:
        if isinstance(value, dict):
            if name in value:
                return value[name]
            if lenient or not name[0].isupper():
                return _MISSING
            known = ", ".join(sorted(str(key) for key in value)) or "nothing"
            raise _bad(self._source, f"no field {name!r} here; there are: {known}", "")
        if lenient and not value:
            return _MISSING
        raise _bad(self._source, f"{show(value)!r} has no field {name!r}", "")

    def _call(self, name: str, arguments: list[Any]) -> Any:
        function = FUNCTIONS.get(name)
        if function is None:
            raise _bad(self._source, f"there is no function {name!r}")
        try:
            return function(*arguments)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise _bad(self._source, f"{name}: {error}") from None


def show(value: Any) -> str:
    """A value as Go prints it with ``%v``."""
    if isinstance(value, str):
        return value
    if isinstance(value, _Missing):
        return "<no value>"
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{show(item)}" for key, item in sorted(value.items())) + "]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(map(show, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON without methods, as Docker writes it."""
    if isinstance(value, dict):
        value = {key: item for key, item in value.items() if not callable(item)}
    if isinstance(value, _Missing):
        value = None
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(value, indent=indent, separators=separators, ensure_ascii=False)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key, _MISSING)
        elif isinstance(value, _Missing) or value is None:
            return ""
        else:
            value = value[key]
    return "" if isinstance(value, _Missing) else value  # the zero value of a map of strings


def _printf(pattern: str, *arguments: Any) -> str:
    left = list(arguments)

    def one(match: re.Match[str]) -> str:
        verb = match[2]
        if verb == "%":
            return "%"
        value = left.pop(0)
        if verb == "q":
            return json.dumps(show(value), ensure_ascii=False)
        if verb in "dfgxX":
            return str(f"%{match[1]}{verb}" % value)
        return f"%{match[1]}s" % show(value)

    return re.sub(r"%([-+ 0]*\d*(?:\.\d+)?)([a-zA-Z%])", one, pattern)


def _same(value: Any, *others: Any) -> bool:
    return any(value == other for other in others)


def _all(*values: Any) -> Any:
    return next((value for value in values if not value), values[-1])


def _any(*values: Any) -> Any:
    return next((value for value in values if value), values[-1])


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": to_json,
    "join": lambda items, glue: str(glue).join(map(show, items or [])),
    "split": lambda text, glue: text.split(glue),
    "upper": lambda text: show(text).upper(),
    "lower": lambda text: show(text).lower(),
    "title": lambda text: show(text).title(),
    "len": lambda value: len(value) if value else 0,
    "slice": lambda value, *bounds: value[slice(*bounds)] if len(bounds) > 1 else value[bounds[0] :],
    "truncate": lambda text, length: show(text)[:length],
    "index": _index,
    "print": lambda *values: "".join(map(show, values)),
    "println": lambda *values: " ".join(map(show, values)) + "\n",
    "printf": _printf,
    "eq": _same,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "and": _all,
    "or": _any,
    "not": lambda value: not value,
}
