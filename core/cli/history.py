"""``wharf history``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag, form_option
from core.cli.output import Row, put, shorten, show_rows
from core.cli.views import ago
from core.units import human_size, rfc3339

if TYPE_CHECKING:
    from core.engine import Engine
    from core.model import HistoryEntry

_MISSING = "<missing>"
_COLUMNS = [
    ("IMAGE", "ID"),
    ("CREATED", "CreatedSince"),
    ("CREATED BY", "CreatedBy"),
    ("SIZE", "Size"),
    ("COMMENT", "Comment"),
]


def _options(parser: Parser) -> None:
    flag(parser, "--no-trunc", help="whole ids and commands")
    flag(parser, "-q", "--quiet", help="only ids")
    flag(parser, "-H", "--human", default=True, help="sizes and dates for people (on; --human=false: off)")
    form_option(parser)
    parser.add_argument("image", metavar="IMAGE")


async def run(engine: Engine, args: Arguments) -> int:
    """The last step first."""
    rows = [_row(entry, whole=args.no_trunc, human=args.human) for entry in await engine.history(args.image)]
    if args.quiet:
        for row in rows:
            put(row["ID"])
        return 0
    columns = _COLUMNS if args.human else [("CREATED AT" if head == "CREATED" else head, key) for head, key in _COLUMNS]
    show_rows(rows, columns, args.format, headers=(("CREATED AT", "CreatedAt"),))
    return 0


def _row(entry: HistoryEntry, *, whole: bool, human: bool) -> Row:
    short = entry.image.removeprefix("sha256:")[:12]
    command = entry.created_by.replace("\t", " ")
    created = _stamp(entry.created)
    return {
        "ID": (entry.image if whole else short) or _MISSING,
        "CreatedAt": created,
        "CreatedSince": (ago(entry.created) or "N/A") if human else created,
        "CreatedBy": command if whole else shorten(command, 45),
        "Size": human_size(entry.size) if human else str(entry.size),
        "Comment": entry.comment if whole else shorten(entry.comment, 45),
    }


def _stamp(when: float) -> str:
    """``2024-05-01T12:00:00+02:00``, in local time."""
    if not when:
        return rfc3339(0)
    text = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(when))
    return text[:-5] + "Z" if text.endswith("+0000") else f"{text[:-2]}:{text[-2:]}"


COMMANDS = {
    "history": Command(
        "[OPTIONS] IMAGE",
        _options,
        run,
        examples=("wharf history debian:12", "wharf history --no-trunc --format '{{.Size}} {{.CreatedBy}}' debian:12"),
    )
}
