"""Files and functions stay small enough to be read in one go."""

from __future__ import annotations

import ast
from pathlib import Path

HOUSE = Path(__file__).resolve().parents[2]
FILE_LINES = 400
FUNCTION_LINES = 60


def sources() -> list[Path]:
    return sorted(path for folder in ("core", "tui") for path in (HOUSE / folder).rglob("*.py"))


def test_files_are_short() -> None:
    long = {str(path.relative_to(HOUSE)): count for path in sources() if (count := lines(path)) > FILE_LINES}
    assert not long, f"over {FILE_LINES} lines: {long}"


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_functions_are_short() -> None:
    long = [
        f"{path.relative_to(HOUSE)}:{node.lineno}: {node.name} has {length} lines"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES
    ]
    assert not long, "\n".join(long)
