"""The processes that carry a container's traffic where the kernel does not: its proxy, its user's uplink."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.supervise import uplink
from core.supervise.proxying import Proxying

if TYPE_CHECKING:
    from core.supervise.monitor import Monitor
    from core.supervise.proxy import Order

_PAUSE = 0.2  # seconds until an uplink that was killed is replaced, by whichever monitor comes first
_LONG_PAUSE = 10.0


class Carriers:
    """Of a monitor that replaces one that was killed, unless :meth:`take` is called."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._replaces = True
        self._proxy = Proxying(monitor)
        self._closed = False

    def take(self, ports: Sequence[Order]) -> None:
        """Of a first start: for its proxy."""
        self._replaces = False
        self._proxy.take(ports)

    def start(self) -> None:
        """The container has been started, for the first time or again."""
        self._proxy.start()

    def serve(self, ports: Sequence[Order]) -> None:
        """Other ports than before."""
        self._proxy.serve(ports)

    def resume(self) -> None:
        """From here on they are watched; after everything was killed they are made again."""
        kept = self._monitor.kept
        if self._monitor.launch.uplink:
            if uplink.LINE in kept:
                self._monitor.loop.watch(kept[uplink.LINE], lambda events: self._heard())
            else:
                self._call()
        if self._replaces:
            self._proxy.resume()

    def close(self) -> None:
        self._closed = True
        self._proxy.close()
        if uplink.LINE in self._monitor.kept:
            self._monitor.loop.unwatch(self._monitor.kept[uplink.LINE])

    def _heard(self) -> None:
        """The uplink is ready, or cannot be; or it has ended."""
        fd = self._monitor.kept[uplink.LINE]
        with socket.socket(fileno=os.dup(fd)) as line:
            try:
                if line.recv(65536, socket.MSG_DONTWAIT):
                    return
            except BlockingIOError:
                return
            except OSError:
                pass
        self._monitor.loop.unwatch(fd)
        os.close(self._monitor.kept.pop(uplink.LINE))
        self._monitor.loop.after(_PAUSE, self._call)

    def _call(self) -> None:
        """Join the uplink that there is, or make one. What it says is not waited for: the container runs."""
        if self._closed:
            return
        try:
            line = uplink.join(self._monitor.launch.uplink)
        except OSError:
            self._monitor.loop.after(_LONG_PAUSE, self._call)
            return
        self._monitor.kept[uplink.LINE] = line.detach()
        self._monitor.loop.watch(self._monitor.kept[uplink.LINE], lambda events: self._heard())
        with contextlib.suppress(OSError):
            self._monitor.give_to_launcher()
