"""Progress of a pull or load: a bar per layer on a terminal, a line per event elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TextIO

from core.cli.output import visible
from core.engine import Engine
from core.errors import WharfError
from core.model import Image, LayerProgress, PullProgress
from core.units import human_size

_WORDS = {
    "waiting": "Waiting",
    "downloading": "Downloading",
    "unpacking": "Extracting",
    "exists": "Already exists",
    "done": "Pull complete",
}
_ENDS = ("exists", "done")


class Progress:
    """Shows :class:`PullProgress` on ``stream``."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._stream = stream
        self._quiet = quiet
        self._live = stream.isatty()
        self._drawn = 0  # lines on the terminal that belong to us
        self._told: dict[str, str] = {}
        self._message = ""

    def show(self, progress: PullProgress) -> None:
        """Take up the next state."""
        if self._quiet:
            return
        if progress.message and progress.message != self._message:
            self._message = progress.message
            self._write([visible(progress.message)], keep=True)
        lines = [self._line(layer) for layer in progress.layers]
        if self._live:
            self._write(lines)
            return
        for layer in progress.layers:
            if layer.phase in _ENDS and self._told.get(layer.digest) != layer.phase:
                self._told[layer.digest] = layer.phase
                self._stream.write(f"{_short(layer.digest)}: {_WORDS[layer.phase]}\n")
        self._stream.flush()

    def _line(self, layer: LayerProgress) -> str:
        text = f"{_short(layer.digest)}: {_WORDS.get(layer.phase, layer.phase)}"
        if layer.phase in _ENDS or not layer.done:
            return text
        if not layer.total:
            return f"{text}  {human_size(layer.done)}"
        filled = min(50, 50 * layer.done // layer.total)
        return f"{text} [{('=' * filled)[:-1] + '>':<50}]  {human_size(layer.done)}/{human_size(layer.total)}"

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


async def pull_image(engine: Engine, reference: str, shown: Progress, *, insecure: bool = False) -> Image:
    """Pull one image with its progress shown. :raises WharfError: as :meth:`Engine.pull`"""
    found = await run_progress(engine.pull(reference, insecure=insecure), shown)
    if not found:
        raise WharfError(f"the pull of {reference} ended without an image")
    return found[-1][1]
