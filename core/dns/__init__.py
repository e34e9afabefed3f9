"""The resolver of containers on user-defined networks, at 127.0.0.11 inside each of them.

::

    wire.py       messages: questions read, answers built (RFC 1035, 6891)
    zone.py       names of the container's networks, from files that engines write
    forward.py    everything else: asked of the servers upstream
    server.py     the two sockets, in the monitor's event loop
    stream.py     connections of clients that ask over TCP
    sockets.py    making the two sockets, in the container's network namespace

The monitor serves them, so they live as long as the container and need no engine. Standard library only, and cheap to
import: it becomes part of every monitor. It knows no event loop; what it needs of one is :class:`Loop`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

ADDRESS = "127.0.0.11"  # where Docker's images and tools look for it
UDP, TCP = "dns-udp", "dns-tcp"  # names of the descriptors, among those of a container


class Timer(Protocol):
    def cancel(self) -> None: ...


class Loop(Protocol):
    """What is used of the monitor's event loop (:class:`core.supervise.loop.Loop`). Events are those of epoll(7)."""

    def watch(self, fd: int, handler: Callable[[int], object], events: int = ...) -> None: ...

    def change(self, fd: int, events: int) -> None: ...

    def unwatch(self, fd: int) -> None: ...

    def after(self, seconds: float, action: Callable[[], None]) -> Timer: ...
