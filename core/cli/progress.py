"""Progress of transfers: a bar per layer on a terminal, a line per event elsewhere."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from core.cli.command import closing
from core.cli.output import visible
from core.errors import WharfError
from core.model import Image, LayerProgress, Pace, PullProgress, PushedLayer, PushProgress, Speed, Watcher
from core.units import human_size

if TYPE_CHECKING:
    from core.engine import Engine

_WORDS = {
    "waiting": "Pulling fs layer",
    "downloading": "Downloading",
    "unpacking": "Extracting",
    "reading": "Reading",
    "exists": "Already exists",
    "done": "Pull complete",
}
_ENDS = ("exists", "done")
_PUSH_WORDS = {
    "waiting": "Waiting",
    "preparing": "Preparing",
    "pushing": "Pushing",
    "exists": "Layer already exists",
    "done": "Pushed",
}
_BAR = 24  # cells: with figures and time left it fits 80 columns
_PUSH_ENDS = ("exists", "mounted", "done")


class _Screen:
    """Lines that are drawn over as long as they change, on a terminal; elsewhere each is written once."""

    def __init__(self, stream: TextIO, quiet: bool) -> None:
        self._stream = stream
        self._quiet = quiet
        self._live = stream.isatty()
        self._drawn = 0  # lines on the terminal that belong to us
        self._told: dict[str, str] = {}
        self._noticed = 0

    def _notices(self, notices: Sequence[str]) -> None:
        for notice in notices[self._noticed :]:
            self._write([f"Note: {visible(notice)}"], keep=True)
        self._noticed = len(notices)

    def _tell(self, key: str, phase: str, line: str) -> None:
        """Where nothing can be drawn over: a line when something has ended."""
        if self._told.get(key) != phase:
            self._told[key] = phase
            self._stream.write(f"{line}\n")

    def _write(self, lines: list[str], *, keep: bool = False) -> None:
        """Draw ``lines`` over those of the last time; with ``keep`` they stay, and the next go below."""
        if not self._live:
            self._stream.write("".join(f"{line}\n" for line in lines))
            self._stream.flush()
            return
        width = shutil.get_terminal_size().columns
        height = max(1, shutil.get_terminal_size().lines - 1)
        shown = lines[-height:]  # what has scrolled away cannot be drawn over
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        self._stream.write(up + "".join(f"\x1b[2K{line[: width - 1]}\n" for line in shown) + "\x1b[J")
        self._stream.flush()
        self._drawn = 0 if keep else len(shown)


class Progress(_Screen):
    """Shows :class:`PullProgress` on ``stream``.

    :param head: say first what is pulled, in docker's words
    """

    def __init__(self, stream: TextIO, *, quiet: bool = False, head: bool = False) -> None:
        super().__init__(stream, quiet)
        self._head = head
        self._message = ""
        self._pace = Pace()

    def show(self, progress: PullProgress) -> None:
        """Take up the next state."""
        if self._quiet:
            return
        self._notices(progress.notices)
        if self._head:
            if not progress.layers and progress.image is None:
                if self._live:  # until the registry has answered
                    self._write([visible(progress.message)])
                return
            self._head = False
            self._write([_heading(progress.reference)], keep=True)
        elif progress.message and progress.message != self._message:
            self._message = progress.message
            self._write([visible(progress.message)], keep=True)
        lines = [self._line(layer) for layer in progress.layers]
        if self._live:
            self._write([*lines, *self._sum(progress)])
            return
        for layer in progress.layers:
            if layer.phase in _ENDS:
                self._tell(layer.digest, layer.phase, f"{_short(layer.digest)}: {_WORDS[layer.phase]}")
        self._stream.flush()

    def _line(self, layer: LayerProgress) -> str:
        text = f"{_short(layer.digest)}: {_WORDS.get(layer.phase, layer.phase)}"
        return text if layer.phase in _ENDS else text + _bar(layer.done, layer.total)

    def _sum(self, progress: PullProgress) -> list[str]:
        """The last line while something is under way: how much, how fast, how long still."""
        speed = self._pace.take(progress, time.monotonic())
        if progress.image is not None or not speed.total:
            return []
        return [f"{human_size(speed.moved)}/{human_size(speed.total)}{_pace(speed)}"]


class _Line(_Screen):
    """One line for a whole transfer, which goes with its end."""

    def __init__(self, stream: TextIO, verb: str) -> None:
        super().__init__(stream, quiet=False)
        self._verb = verb
        self._speed = Pace()

    def show(self, progress: PullProgress) -> None:
        """Take up the next state."""
        speed = self._speed.take(progress, time.monotonic())
        if speed.moved:
            self._write([f"{self._verb}{_bar(speed.moved, speed.total)}{_pace(speed)}"])

    def clear(self) -> None:
        self._write([])


@contextlib.contextmanager
def transfer(verb: str, *, wanted: bool = True) -> Iterator[Watcher | None]:
    """For what has one result: a line on standard error tells meanwhile how far it is, where that is a terminal.

    :param verb: what is done, like ``Exporting``
    :param wanted: False where another program writes to the terminal at the same time
    """
    if not wanted or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    line = _Line(sys.stderr, verb)
    try:
        yield line.show
    finally:
        line.clear()


def _pace(speed: Speed) -> str:
    """``  12MB/s  42s left``, as far as it is known."""
    rate = f"  {human_size(speed.rate)}/s" if speed.rate is not None else ""
    return rate + (f"  {span(speed.left)} left" if speed.left is not None else "")


class PushLines(_Screen):
    """Shows :class:`PushProgress` on ``stream``."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        super().__init__(stream, quiet)
        self._head = True

    def show(self, progress: PushProgress) -> None:
        """Take up the next state."""
        if self._quiet:
            return
        if self._head:
            repository = progress.reference.rpartition(":")[0]
            self._write([f"The push refers to repository [{repository}]"], keep=True)
            self._head = False
        self._notices(progress.notices)
        lines = [(layer, f"{_short(layer.diffid)}: {_pushed_words(layer)}") for layer in progress.layers]
        if self._live:
            self._write([line + _bar(layer.done, layer.total, layer.phase == "pushing") for layer, line in lines])
            return
        for layer, line in lines:
            if layer.phase in _PUSH_ENDS:
                self._tell(layer.diffid, layer.phase, line)
        self._stream.flush()


