"""Rules of the workstation's code that no type checker knows.

* Names that Textual keeps private are used in ``tui/render`` only, and nobody takes one of them for his own.
* Outside text never becomes markup: one helper makes content, one helper notifies.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from textual.message_pump import MessagePump

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "tui").rglob("*.py"))
OUTSIDE = [path for path in FILES if "render" not in path.parts]
SHOWING = {"Static", "Label", "Button", "Checkbox", "RadioButton", "Toast", "Link", "Collapsible", "TabPane", "Tab"}
HELPER = ROOT / "tui" / "text.py"


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def nodes(path: Path) -> Iterator[ast.AST]:
    yield from ast.walk(ast.parse(path.read_text()))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_own(value: ast.expr) -> bool:
    """An object's private names are its own business, those of another object nobody's."""
    return isinstance(value, ast.Name) and value.id in ("self", "cls")


@pytest.mark.parametrize("path", OUTSIDE, ids=name_of)
def test_no_private_textual_names(path: Path) -> None:
    bad: list[str] = []
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("textual", "rich"):
            if any(is_private(part) for part in (node.module or "").split(".")):
                bad.append(f"{node.lineno}: from {node.module}")
            bad += [f"{node.lineno}: import {alias.name}" for alias in node.names if is_private(alias.name)]
        elif isinstance(node, ast.Import):
            bad += [f"{node.lineno}: import {a.name}" for a in node.names if any(map(is_private, a.name.split(".")))]
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and not is_own(node.value):
            bad.append(f"{node.lineno}: {ast.unparse(node)}")
    assert not bad


@cache
def private_names(base: type) -> frozenset[str]:
    """Private attributes of one class of Textual: those of the class and those set on ``self``."""
    found = {name for name in vars(base) if is_private(name)}
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(base)))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            found |= {node.attr} if is_private(node.attr) else set()
    return frozenset(found)


@pytest.mark.parametrize("path", OUTSIDE, ids=name_of)
def test_no_own_name_hides_one_of_textual(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    bad: list[str] = []
    for node in nodes(path):
        made = getattr(module, node.name, None) if isinstance(node, ast.ClassDef) else None
        if not (isinstance(made, type) and issubclass(made, MessagePump)):
            continue
        bases = [base for base in made.__mro__ if base.__module__.startswith("textual")]
        theirs = {name for base in bases for name in private_names(base)}
        for inner in ast.walk(node):
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and inner.name in theirs:
                bad.append(f"{inner.lineno}: {made.__name__}.{inner.name}")
            if (
                isinstance(inner, ast.Attribute)
                and isinstance(inner.ctx, ast.Store)
                and isinstance(inner.value, ast.Name)
                and inner.value.id == "self"
                and inner.attr in theirs
            ):
                bad.append(f"{inner.lineno}: {made.__name__}.{inner.attr}")
    assert not bad


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def is_helper(func: ast.expr) -> bool:
    """``notify(…)`` imported from tui.text, or ``text.notify(…)``."""
    return not isinstance(func, ast.Attribute) or (isinstance(func.value, ast.Name) and func.value.id == "text")


def is_built(value: ast.AST) -> bool:
    """A text put together here: formatted, concatenated or ``%``-ed."""
    if isinstance(value, ast.BinOp):
        return isinstance(value.op, ast.Mod) or is_built(value.left) or is_built(value.right)
    return isinstance(value, ast.JoinedStr) or (isinstance(value, ast.Call) and called(value) in ("format", "str"))


def is_title(target: ast.expr) -> bool:
    return isinstance(target, ast.Attribute) and target.attr in ("border_title", "border_subtitle", "tooltip")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_outside_text_never_becomes_markup(path: Path) -> None:
    bad: list[str] = []
    for node in nodes(path):
        if isinstance(node, ast.Call):
            name = called(node)
            options = {word.arg: word.value for word in node.keywords}
            unmarked = isinstance(markup := options.get("markup"), ast.Constant) and markup.value is False
            if name == "notify" and path != HELPER and not is_helper(node.func):
                bad.append(f"{node.lineno}: notify without tui.text.notify")
            if name == "from_markup":
                bad.append(f"{node.lineno}: from_markup")
            if isinstance(markup, ast.Constant) and markup.value is True:
                bad.append(f"{node.lineno}: markup=True")
            if name in SHOWING | {"update"} and node.args and is_built(node.args[0]) and not unmarked:
                bad.append(f"{node.lineno}: {ast.unparse(node)}: use tui.text.safe")
        # titles are parsed as markup where they are strings
        if isinstance(node, ast.Assign) and is_built(node.value) and any(map(is_title, node.targets)):
            bad.append(f"{node.lineno}: {ast.unparse(node)}: use tui.text.safe")
    assert not bad
