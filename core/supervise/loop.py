"""A small event loop on epoll for launcher and monitor: asyncio would more than double the memory of each monitor."""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
_FORGOTTEN = 64  # cancelled timers that are no trouble


class Timer:
    """Something to do later; :meth:`cancel` forgets it."""

    def __init__(self, action: Callable[[], None], forgotten: Callable[[], None]) -> None:
        """:param forgotten: called when it is cancelled before its time"""
        self.action: Callable[[], None] | None = action
        self._forgotten = forgotten

    def cancel(self) -> None:
        if self.action is not None:
            self.action = None
            self._forgotten()


class Loop:
    """Calls handlers when descriptors are ready and timers (monotonic) when they are due."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], object]] = {}
        self._new: set[int] = set()  # watched since the events of this round were taken
        self._timers: list[tuple[float, int, Timer]] = []
        self._forgotten = 0  # of them, at most: cancelled, and not taken out yet
        self._order = itertools.count()
        self._stopped = False

    def watch(self, fd: int, handler: Callable[[int], object], events: int = READ) -> None:
        """Call ``handler`` with the ready events of ``fd``. Hang-ups are always reported."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler
        self._new.add(fd)

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Forget ``fd``; at the latest right after it is closed, before its number comes to mean another file."""
        if self._handlers.pop(fd, None):
            try:
                self._epoll.unregister(fd)
            except OSError:
                pass  # closed: the kernel has forgotten it already

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        timer = Timer(action, self._forget)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def _forget(self) -> None:
        """Take cancelled timers out when they are the most: else whoever asks a thousand questions a second, each with
        a timer of some seconds, has us hold thousands."""
        self._forgotten += 1
        if self._forgotten > _FORGOTTEN and 2 * self._forgotten > len(self._timers):
            self._timers = [entry for entry in self._timers if entry[2].action is not None]
            heapq.heapify(self._timers)
            self._forgotten = 0

    def stop(self) -> None:
        self._stopped = True

    def run(self) -> None:
        """Until :meth:`stop`."""
        while not self._stopped:
            ready = self._epoll.poll(self._patience())
            self._new.clear()
            for fd, events in ready:
                # An earlier handler of this round may have closed it, and another file may have its number by now: what
                # that one has to say comes with the next round.
                handler = None if fd in self._new else self._handlers.get(fd)
                if handler:
                    handler(events)
            self._run_timers()

    def close(self) -> None:
        self._epoll.close()

    def _patience(self) -> float:
        while self._timers and self._timers[0][2].action is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            action, timer.action = timer.action, None
            if action:
                action()
