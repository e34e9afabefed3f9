"""``wharf network stats``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag, form_option
from core.cli.output import Row, over, put, render_rows, shorten, visible
from core.model.netlook import rate
from core.units import human_size

if TYPE_CHECKING:
    from core.engine import Engine
    from core.model import InterfaceSample

_COLUMNS = (
    ("NAME", "Name"), ("NETWORK", "Network"), ("IFACE", "Interface"), ("RX/S", "RxRate"), ("TX/S", "TxRate"),
    ("RX", "Rx"), ("TX", "Tx"), ("DROPS", "Drops"), ("ERRORS", "Errors"),
)  # fmt: skip
_HEADERS = (("CONTAINER", "Container"), ("PACKETS IN", "RxPackets"), ("PACKETS OUT", "TxPackets"), ("HOST", "Host"))
_TICK = 1.0  # seconds between two samples
_WORD = 15  # columns at most for a name, so that a line fits into 80


def _options(parser: Parser) -> None:
    flag(parser, "--no-stream", help="one result, then end")
    flag(parser, "--no-trunc", help="whole names")
    form_option(parser)
    parser.add_argument("names", nargs="*", metavar="NETWORK|CONTAINER", help="default: all that run")


async def run(engine: Engine, args: Arguments) -> int:
    """Rates need two samples: the first result comes after a second."""
    live = sys.stdout is not None and sys.stdout.isatty() and not args.no_stream
    networks, refs = await _chosen(engine, args.names)
    before = {_key(one): one for one in await engine.interfaces()}
    if live:
        put("\x1b[2J", flush=True)
    while True:
        await asyncio.sleep(_TICK)
        names = {box.id: box.name for box in await engine.containers()}
        found = await engine.interfaces()
        wanted = [one for one in found if not args.names or one.network in networks or one.container in refs]
        rows = [_row(one, before.get(_key(one)), names.get(one.container, one.container[:12])) for one in wanted]
        lines = render_rows(rows, _COLUMNS, args.format, headers=_HEADERS) if args.format else _table(rows, args)
        put(over(lines) if live else "\n".join(lines), flush=True)
        if args.no_stream:
            return 0
        before = {_key(one): one for one in found}


async def _chosen(engine: Engine, words: Sequence[str]) -> tuple[set[str], set[str]]:
    """Names of networks, and ids of containers. :raises NotFound: neither has one of the names"""
    known = {one.name for one in await engine.networks()} if words else set()
    return known & set(words), {(await engine.container(word)).id for word in words if word not in known}


def _key(one: InterfaceSample) -> tuple[str, str, str]:
    return one.container, one.network, one.host or one.name


def _row(one: InterfaceSample, before: InterfaceSample | None, name: str) -> Row:
    seconds = one.time - before.time if before else 0.0
    rates = [rate(getattr(before, word, None), getattr(one, word), seconds) for word in ("rx_bytes", "tx_bytes")]
    rx, tx = ("--" if value is None else human_size(round(value)) for value in rates)
    return {
        "Container": one.container[:12],
        "Name": name,
        "Network": one.network,
        "Interface": one.name,
        "Host": one.host,
        "RxRate": rx,
        "TxRate": tx,
        "Rx": human_size(one.rx_bytes),
        "Tx": human_size(one.tx_bytes),
        "RxPackets": str(one.rx_packets),
        "TxPackets": str(one.tx_packets),
        "Drops": str(one.rx_dropped + one.tx_dropped),
        "Errors": str(one.rx_errors + one.tx_errors),
    }


def _table(rows: Sequence[Row], args: Arguments) -> list[str]:
    """Words to the left, numbers to the right, two blanks between."""
    most = 1000 if args.no_trunc else _WORD
    lines = [[head for head, _ in _COLUMNS]]
    lines += [[shorten(visible(str(row[key])), most) for _, key in _COLUMNS] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS))]
    return [
        "  ".join(
            cell.ljust(size) if i < 3 else cell.rjust(size)
            for i, (cell, size) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]


COMMANDS = {
    "network stats": Command(
        "[OPTIONS] [NETWORK|CONTAINER...]",
        _options,
        run,
        about="Received (RX) and sent (TX) as the container sees it: bytes each second, and since it was started.",
        examples=(
            "wharf network stats",
            "wharf network stats --no-stream web",
            "wharf network stats --format '{{.Name}} {{.Host}} {{.RxPackets}}' db",
        ),
    ),
}
