"""``wharf stop``, ``restart``, ``kill``, ``pause``, ``unpause`` and ``wait``: one engine call per container."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from core.cli.command import Arguments, Command, Parser
from core.cli.output import complain, put
from core.errors import WharfError

if TYPE_CHECKING:
    from core.engine import Engine

_AT_ONCE = 16  # containers worked on at the same time


SILENT = object()  # what came of work whose object there is not: its name is not printed


async def each(refs: Sequence[str], work: Callable[[str], Awaitable[object]], *, answer: bool = False) -> int:
    """Do ``work`` for all, side by side, and print each name as it is done (or with ``answer`` what came of it).

    :returns: 0, or the exit code of the last error; all errors are reported, and none stops the others
    """
    if len(refs) == 1:
        result = await work(refs[0])
        if result is not SILENT:
            put(str(result) if answer else refs[0])
        return 0
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(ref: str) -> object:
        async with gate:
            return await work(ref)

    code = 0
    tasks = [asyncio.create_task(one(ref)) for ref in refs]
    try:
        for ref, task in zip(refs, tasks, strict=True):
            try:
                result = await task
                if result is not SILENT:
                    put(str(result) if answer else ref, flush=True)
            except WharfError as error:
                complain(str(error))
                code = 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return code


def _containers(parser: Parser) -> None:
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


def _grace(parser: Parser) -> None:
    parser.add_argument(
        "-t", "--time", "--timeout", dest="time", type=float, metavar="S", help="seconds before SIGKILL (10)"
    )
    _containers(parser)


def _signal(parser: Parser) -> None:
    parser.add_argument("-s", "--signal", default="KILL", metavar="SIGNAL", help="a name or number (KILL)")
    _containers(parser)


async def _stop(engine: Engine, args: Arguments) -> int:
    return await each(args.containers, lambda ref: engine.stop(ref, timeout=args.time))


async def _restart(engine: Engine, args: Arguments) -> int:
    return await each(args.containers, lambda ref: engine.restart(ref, timeout=args.time))


async def _kill(engine: Engine, args: Arguments) -> int:
    return await each(args.containers, lambda ref: engine.kill(ref, args.signal))


async def _pause(engine: Engine, args: Arguments) -> int:
    return await each(args.containers, engine.pause)


async def _unpause(engine: Engine, args: Arguments) -> int:
    return await each(args.containers, engine.unpause)


async def _wait(engine: Engine, args: Arguments) -> int:
    return await each(args.containers, engine.wait, answer=True)


_MANY = "CONTAINER [CONTAINER...]"
COMMANDS = {
    "stop": Command(f"[OPTIONS] {_MANY}", _grace, _stop, examples=("wharf stop web", "wharf stop -t 30 db")),
    "restart": Command(f"[OPTIONS] {_MANY}", _grace, _restart, examples=("wharf restart web",)),
    "kill": Command(f"[OPTIONS] {_MANY}", _signal, _kill, examples=("wharf kill web", "wharf kill -s HUP web")),
    "pause": Command(_MANY, _containers, _pause, examples=("wharf pause web",)),
    "unpause": Command(_MANY, _containers, _unpause, examples=("wharf unpause web",)),
    "wait": Command(
        _MANY,
        _containers,
        _wait,
        about="Prints an exit code per container; -1 where nobody can know it.",
        examples=("wharf wait job",),
    ),
}
