"""``wharf logs``."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, BinaryIO

from core.cli.command import Arguments, Command, Parser, closing, flag, reading
from core.errors import InvalidArgument
from core.units import parse_when

if TYPE_CHECKING:
    from core.engine import Engine
    from core.model import LogLine

_FLUSH = 0.02  # seconds that lines of a busy log are gathered before they are shown


def _options(parser: Parser) -> None:
    flag(parser, "-f", "--follow", help="go on with what comes, until the container ends")
    parser.add_argument("-n", "--tail", default="all", metavar="N", help="only the last N lines")
    parser.add_argument("--since", metavar="TIME", help="from this time on: a time stamp, or an age like 10m")
    parser.add_argument("--until", metavar="TIME", help="up to this time")
    flag(parser, "-t", "--timestamps", help="with the time of each line")
    flag(parser, "--details", help="accepted for docker's sake: our lines have no attributes")
    parser.add_argument("container", metavar="CONTAINER")


async def run(engine: Engine, args: Arguments) -> int:
    """Standard output to ours, standard error to ours, byte by byte as the container wrote it."""
    with reading():
        tail = _count(args.tail)
        since = parse_when(args.since) if args.since else None
        until = parse_when(args.until) if args.until else None
    writer = _Writer(args.timestamps, live=args.follow)
    lines = engine.logs(args.container, tail=tail, since=since, until=until, follow=args.follow)
    try:
        # Closed here, not by the garbage collector: the engine is gone by then.
        async with closing(lines):
            async for line in lines:
                writer.write(line)
    except asyncio.CancelledError:
        if writer.broken is None:
            raise
        raise writer.broken from None
    finally:
        writer.stop()
    writer.flush()
    return 0


def _count(text: str) -> int | None:
    if text == "all":
        return None
    try:
        return None if int(text) < 0 else int(text)
    except ValueError:
        raise InvalidArgument(f"invalid --tail {text!r}", "it is a number of lines, or all") from None


class _Writer:
    """Records to our streams. A line that was split is put together again, with one time stamp."""

    def __init__(self, times: bool, *, live: bool) -> None:
        self._times = times
        self._live = live
        self._streams: dict[str, BinaryIO] = {}
        for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
            if stream is not None:
                stream.flush()
                self._streams[name] = stream.buffer
        self._amid: set[str] = set()  # streams of which a line is under way
        self._last = ""
        self._due: asyncio.TimerHandle | None = None
        self._task = asyncio.current_task()
        self.broken: BrokenPipeError | None = None  # the reader of our output has gone

    def write(self, line: LogLine) -> None:
        out = self._streams.get(line.stream)
        if out is None:
            return
        if line.stream != self._last:
            # The order between the two streams is kept where both go to one terminal.
            self.flush()
            self._last = line.stream
        data = line.text.encode("utf-8", "surrogateescape")
        if self._times and line.stream not in self._amid:
            data = line.time.encode() + b" " + data
        if line.partial:
            self._amid.add(line.stream)
        else:
            self._amid.discard(line.stream)
            data += b"\n"
        out.write(data)
        if self._live and self._due is None:
            self._due = asyncio.get_running_loop().call_later(_FLUSH, self._timed_flush)

    def _timed_flush(self) -> None:
        self._due = None
        try:
            self.flush()
        except BrokenPipeError as error:
            # Raised in a callback it would be lost: the verb is woken, and raises it.
            self.broken = error
            if self._task:
                self._task.cancel()

    def stop(self) -> None:
        """No flush by the clock any more: it would break into the engine's own end where the reader has gone."""
        if self._due is not None:
            self._due.cancel()

    def flush(self) -> None:
        for out in self._streams.values():
            out.flush()


COMMANDS = {
    "logs": Command(
        "[OPTIONS] CONTAINER",
        _options,
        run,
        examples=("wharf logs -f --tail 100 web", "wharf logs --since 10m -t web", "wharf logs web 2>/dev/null"),
    )
}
