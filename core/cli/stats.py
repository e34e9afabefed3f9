"""``wharf stats``."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser, flag, form_option
from core.cli.output import Row, over, put, render_rows
from core.model import Container, Sample
from core.units import human_size

if TYPE_CHECKING:
    from core.engine import Engine

COLUMNS = (
    ("CONTAINER ID", "ID"),
    ("NAME", "Name"),
    ("CPU %", "CPUPerc"),
    ("MEM USAGE / LIMIT", "MemUsage"),
    ("MEM %", "MemPerc"),
    ("NET I/O", "NetIO"),
    ("BLOCK I/O", "BlockIO"),
    ("PIDS", "PIDs"),
)
_HEADERS = (("CONTAINER", "Container"),)
_TICK = 1.0  # seconds between two samples


def _options(parser: Parser) -> None:
    flag(parser, "-a", "--all", help="stopped containers too")
    flag(parser, "--no-stream", help="one result, then end")
    flag(parser, "--no-trunc", help="whole ids")
    form_option(parser)
    parser.add_argument("containers", nargs="*", metavar="CONTAINER", help="default: all that run")


@dataclass(frozen=True)
class _Meters:
    """One container between two samples; None: it does not run."""

    box: Container
    before: Sample | None
    now: Sample | None


async def run(engine: Engine, args: Arguments) -> int:
    """Rates need two samples: the first result comes after a second."""
    memory = (await engine.host_sample()).memory_total
    live = sys.stdout is not None and sys.stdout.isatty() and not args.no_stream
    if live:
        put("\x1b[2J", flush=True)
    before = {sample.id: sample for sample in await engine.stats(await _known(engine, args))}
    while True:
        await asyncio.sleep(_TICK)
        refs = await _known(engine, args)
        now = {sample.id: sample for sample in await engine.stats(refs)}
        boxes = [box for box in await engine.containers() if (box.id in refs if refs is not None else True)]
        rows = [
            _row(_Meters(box, before.get(box.id), now.get(box.id)), memory, truncate=not args.no_trunc)
            for box in boxes
            if box.id in now or args.all or args.containers
        ]
        lines = render_rows(rows, COLUMNS, args.format, headers=_HEADERS)
        put(over(lines) if live else "\n".join(lines), flush=True)
        if args.no_stream:
            return 0
        before = now


async def _known(engine: Engine, args: Arguments) -> list[str] | None:
    """The ids of the containers named. :raises NotFound: one of them does not exist"""
    return [(await engine.container(ref)).id for ref in args.containers] or None


def _row(meters: _Meters, host_memory: int, *, truncate: bool) -> Row:
    box, now = meters.box, meters.now
    names = {"ID": box.short_id if truncate else box.id, "Name": box.name, "Container": box.short_id}
    if now is None:
        empty = {"CPUPerc": "--", "MemUsage": "-- / --", "MemPerc": "--", "NetIO": "--", "BlockIO": "--", "PIDs": "--"}
        return {**names, **empty}
    limit = now.memory_limit or host_memory
    return {
        **names,
        "CPUPerc": f"{cpu_percent(meters.before, now):.2f}%",
        "MemUsage": f"{human_size(now.memory, binary=True)} / {human_size(limit, binary=True)}",
        "MemPerc": f"{100 * now.memory / limit if limit else 0:.2f}%",
        "NetIO": f"{human_size(now.net_rx)} / {human_size(now.net_tx)}",
        "BlockIO": f"{human_size(now.block_read)} / {human_size(now.block_write)}",
        "PIDs": str(now.pids),
    }


def cpu_percent(before: Sample | None, now: Sample) -> float:
    """100 is one CPU. 0 where there is no earlier sample, or the container was restarted in between."""
    if before is None or now.time <= before.time:
        return 0.0
    return max(0.0, (now.cpu_ns - before.cpu_ns) / 1e7 / (now.time - before.time))


COMMANDS = {
    "stats": Command(
        "[OPTIONS] [CONTAINER...]",
        _options,
        run,
        about="100 % is one whole CPU. Memory leaves out page cache that can be dropped.",
        examples=("wharf stats", "wharf stats --no-stream --format '{{.Name}} {{.CPUPerc}}'"),
    )
}
