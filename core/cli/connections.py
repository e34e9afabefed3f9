"""``wharf network connections``."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag, form_option
from core.cli.output import Row, over, put, render_rows, shorten, visible
from core.model.netlook import rate
from core.units import human_size

if TYPE_CHECKING:
    from core.engine import Engine
    from core.model import Connection

_COLUMNS = (
    ("NAME", "Name"), ("PROTO", "Protocol"), ("LOCAL", "Local"), ("REMOTE", "Remote"), ("VIA", "Via"),
    ("STATE", "State"), ("PID", "PID"), ("PROCESS", "Process"), ("SENT", "Sent"), ("RECEIVED", "Received"),
)  # fmt: skip
_HEADERS = (("CONTAINER", "Container"), ("SENT/S", "SentRate"), ("RECEIVED/S", "ReceivedRate"))
_TICK = 1.0  # seconds between two samples
_NARROW, _WIDE = 80, 116  # columns of a terminal; from the second on, what is translated is shown too


def _options(parser: Parser) -> None:
    flag(parser, "-a", "--all", help="also sockets that wait for callers, and connections that are over (time-wait)")
    flag(parser, "-w", "--watch", help="again each second, with rates, until interrupted")
    form_option(parser)
    parser.add_argument("containers", nargs="*", metavar="CONTAINER", help="default: all that run")


async def run(engine: Engine, args: Arguments) -> int:
    """Once; or live, where rates take the place of sums."""
    live = args.watch and sys.stdout is not None and sys.stdout.isatty()
    before = await engine.connections(args.containers or None, all=args.all)
    if not args.watch:
        await _show(engine, args, before, {}, live=False)
        return 0
    if live:
        put("\x1b[2J", flush=True)
    while True:
        await asyncio.sleep(_TICK)
        now = await engine.connections(args.containers or None, all=args.all)
        await _show(engine, args, now, {one.key: one for one in before}, live=live)
        before = now


async def _show(
    engine: Engine, args: Arguments, found: Sequence[Connection], before: Mapping[object, Connection], *, live: bool
) -> None:
    names = {box.id: box.name for box in await engine.containers()}
    rows = [_row(one, names.get(one.container, one.container[:12]), before.get(one.key)) for one in found]
    if args.format:
        lines = render_rows(rows, _COLUMNS, args.format, headers=_HEADERS)
    else:
        lines = _table(rows, shutil.get_terminal_size((_NARROW, 24)).columns, args, many=len(args.containers) != 1)
    put(over(lines) if live else "\n".join(lines), flush=True)


def _row(one: Connection, name: str, before: Connection | None) -> Row:
    seconds = one.time - before.time if before else 0.0
    sent, received = (rate(getattr(before, word, None), getattr(one, word), seconds) for word in ("sent", "received"))
    return {
        "Container": one.container[:12],
        "Name": name,
        "Protocol": one.protocol,
        "Local": _end(one.local_ip, one.local_port),
        "Remote": _end(one.remote or one.remote_ip, one.remote_port),
        "RemoteIP": one.remote_ip,
        "Via": one.via,
        "State": one.state,
        "PID": str(one.pid or ""),
        "Process": visible(one.process),
        "Sent": _size(one.sent),
        "Received": _size(one.received),
        "SentRate": _size(sent),
        "ReceivedRate": _size(received),
    }


def _end(where: str, port: int) -> str:
    shown = "*" if where in ("0.0.0.0", "::") else f"[{where}]" if ":" in where else where
    return f"{shown}:{port or '*'}"


def _size(count: float | None) -> str:
    return "--" if count is None else human_size(round(count))


def _table(rows: Sequence[Row], width: int, args: Arguments, *, many: bool) -> list[str]:
    """Narrow: a container has its own column where there may be several; the local end is its port."""
    heads = ["NAME"] * many + ["LOCAL", "REMOTE"] + ["VIA"] * (width >= _WIDE) + ["STATE", "PROCESS"]
    heads += ["SENT/S", "RCVD/S"] if args.watch else ["SENT", "RCVD"]
    lines = [heads]
    for row in rows:
        local = f"{row['Local'].rpartition(':')[2]}/{row['Protocol']}"
        process = f"{row['Process']}/{row['PID']}" if row["PID"] else "--"
        cells = (
            [row["Name"]] * many + [local, row["Remote"]] + [row["Via"]] * (width >= _WIDE) + [row["State"], process]
        )
        cells += [row["SentRate"], row["ReceivedRate"]] if args.watch else [row["Sent"], row["Received"]]
        lines.append([visible(cell) for cell in cells])
    return _fitted(lines, width)


def _fitted(lines: Sequence[Sequence[str]], width: int) -> list[str]:
    """Aligned, with two blanks between; the widest columns of words give way until all of it fits."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    words = [i for i, head in enumerate(lines[0]) if head in ("NAME", "REMOTE", "VIA", "PROCESS")]
    while sum(widths) + 2 * (len(widths) - 1) > width:
        widest = max(words, key=lambda i: widths[i])
        if widths[widest] <= 8:
            break
        widths[widest] -= 1
    return [
        "  ".join(shorten(cell, size).ljust(size) for cell, size in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


COMMANDS = {
    "network connections": Command(
        "[OPTIONS] [CONTAINER...]",
        _options,
        run,
        about="A far end that is a container has its name; callers of published ports are shown as they are, also\n"
        "where the host translates them. Bytes are the payload of TCP; of UDP they are known only where the host\n"
        "counts (sysctl net.netfilter.nf_conntrack_acct=1), headers included.",
        examples=(
            "wharf network connections web",
            "wharf network connections --watch",
            "wharf network connections --format '{{.Name}} {{.Remote}} {{.Via}} {{.Sent}}'",
        ),
    ),
}