def _pushed_words(layer: PushedLayer) -> str:
    return f"Mounted from {layer.source}" if layer.phase == "mounted" else _PUSH_WORDS.get(layer.phase, layer.phase)


def _bar(done: int, total: int, wanted: bool = True) -> str:
    if not done or not wanted:
        return ""
    if not total:
        return f"  {human_size(done)}"
    filled = min(_BAR, _BAR * done // total)
    return f" [{('=' * filled)[:-1] + '>':<{_BAR}}]  {human_size(done)}/{human_size(total)}"


def _heading(reference: str) -> str:
    """``12: Pulling from library/debian``; a digest is told with all that stands before it, as docker does."""
    name, at, _ = reference.partition("@")
    repository, _, tag = name.rpartition(":") if "/" not in name.rpartition(":")[2] else (name, "", "")
    return f"{reference if at else tag}: Pulling from {repository.partition('/')[2]}"


def span(seconds: float) -> str:
    """``42s``, ``3m05s``, ``1h20m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02}m"


def _short(digest: str) -> str:
    return digest.rpartition(":")[2][:12]


async def run_progress(steps: AsyncIterator[PullProgress], shown: Progress) -> list[tuple[str, Image]]:
    """Show all steps; returns the images that came of them, with the references they go by."""
    found: list[tuple[str, Image]] = []
    try:
        async for progress in steps:
            shown.show(progress)
            if progress.image is not None:
                found.append((progress.reference, progress.image))
    finally:
        # At once, not when it is collected: that is what cancels the downloads below.
        if isinstance(steps, AsyncGenerator):
            await steps.aclose()
    return found


async def pull_image(
    engine: Engine, reference: str, shown: Progress, *, insecure: bool = False, platform: str = ""
) -> PullProgress:
    """Pull one image with its progress shown; the last state, which has the image.

    :raises WharfError: as :meth:`Engine.pull`
    """
    last = None
    steps = engine.pull(reference, insecure=insecure, platform=platform)
    async with closing(steps):
        async for last in steps:
            shown.show(last)
    if last is None or last.image is None:
        raise WharfError(f"the pull of {reference} ended without an image")
    return last
