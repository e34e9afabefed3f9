"""How the command line writes: lines, Docker's tables, and ``--format``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
Columns = Sequence[tuple[str, str]]  # (header, key)

_NARROWEST, _GAP = 10, 3  # Docker's tables: text/tabwriter(10, 1, 3)


def put(text: str, *, flush: bool = False) -> None:
    """One line on standard output; surrogate escapes become the bytes they stand for."""
    stream = sys.stdout
    if stream is None:  # started with standard output closed
        return
    stream.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")
    if flush:
        stream.buffer.flush()


def complain(text: str) -> None:
    """One line on standard error."""
    if sys.stderr is not None:
        print("wharf:", " ".join(text.split()), file=sys.stderr, flush=True)


def agreed(what: str) -> bool:
    """Ask on a terminal whether ``what`` may be removed; elsewhere nobody could answer."""
    print(f"WARNING! This will remove {what}.")
    if sys.stdin is None or not sys.stdin.isatty():
        complain("nothing is removed: there is no terminal to ask on (say --force)")
        return False
    return input("Are you sure you want to continue? [y/N] ").strip().lower() in ("y", "yes")


def silence() -> None:
    """The reader of our output has gone: whatever is still buffered goes nowhere, without a word."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def visible(text: str) -> str:
    """``text`` without anything that a terminal would act on."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def quoted(text: str) -> str:
    """Go's ``%q``: in double quotes, control characters escaped."""
    return visible(json.dumps(text, ensure_ascii=False))


def shorten(text: str, length: int) -> str:
    """At most ``length`` characters, cut with an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"


def table(lines: Iterable[Sequence[str]]) -> list[str]:
    """Cells to aligned lines; the last column is not padded."""
    rows = [[visible(cell) for cell in line] for line in lines]
    count = max((len(row) for row in rows), default=0)
    widths = [max([_NARROWEST - _GAP, *(len(row[i]) for row in rows if i < len(row))]) + _GAP for i in range(count)]
    return ["".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]


def over(lines: Iterable[str]) -> str:
    """The lines drawn from the top of the terminal, each to its end, over what stood there."""
    return "\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J"


def show_rows(rows: Sequence[Row], columns: Columns, form: str | None, *, headers: Columns = ()) -> None:
    """Print ``rows`` as docker's list commands do.

    :param columns: those of the default table
    :param form: None or ``table``; ``table TEMPLATE``; ``json``; a template for each row
    :param headers: what heads further keys that ``table TEMPLATE`` may use
    :raises InvalidArgument: the template
    """
    for line in render_rows(rows, columns, form, headers=headers):
        put(line)


def render_rows(rows: Sequence[Row], columns: Columns, form: str | None, *, headers: Columns = ()) -> list[str]:
    """The lines of :func:`show_rows`."""
    form = form or "table"
    if form == "table":
        return table([[header for header, _ in columns], *([str(row[key]) for _, key in columns] for row in rows)])
    from core.cli.template import Template, to_json  # late: plain tables are what scripts and people wait for

    if form == "json":
        return [to_json(dict(row)) for row in rows]
    in_table = form.startswith("table ")
    template = Template(unescape(form.removeprefix("table ")))
    lines = [template.render(row) for row in rows]
    if not in_table:
        return lines
    heads: dict[str, Any] = {key: key.upper() for row in rows[:1] for key in row}
    heads.update({key: header for header, key in [*headers, *columns]})
    heads["Label"] = lambda key: key.rpartition(".")[2].upper()
    return table([line.split("\t") for line in [template.render(heads), *lines]])


def unescape(form: str) -> str:
    r"""``\t`` and ``\n`` as typed in a shell's quotes, as docker reads them."""
    return form.replace("\\t", "\t").replace("\\n", "\n")
