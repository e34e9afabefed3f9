"""What the caller of a transfer sees while it runs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from core.model import Image, LayerProgress, PullProgress, PushedLayer, PushProgress, Watcher

Result = TypeVar("Result", contravariant=True)
Step = TypeVar("Step", covariant=True)
T = TypeVar("T")

_LEAST = 0.05  # seconds between two reports: 20 a second is more than a screen shows


class Progress:
    """The state of all layers; changed by the workers, read by :func:`report` or :func:`watched`."""

    def __init__(self, reference: str, message: str) -> None:
        self.reference = reference
        self.changed = asyncio.Event()
        self.changed.set()
        self._message = message
        self._layers: list[LayerProgress] = []
        self._digest = ""
        self._changed = True
        self._notices: tuple[str, ...] = ()
        self._lock = threading.Lock()  # of one layer's line

    def ended(self, digest: str, *, changed: bool) -> None:
        """What the name stands for at the registry, and whether the store had something else, or nothing, before."""
        self._digest, self._changed = digest, changed

    def note(self, text: str) -> None:
        """Something that a user may want to know."""
        self._notices += (text,)
        self.changed.set()

    def say(self, message: str) -> None:
        self._message = message
        self.changed.set()

    def begin(self, layers: list[tuple[str, int]]) -> None:
        """The (digest, size) of each layer are known; all wait."""
        self._layers = [LayerProgress(digest, "waiting", 0, size) for digest, size in layers]
        self.say("")

    def set(self, position: int, phase: str, done: int) -> None:
        with self._lock:
            old = self._layers[position]
            # What was estimated may be less than what comes; 0 stays unknown.
            self._layers[position] = LayerProgress(old.digest, phase, done, max(old.total, done) if old.total else 0)
        self.changed.set()

    def phase(self, position: int, phase: str) -> None:
        """It is at another stage now, with as many bytes."""
        self.set(position, phase, self._layers[position].done)

    def expect(self, position: int, total: int) -> None:
        """It has become known how many bytes that one has, about."""
        with self._lock:
            old = self._layers[position]
            self._layers[position] = LayerProgress(old.digest, old.phase, old.done, max(total, old.done))
        self.changed.set()

    def snapshot(self, image: Image | None = None) -> PullProgress:
        layers = tuple(self._layers)
        if image is None:
            return PullProgress(self.reference, layers, self._message, notices=self._notices)
        return PullProgress(self.reference, layers, self._message, image, self._notices, self._digest, self._changed)


@dataclass(frozen=True)
class Pushed:
    """What came of a push: the manifest's digest and its size in bytes."""

    digest: str
    size: int


class PushState:
    """The same of a push; a layer that is in an image twice has one line."""

    def __init__(self, reference: str) -> None:
        self.reference = reference
        self.changed = asyncio.Event()
        self.changed.set()
        self._layers: dict[str, PushedLayer] = {}
        self._notices: tuple[str, ...] = ()

    def begin(self, diffids: Iterable[str]) -> None:
        self._layers = {diffid: PushedLayer(diffid, "waiting") for diffid in diffids}
        self.changed.set()

    def note(self, text: str) -> None:
        """Something that a user may want to know."""
        self._notices += (text,)
        self.changed.set()

    def set(self, diffid: str, phase: str, done: int = 0, total: int = 0, source: str = "") -> None:
        self._layers[diffid] = PushedLayer(diffid, phase, done, total, source)
        self.changed.set()

    def snapshot(self, pushed: Pushed | None = None) -> PushProgress:
        layers = tuple(self._layers.values())
        if pushed is None:
            return PushProgress(self.reference, layers, self._notices)
        return PushProgress(self.reference, layers, self._notices, pushed.digest, pushed.size)


class _Shown(Protocol[Result, Step]):
    """What :func:`report` needs to know of a state."""

    reference: str
    changed: asyncio.Event

    def snapshot(self, result: Result | None = None, /) -> Step: ...


async def report(progress: _Shown[Result, Step], work: Coroutine[None, None, Result]) -> AsyncGenerator[Step, None]:
    """Run ``work`` and yield what ``progress`` shows; the last report has its result. Closing cancels the work."""
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


async def watched(progress: Progress, work: Awaitable[T], watch: Watcher | None) -> T:
    """What ``work`` returns; ``watch`` is told meanwhile what ``progress`` shows. Cancelling cancels the work.

    Other threads may change ``progress``: it is looked at from time to time, and not waited for.
    """
    if watch is None:
        return await work

    async def tell(watch: Watcher) -> None:
        shown = None
        while True:
            await asyncio.sleep(_LEAST)
            if (now := progress.snapshot()) != shown:
                watch(now)
                shown = now

    teller = asyncio.create_task(tell(watch), name=f"progress {progress.reference}")
    try:
        result = await work
        watch(progress.snapshot())
        return result
    finally:
        teller.cancel()
        await asyncio.gather(teller, return_exceptions=True)
