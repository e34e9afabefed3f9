"""What the caller of a pull or load sees while it runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine

from core.model import Image, LayerProgress, PullProgress

_LEAST = 0.05  # seconds between two reports: 20 a second is more than a screen shows


class Progress:
    """The state of all layers; changed by the workers, read by :func:`report`."""

    def __init__(self, reference: str, message: str) -> None:
        self.reference = reference
        self.changed = asyncio.Event()
        self.changed.set()
        self._message = message
        self._layers: list[LayerProgress] = []

    def say(self, message: str) -> None:
        self._message = message
        self.changed.set()

    def begin(self, layers: list[tuple[str, int]]) -> None:
        """The (digest, size) of each layer are known; all wait."""
        self._layers = [LayerProgress(digest, "waiting", 0, size) for digest, size in layers]
        self.say("")

    def set(self, position: int, phase: str, done: int) -> None:
        old = self._layers[position]
        self._layers[position] = LayerProgress(old.digest, phase, done, old.total)
        self.changed.set()

    def snapshot(self, image: Image | None = None) -> PullProgress:
        return PullProgress(self.reference, tuple(self._layers), self._message, image)


async def report(progress: Progress, work: Coroutine[None, None, Image]) -> AsyncGenerator[PullProgress, None]:
    """Run ``work`` and yield what :class:`Progress` shows; the last report has its image. Closing cancels the work."""
    task = asyncio.create_task(work, name=f"images {progress.reference}")
    try:
        while not task.done():
            news = asyncio.create_task(progress.changed.wait())
            await asyncio.wait({task, news}, return_when=asyncio.FIRST_COMPLETED)
            news.cancel()
            if task.done():
                break
            progress.changed.clear()
            said = time.monotonic()
            yield progress.snapshot()
            await asyncio.wait({task}, timeout=max(0.0, _LEAST - (time.monotonic() - said)))
        yield progress.snapshot(task.result())
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
